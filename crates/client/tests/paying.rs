//! What a purchase does when everybody behaves, and what is asked before anything is signed.

#[cfg(test)]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pay402_client::{
    AssetRule, OwnerPolicy, PayError, PayingClient, PaymentStatus, Preview, ReceiptStatus,
};
use pay402_core::asset::{AssetId, canonical_address};
use pay402_core::error::Unavailable;
use pay402_core::scheme::Unplanned;
use pay402_core::spend::{Denied, Verdict};
use pay402_core::time::{Clock, UnixTime};
use pay402_core::{Price, WireVersion};
use serde_json::json;
use support::server::{Server, ask, ask_v1, claim_paid, plain, sell, with_header};
use support::{DAI, EURC, NONCE_BEGINS, PAYEE, TX, USDC, World, get, network, offer, required};

#[tokio::test]
async fn a_402_is_paid_and_the_content_delivered() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => ask(&required("", vec![offer("10000", USDC)])),
        Some(_) => sell(&chain, seen),
    })
    .await;
    let paid = world.client().execute(get(&server.url("/data?q=1"))).await.unwrap();
    assert_eq!(paid.receipt.status, ReceiptStatus::Settled);
    assert_eq!(paid.receipt.transaction.as_deref(), Some(TX));
    let terms = paid.receipt.terms.unwrap();
    assert_eq!(
        (terms.units().as_str(), terms.pay_to.as_str()),
        ("0.01 USDC", &*PAYEE.to_lowercase())
    );
    assert_eq!(paid.response.text().await.unwrap(), "content");
    assert_eq!(world.books().await, (10_000, 0));
    // What was signed is what was offered.
    let payment = server.paid()[0].payment().unwrap();
    assert_eq!(payment.version, WireVersion::V2);
    assert_eq!(payment.accepted.unwrap(), offer("10000", USDC));
    assert_eq!(payment.payload["authorization"]["value"], "10000");
    assert_eq!(server.seen()[1].path, "/data?q=1");
}

#[tokio::test]
async fn the_same_request_buys_again_after_it_settled() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => ask(&required("", vec![offer("10000", USDC)])),
        Some(_) => sell(&chain, seen),
    })
    .await;
    let client = world.client();
    for _ in 0..3 {
        client.execute(get(&server.url("/"))).await.unwrap();
    }
    assert_eq!(world.scheme.nonces().len(), 3);
    assert_eq!(world.books().await, (30_000, 0));
}

#[tokio::test]
async fn what_is_free_costs_nothing_and_errors_are_the_servers() {
    let world = World::new();
    let server = Server::start(|seen, _| match seen.path.as_str() {
        "/free" => plain(200, "free"),
        _ => plain(404, "nothing here"),
    })
    .await;
    let free = world.client().execute(get(&server.url("/free"))).await.unwrap();
    assert_eq!(free.receipt.status, ReceiptStatus::Free);
    assert_eq!(free.response.text().await.unwrap(), "free");
    let missing = world.client().execute(get(&server.url("/missing"))).await.unwrap();
    assert_eq!(missing.response.status(), 404);
    assert_eq!(world.scheme.signed().len(), 0);
}

#[tokio::test]
async fn version_1_is_paid_from_the_body() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => ask_v1(&required("", vec![offer("10000", USDC)])),
        Some(_) => sell(&chain, seen),
    })
    .await;
    let paid = world.client().execute(get(&server.url("/"))).await.unwrap();
    assert_eq!(paid.receipt.status, ReceiptStatus::Settled);
    let seen = &server.paid()[0];
    assert!(seen.headers.contains_key("x-payment"));
    assert!(!seen.headers.contains_key("payment-signature"));
    assert_eq!(seen.payment().unwrap().version, WireVersion::V1);
}

#[tokio::test]
async fn bodies_methods_and_headers_are_sent_again_with_the_payment() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => ask(&required("", vec![offer("10000", USDC)])),
        Some(_) => sell(&chain, seen),
    })
    .await;
    let mut request = get(&server.url("/post"));
    *request.method_mut() = reqwest::Method::POST;
    request.headers_mut().insert("x-mine", "yes".parse().unwrap());
    // A payment of the caller's own would bypass the rules.
    request.headers_mut().insert("payment-signature", "forged".parse().unwrap());
    *request.body_mut() = Some("hello".into());
    world.client().execute(request).await.unwrap();
    for seen in server.seen() {
        assert_eq!((seen.method.as_str(), seen.body.as_slice()), ("POST", &b"hello"[..]));
        assert_eq!(seen.headers["x-mine"], "yes");
        assert_ne!(seen.payment_bytes().as_deref(), Some(&b"forged"[..]));
    }
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_streaming_body_is_refused_before_anything_is_sent() {
    let world = World::new();
    let server = Server::start(|_, _| plain(200, "")).await;
    let mut request = get(&server.url("/"));
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>("hello")]);
    *request.body_mut() = Some(reqwest::Body::wrap_stream(chunks));
    let error = world.client().execute(request).await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("usage", 2));
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn extensions_are_echoed_and_the_identifier_proves_the_payer() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => {
            let mut required = required("", vec![offer("10000", USDC)]);
            let identifier = json!({"info": {"required": true}, "schema": {"type": "object"}});
            required.extensions.insert("payment-identifier".into(), identifier);
            required.extensions.insert("other".into(), json!({"info": {"a": 1}}));
            ask(&required)
        }
        Some(_) => sell(&chain, seen),
    })
    .await;
    world.client().execute(get(&server.url("/"))).await.unwrap();
    let payment = server.paid()[0].payment().unwrap();
    assert!(payment.payment_identifier().is_some_and(|id| id.len() == 64));
    assert_eq!(payment.extensions["payment-identifier"]["info"]["required"], true);
    assert_eq!(payment.extensions["other"], json!({"info": {"a": 1}}));
}

#[tokio::test]
async fn the_cheapest_dollar_offer_wins_by_our_own_decimals() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => {
            let strange = offer("1", "0x0000000000000000000000000000000000000bad");
            // 0.02 DAI has far more atomic units than 0.03 USDC, and is cheaper.
            let dai = offer("20000000000000000", DAI);
            ask(&required("", vec![strange, offer("1", EURC), offer("30000", USDC), dai]))
        }
        Some(_) => sell(&chain, seen),
    })
    .await;
    let paid = world.client().execute(get(&server.url("/"))).await.unwrap();
    assert_eq!(paid.receipt.terms.unwrap().units(), "0.02 DAI");
}

#[tokio::test]
async fn a_denied_offer_gives_way_to_an_allowed_one() {
    let mut world = World::new();
    world.policy = OwnerPolicy::new().only_assets([AssetId::new(network(), USDC)]);
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => ask(&required("", vec![offer("1000000000", DAI), offer("30000", USDC)])),
        Some(_) => sell(&chain, seen),
    })
    .await;
    let paid = world.client().execute(get(&server.url("/"))).await.unwrap();
    assert_eq!(paid.receipt.terms.unwrap().units(), "0.03 USDC");
}

#[tokio::test]
async fn no_payable_offer_says_why_for_each() {
    let world = World::new();
    let server = Server::start(|_, _| {
        let mut upto = offer("1", USDC);
        upto.scheme = pay402_core::Scheme::new("upto\u{1b}[2J");
        ask(&required("", vec![offer("1", "0x0000000000000000000000000000000000000bad"), upto]))
    })
    .await;
    let error = world.client().execute(get(&server.url("/"))).await.unwrap_err();
    let PayError::NoRail { declined, .. } = &error else { panic!("{error:?}") };
    assert_eq!(declined.len(), 2);
    assert!(error.to_string().contains("not in the table"), "{error}");
    assert!(!error.to_string().contains('\u{1b}'), "a server may not repaint a terminal");
}

#[tokio::test]
async fn rules_stop_a_payment_before_it_is_signed() {
    let cases = [
        (offer("1000001", USDC), "over_max", 6, "max_per_payment"),
        (offer("5", EURC), "policy_denied", 11, "asset_without_rule"),
        (offer("0", USDC), "policy_denied", 11, "zero_amount"),
    ];
    for (asked, code, exit, rule) in cases {
        let world = World::new();
        let server = Server::start(move |_, _| ask(&required("", vec![asked.clone()]))).await;
        let error = world.client().execute(get(&server.url("/"))).await.unwrap_err();
        assert_eq!((error.code(), error.exit_code()), (code, exit), "{error}");
        assert_eq!(error.denied().map(|denied| denied.rule), Some(rule));
        assert_eq!(error.payment_status(), PaymentStatus::NotSent);
        assert_eq!((world.scheme.signed().len(), server.paid().len()), (0, 0));
        assert_eq!(world.books().await, (0, 0));
    }
}

#[tokio::test]
async fn an_asset_rule_admits_what_is_no_dollar() {
    let mut world = World::new();
    let rule = AssetRule { per_payment: 5.into(), total: 5.into() };
    world.policy = OwnerPolicy::new().asset_rule(AssetId::new(network(), EURC), rule);
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => ask(&required("", vec![offer("5", EURC)])),
        Some(_) => sell(&chain, seen),
    })
    .await;
    world.client().execute(get(&server.url("/"))).await.unwrap();
    let error = world.client().execute(get(&server.url("/"))).await.unwrap_err();
    assert_eq!(error.denied().map(|denied| denied.rule), Some("total_budget"));
}

#[tokio::test]
async fn the_signed_lifetime_is_the_owners() {
    for (asked, signed) in [(10, 10), (300, 300), (1_000_000_000, 300), (u64::MAX, 300)] {
        let world = World::new();
        let chain = Arc::clone(&world.chain);
        let server = Server::start(move |seen, _| match seen.payment() {
            None => {
                let mut offer = offer("10000", USDC);
                offer.max_timeout_seconds = asked;
                ask(&required("", vec![offer]))
            }
            Some(_) => sell(&chain, seen),
        })
        .await;
        world.client().execute(get(&server.url("/"))).await.unwrap();
        let plan = world.scheme.signed()[0].reservation().plan.clone();
        assert_eq!(plan.valid_before, UnixTime(world.clock.now().0 + signed));
        assert!(plan.valid_after < world.clock.now());
        // The offer is echoed as it came all the same.
        let accepted = server.paid()[0].payment().unwrap().accepted.unwrap();
        assert_eq!(accepted.max_timeout_seconds, asked);
    }
}

#[tokio::test]
async fn a_resource_of_another_origin_is_a_lure() {
    let world = World::new();
    let server = Server::start(|_, _| {
        ask(&required("https://bank.example/x?secret", vec![offer("1", USDC)]))
    })
    .await;
    let error = world.client().execute(get(&server.url("/"))).await.unwrap_err();
    assert_eq!(error.denied().map(|denied| denied.rule), Some("resource_origin"));
    assert_eq!(error.exit_code(), 11);
    assert!(!error.to_string().contains("secret"), "{error}");
    assert_eq!(world.scheme.signed().len(), 0);
}

#[tokio::test]
async fn redirects_stay_inside_the_origin_and_never_carry_a_payment() {
    let world = World::new();
    let elsewhere = Server::start(|_, _| claim_paid()).await;
    let target = elsewhere.url("/take");
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match (seen.path.as_str(), seen.payment()) {
        ("/moved", _) => with_header(plain(307, ""), "location", "/here"),
        ("/away", _) => with_header(plain(307, ""), "location", &target),
        ("/loop", _) => with_header(plain(302, ""), "location", "/loop"),
        ("/late", None) | ("/here", None) => ask(&required("", vec![offer("10000", USDC)])),
        ("/late", Some(_)) => with_header(plain(307, ""), "location", &target),
        _ => sell(&chain, seen),
    })
    .await;
    let client = world.client();
    let paid = client.execute(get(&server.url("/moved"))).await.unwrap();
    assert_eq!(paid.receipt.status, ReceiptStatus::Settled);

    let error = client.execute(get(&server.url("/away"))).await.unwrap_err();
    assert_eq!(error.denied().map(|denied| denied.rule), Some("redirect_origin"));
    let error = client.execute(get(&server.url("/loop"))).await.unwrap_err();
    assert_eq!((error.code(), error.payment_status()), ("network", PaymentStatus::NotSent));

    // After paying, a redirect is the answer; nobody follows it.
    let paid = client.execute(get(&server.url("/late"))).await.unwrap();
    assert_eq!(paid.response.status(), 307);
    assert_eq!(paid.receipt.status, ReceiptStatus::Unknown);
    assert_eq!(elsewhere.seen().len(), 0, "another origin was asked");
    assert_eq!(world.books().await, (10_000, 10_000));
}

#[tokio::test]
async fn a_303_becomes_a_get_without_body() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match (seen.path.as_str(), seen.payment()) {
        ("/form", _) => with_header(plain(303, ""), "location", "/result"),
        (_, None) => ask(&required("", vec![offer("10000", USDC)])),
        (_, Some(_)) => sell(&chain, seen),
    })
    .await;
    let mut request = get(&server.url("/form"));
    *request.method_mut() = reqwest::Method::POST;
    *request.body_mut() = Some("hello".into());
    world.client().execute(request).await.unwrap();
    let paid = &server.paid()[0];
    assert_eq!((paid.method.as_str(), paid.path.as_str()), ("GET", "/result"));
    assert!(paid.body.is_empty());
}

#[tokio::test]
async fn malformed_offers_are_named_and_never_paid() {
    let bodies = [
        "",
        "{}",
        "not json",
        r#"{"x402Version":3,"accepts":[]}"#,
        r#"{"x402Version":1,"error":"","accepts":[{"scheme":"exact","network":"base-sepolia","maxAmountRequired":"-1","asset":"a","payTo":"b","maxTimeoutSeconds":60}]}"#,
        r#"{"x402Version":1,"error":"","accepts":[{"scheme":"exact","network":"base-sepolia","maxAmountRequired":"1e3","asset":"a","payTo":"b","maxTimeoutSeconds":60}]}"#,
        r#"{"x402Version":1,"error":"","accepts":[{"scheme":"exact","network":"base-sepolia","maxAmountRequired":"115792089237316195423570985008687907853269984665640564039457584007913129639936","asset":"a","payTo":"b","maxTimeoutSeconds":60}]}"#,
        r#"{"x402Version":1,"error":"","accepts":[{"scheme":"exact","network":"base-sepolia","maxAmountRequired":"1.5","asset":"a","payTo":"b","maxTimeoutSeconds":60}]}"#,
    ];
    for body in bodies {
        let world = World::new();
        let server = Server::start(move |_, _| plain(402, body)).await;
        let error = world.client().execute(get(&server.url("/?key=secret"))).await.unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("malformed_offer", 5), "{body}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(world.scheme.signed().len(), 0);
    }
    let world = World::new();
    let large = format!(r#"{{"x402Version":1,"pad":"{}","accepts":[]}}"#, "x".repeat(1 << 20));
    let server = Server::start(move |_, _| plain(402, &large)).await;
    let error = world.client().execute(get(&server.url("/"))).await.unwrap_err();
    assert_eq!(error.code(), "malformed_offer");
    let server =
        Server::start(|_, _| with_header(plain(402, "{}"), "payment-required", "!!!")).await;
    let error = world.client().execute(get(&server.url("/"))).await.unwrap_err();
    assert_eq!(error.code(), "malformed_offer");
}

#[tokio::test]
async fn a_preview_signs_and_reserves_nothing() {
    let mut world = World::new();
    world.policy = OwnerPolicy::new().total(Price::parse("$0.50").unwrap());
    let server = Server::start(|seen, _| match seen.path.as_str() {
        "/free" => plain(204, ""),
        _ => ask(&required("", vec![offer("600000", USDC), offer("10000", USDC)])),
    })
    .await;
    let client = world.client();
    let Preview::Free { status } = client.quote_only(get(&server.url("/free"))).await.unwrap()
    else {
        panic!("it is free")
    };
    assert_eq!(status, 204);
    let Preview::Priced(priced) = client.quote_only(get(&server.url("/"))).await.unwrap() else {
        panic!("it has a price")
    };
    assert_eq!(priced.chosen, Some(0));
    assert_eq!(priced.candidates[0].terms.units(), "0.01 USDC");
    assert_eq!(priced.candidates[0].remaining, Some(500_000.into()));
    let Verdict::Deny(denied) = &priced.candidates[1].verdict else { panic!("it is too dear") };
    assert_eq!(denied.rule, "total_budget");
    assert!(priced.open.is_none());
    assert_eq!((world.scheme.signed().len(), server.paid().len()), (0, 0));
    assert_eq!(world.books().await, (0, 0));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_network_error() {
    let world = World::new();
    let url = {
        let server = Server::start(|_, _| plain(200, "")).await;
        server.url("/?key=secret")
    };
    // The port is free again once the listener's task has gone.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let error = world.client().execute(get(&url)).await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("network", 4));
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_signer_that_fails_frees_the_reservation() {
    let world = World::new();
    let server = Server::start(|_, _| ask(&required("", vec![offer("10000", USDC)]))).await;
    world.scheme.broken.store(true, Ordering::SeqCst);
    let error = world.client().execute(get(&server.url("/"))).await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("signing_failed", 8));
    assert_eq!(error.payment_status(), PaymentStatus::NotSent);
    assert_eq!(world.books().await, (0, 0));
}

#[tokio::test]
async fn nothing_that_can_be_printed_holds_the_payment() {
    let world = World::new();
    let server = Server::start(|seen, _| match seen.payment() {
        None => ask(&required("", vec![offer("10000", USDC)])),
        Some(_) => plain(500, "oops"),
    })
    .await;
    let client = world.client();
    let paid = client.execute(get(&server.url("/"))).await.unwrap();
    let header = String::from_utf8(server.paid()[0].payment_bytes().unwrap()).unwrap();
    let payment = server.paid()[0].payment().unwrap();
    let signature = payment.payload["signature"].as_str().unwrap();
    for text in [format!("{paid:?}"), format!("{client:?}"), format!("{payment:?}")] {
        assert!(!text.contains(&header) && !text.contains(signature), "{text}");
    }
}

#[tokio::test]
async fn a_scheme_plans_the_nonce_once_the_rules_allow() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => ask(&required("", vec![offer("10000", USDC)])),
        Some(_) => sell(&chain, seen),
    })
    .await;
    let strict = World {
        policy: OwnerPolicy::new().per_payment(Price::parse("$0.001").unwrap()),
        ..World::new()
    };
    strict.client().execute(get(&server.url("/"))).await.unwrap_err();
    assert_eq!(strict.scheme.planned.load(Ordering::SeqCst), 0);

    world.client().execute(get(&server.url("/"))).await.unwrap();
    let nonces = world.scheme.nonces();
    assert_eq!((nonces.len(), &nonces[0][..4]), (1, &NONCE_BEGINS[..]));
    assert_ne!(nonces[0][4..], [0; 28], "the rest is random");
}

#[tokio::test]
async fn what_cannot_be_planned_is_neither_reserved_nor_signed() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => ask(&required("", vec![offer("10000", USDC), offer("10000000000000000", DAI)])),
        Some(_) => sell(&chain, seen),
    })
    .await;
    let denied = || {
        let message = "the key may spend no more today".to_owned();
        let (rule, asked) = ("session_budget", 10_000.into());
        Unplanned::from(Denied { rule, message, asked, limit: None, remaining: None })
    };
    let down = || Unplanned::Unavailable(Unavailable::new("rpc", "switched off"));
    let cases = [
        ([Some(denied()), Some(denied())], "policy_denied", [true, true]),
        ([Some(down()), Some(denied())], "signing_failed", [false, true]),
        ([Some(denied()), Some(down())], "signing_failed", [true, false]),
    ];
    let plan = |[usdc, dai]: [Option<Unplanned>; 2]| {
        let found = [(USDC, usdc), (DAI, dai)].into_iter();
        let found = found.filter_map(|(asset, why)| Some((canonical_address(asset), why?)));
        *world.scheme.unplanned.lock().unwrap() = found.collect();
    };
    for (unplanned, code, forbidden) in cases {
        plan(unplanned);
        let error = world.client().execute(get(&server.url("/"))).await.unwrap_err();
        assert_eq!((error.code(), error.payment_status()), (code, PaymentStatus::NotSent));
        let preview = world.client().quote_only(get(&server.url("/"))).await.unwrap();
        let Preview::Priced(priced) = preview else { panic!("it has a price") };
        let is_denied =
            |index: usize| matches!(&priced.candidates[index].verdict, Verdict::Deny(_));
        // What cannot be told is not held against it.
        assert_eq!([0, 1].map(is_denied), forbidden, "{code}");
        assert_eq!((world.books().await, world.scheme.signed().len()), ((0, 0), 0));
    }
    // The next offer may do.
    for first in [denied(), down()] {
        plan([Some(first), None]);
        let paid = world.client().execute(get(&server.url("/"))).await.unwrap();
        assert_eq!(paid.receipt.terms.unwrap().symbol, "DAI");
    }
}

#[tokio::test]
async fn no_proxy_sees_what_is_paid_on_this_machine() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => ask(&required("", vec![offer("10000", USDC)])),
        Some(_) => sell(&chain, seen),
    })
    .await;
    let proxy = Server::start(|_, _| plain(502, "the proxy's")).await;
    let proxied = || {
        let proxy = reqwest::Proxy::all(proxy.url("/")).expect("a URL");
        reqwest::Client::builder().proxy(proxy)
    };
    let client = PayingClient::builder(world.wallet()).http(proxied).build().unwrap();
    let port = server.address.port();
    for url in [server.url("/a"), format!("http://localhost:{port}/b")] {
        let paid = client.execute(get(&url)).await.unwrap();
        assert_eq!(paid.receipt.status, ReceiptStatus::Settled, "{url}");
    }
    assert_eq!(proxy.seen().len(), 0, "the proxy saw a request to this machine");

    // What is elsewhere goes where the proxy is.
    let elsewhere = client.execute(get("http://api.example.com/")).await.unwrap();
    assert_eq!((elsewhere.response.status().as_u16(), proxy.seen().len()), (502, 1));
}
