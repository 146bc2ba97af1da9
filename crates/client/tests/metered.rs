//! Metered payments: the ceiling is reserved, what the chain shows is booked, and nobody's word
//! makes the books show less than what may have been taken.

#[cfg(test)]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pay402_client::{OwnerPolicy, PayError, PaymentStatus, Preview, Receipt, ReceiptStatus};
use pay402_core::refusal::Retry;
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Price, Refusal, Refused};
use serde_json::{Map, Value, json};
use support::server::{Reply, Seen, Server, ask, claim_charged, plain, refused, with_header};
use support::{Chain, NOW, TX, Took, World, get, metered, required};

const CEILING: u64 = 10_000;

fn price() -> Reply {
    ask(&required("", vec![metered("10000")]))
}

/// A server that takes `took` of every payment and says that it charged `said`.
async fn selling(world: &World, took: Option<Took>, said: Option<u64>) -> Server {
    let chain = Arc::clone(&world.chain);
    Server::start(move |seen, _| match seen.payment() {
        None => price(),
        Some(_) => charge(&chain, seen, took, said),
    })
    .await
}

fn charge(chain: &Chain, seen: &Seen, took: Option<Took>, said: Option<u64>) -> Reply {
    if let Some(took) = took {
        chain.settle_for(seen.nonce(), took);
    }
    claim_charged(said)
}

async fn buy(world: &World, server: &Server) -> Receipt {
    world.client().execute(get(&server.url("/"))).await.expect("it is sold").receipt
}

fn charged(amount: u64) -> Option<Amount> {
    Some(amount.into())
}

#[tokio::test]
async fn the_ceiling_is_reserved_and_the_charge_is_booked() {
    let world = World::new();
    let server = selling(&world, Some(Took::Part(2_500)), Some(2_500)).await;
    let receipt = buy(&world, &server).await;
    assert_eq!(receipt.status, ReceiptStatus::Settled);
    assert_eq!((receipt.charged, receipt.ceiling), (charged(2_500), charged(CEILING)));
    assert_eq!(receipt.transaction.as_deref(), Some(TX));
    assert_eq!(world.books().await, (2_500, 0));
    let [signed] = &world.meter.signed()[..] else { panic!("signed more than once") };
    assert_eq!(signed.reservation().quote.amount, Amount::from(CEILING));

    let shown = serde_json::to_value(&receipt).unwrap();
    assert_eq!((&shown["charged"], &shown["ceiling"]), (&json!("2500"), &json!("10000")));
    let terms = receipt.terms.unwrap();
    assert_eq!(terms.charged_units(receipt.charged), "0.0025 USDC of up to 0.01 USDC");
}

#[tokio::test]
async fn a_payment_without_a_ceiling_is_charged_whole() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => ask(&required("", vec![support::offer("10000", support::USDC)])),
        // Whatever the server says of it.
        Some(_) => charge(&chain, seen, Some(Took::All), Some(1)),
    })
    .await;
    let receipt = buy(&world, &server).await;
    assert_eq!((receipt.charged, receipt.ceiling), (charged(10_000), None));
    assert_eq!(receipt.terms.unwrap().charged_units(receipt.charged), "0.01 USDC");
    assert_eq!(world.books().await, (10_000, 0));
}

#[tokio::test]
async fn what_was_not_charged_can_be_spent_again() {
    let mut world = World::new();
    let cents = |text: &str| Price::parse(text).unwrap();
    world.policy = OwnerPolicy::new().total(cents("$0.012"));
    let server = selling(&world, Some(Took::Part(1_000)), Some(1_000)).await;
    for number in 1..=3 {
        // Each reserves 10 000 of 12 000 and gives 9 000 back.
        let client = world.client();
        let path = format!("/{number}");
        client.execute(get(&server.url(&path))).await.unwrap();
        assert_eq!(world.books().await, (1_000 * number, 0));
    }
    // 3 000 are spent: a ceiling of 10 000 no longer fits.
    let error = world.client().execute(get(&server.url("/4"))).await.unwrap_err();
    assert_eq!(error.code(), "policy_denied", "{error}");
    assert_eq!(world.meter.nonces().len(), 3);
}

#[tokio::test]
async fn the_chain_says_what_was_charged_and_not_the_server() {
    for (took, said, expected) in [
        (2_500, Some(1), 2_500),
        (CEILING, Some(0), CEILING),
        (1, Some(CEILING), 1),
        (2_500, None, 2_500),
        // Nobody can take more than was signed: the figure is wrong, and all of it is booked.
        (CEILING + 1, Some(1), CEILING),
    ] {
        let world = World::new();
        let server = selling(&world, Some(Took::Part(took)), said).await;
        let receipt = buy(&world, &server).await;
        assert_eq!(receipt.status, ReceiptStatus::Settled);
        assert_eq!(receipt.charged, charged(took).filter(|_| took <= CEILING), "{took}");
        assert_eq!(receipt.transaction.as_deref(), Some(TX));
        assert_eq!(world.books().await, (expected, 0), "{took}, {said:?}");
    }
}

#[tokio::test]
async fn without_a_figure_from_the_chain_all_of_it_is_booked() {
    let world = World::new();
    let server = selling(&world, Some(Took::Unseen), Some(1)).await;
    let receipt = buy(&world, &server).await;
    assert_eq!((receipt.status, receipt.charged), (ReceiptStatus::Settled, None));
    assert!(receipt.note.unwrap().contains("all is booked"));
    assert_eq!(world.books().await, (CEILING, 0));
}

#[tokio::test]
async fn without_the_chain_the_servers_word_is_shown_and_all_of_it_is_booked() {
    for said in [0, 1, 2_500, CEILING, CEILING + 1] {
        let world = World::new();
        world.chain.down.store(true, Ordering::SeqCst);
        let server = selling(&world, None, Some(said)).await;
        let receipt = buy(&world, &server).await;
        assert_eq!(receipt.status, ReceiptStatus::Claimed, "{said}");
        assert_eq!(receipt.charged, charged(said).filter(|_| said <= CEILING));
        assert_eq!(receipt.transaction.as_deref(), Some(TX).filter(|_| said != 0));
        assert_eq!(receipt.note.is_some(), said != CEILING, "{said}: {:?}", receipt.note);
        assert_eq!(world.books().await, (CEILING, 0), "the server said {said}");
    }
}

/// Nothing shows that nothing will be taken, until nothing can be.
#[tokio::test]
async fn a_charge_of_nothing_stays_reserved_until_the_authorization_is_dead() {
    let world = World::new();
    let server = selling(&world, None, Some(0)).await;
    let receipt = buy(&world, &server).await;
    assert_eq!(receipt.status, ReceiptStatus::Unsettled);
    assert_eq!((receipt.charged, receipt.transaction), (charged(0), None));
    assert!(receipt.note.unwrap().contains("stays reserved"));
    assert_eq!(world.books().await, (0, CEILING));

    // Until then the same purchase presents the same bytes.
    let again = buy(&world, &server).await;
    assert!(again.resumed);
    let sent = server.paid();
    assert_eq!(sent[0].payment_bytes(), sent[1].payment_bytes());
    assert_eq!(world.meter.nonces().len(), 1);

    world.clock.set(UnixTime(NOW + 3_600));
    let reconciled = world.wallet().reconcile().await.unwrap();
    assert_eq!((reconciled.voided, reconciled.posted), (1, 0));
    assert_eq!(world.books().await, (0, 0));
    assert!(!buy(&world, &server).await.resumed);
    assert_eq!(world.meter.nonces().len(), 2);
}

#[tokio::test]
async fn what_is_taken_after_all_is_booked_later() {
    let world = World::new();
    let server = selling(&world, None, Some(0)).await;
    buy(&world, &server).await;
    assert_eq!(world.books().await, (0, CEILING));
    // The server said zero, and then had some of it settled.
    world.chain.settle_for(server.paid()[0].nonce(), Took::Part(7_000));
    let reconciled = world.wallet().reconcile().await.unwrap();
    assert_eq!((reconciled.posted, reconciled.live), (1, 0));
    assert_eq!(world.books().await, (7_000, 0));
}

#[tokio::test]
async fn a_refusal_of_what_was_settled_books_what_was_charged() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => price(),
        Some(_) => {
            chain.settle_for(seen.nonce(), Took::Part(2_500));
            refused(409, Refusal::DuplicateSettlement)
        }
    })
    .await;
    let error = world.client().execute(get(&server.url("/"))).await.unwrap_err();
    assert!(
        matches!(error, PayError::AlreadySettled { charged: Some(amount), .. } if amount == 2_500.into()),
        "{error:?}"
    );
    assert!(error.to_string().contains("0.0025 USDC of up to 0.01 USDC"), "{error}");
    assert_eq!(world.books().await, (2_500, 0));
}

#[tokio::test]
async fn a_preview_says_that_the_price_is_a_ceiling() {
    let world = World::new();
    let server = selling(&world, None, None).await;
    let preview = world.client().quote_only(get(&server.url("/"))).await.unwrap();
    let Preview::Priced(priced) = preview else { panic!("{preview:?}") };
    let terms = &priced.candidates[0].terms;
    assert!(terms.is_metered());
    assert_eq!(terms.units(), "up to 0.01 USDC");
}

/// The answers to a payment for which Permit2 has no allowance: ours, and that of official servers,
/// which have the reason in their offer alone.
#[tokio::test]
async fn a_missing_allowance_is_a_refusal_with_a_remedy() {
    let theirs = || {
        let mut required = required("", vec![metered("10000")]);
        required.error = Some("permit2_allowance_required".into());
        let Reply::Answer(_, headers, _) = ask(&required) else { unreachable!("it answers") };
        let offer = headers.get("payment-required").unwrap().to_str().unwrap().to_owned();
        with_header(plain(412, "{}"), "payment-required", &offer)
    };
    let ours = || {
        let words = Refused::new(Refusal::Permit2AllowanceRequired, "their own words");
        refused(412, words)
    };
    for number in 0..2 {
        let world = World::new();
        let chain = Arc::clone(&world.chain);
        let server = Server::start(move |seen, count| match (seen.payment(), count) {
            (None, _) => price(),
            (Some(_), 1) if number == 0 => ours(),
            (Some(_), 1) => theirs(),
            (Some(_), _) => charge(&chain, seen, Some(Took::Part(1)), Some(1)),
        })
        .await;
        let error = world.client().execute(get(&server.url("/"))).await.unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("allowance_required", 5), "{error}");
        assert_eq!((error.payment_status(), error.retry()), (PaymentStatus::Sent, Retry::Same));
        assert!(error.to_string().contains("approve the Permit2 contract"), "{error}");
        assert_eq!(world.books().await, (0, CEILING));
        // Once it is there, the same payment pays.
        assert!(buy(&world, &server).await.resumed);
        let sent = server.paid();
        assert_eq!(sent.len(), 2);
        assert_eq!(sent[0].payment_bytes(), sent[1].payment_bytes());
        assert_eq!(world.books().await, (1, 0));
    }
}

#[tokio::test]
async fn a_precondition_of_the_handlers_own_is_its_answer() {
    let world = World::new();
    let server = Server::start(|seen, _| match seen.payment() {
        None => price(),
        Some(_) => plain(412, "If-Match failed"),
    })
    .await;
    let paid = world.client().execute(get(&server.url("/"))).await.unwrap();
    assert_eq!(paid.response.status(), 412);
    assert_eq!(paid.receipt.status, ReceiptStatus::Unsettled);
    assert_eq!(paid.response.text().await.unwrap(), "If-Match failed");
    assert_eq!(world.books().await, (0, CEILING));
}

#[tokio::test]
async fn extensions_are_extended_and_never_changed() {
    let world = World::new();
    let Value::Object(added) = json!({
        "sponsoring": { "signature": "0x1", "version": "9", "from": "me" },
        "bare": { "signature": "0x2" },
        "odd": { "signature": "0x3" },
        "wrong": ["no entries"],
        "unasked": { "signature": "0x4" },
        "payment-identifier": { "required": true, "more": 1 },
    }) else {
        unreachable!("an object was written")
    };
    *world.meter.extensions.lock().unwrap() = added;
    let advertised = json!({
        "payment-identifier": { "info": { "required": false }, "schema": {} },
        "sponsoring": { "info": { "version": "1", "from": null }, "schema": { "a": [1] } },
        "bare": {},
        "odd": { "info": "text" },
        "wrong": { "info": {} },
        "theirs": { "info": { "x": 1 } },
    });
    let offered = advertised.as_object().unwrap().clone();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => {
            let mut required = required("", vec![metered("10000")]);
            required.extensions = offered.clone();
            ask(&required)
        }
        Some(_) => charge(&chain, seen, Some(Took::Part(1)), Some(1)),
    })
    .await;
    buy(&world, &server).await;
    let mut sent: Map<String, Value> = server.paid()[0].payment().unwrap().extensions;
    let id = sent["payment-identifier"]["info"].as_object_mut().unwrap().shift_remove("id");
    assert!(id.is_some_and(|id| id.is_string()), "the identifier is missing");
    let expected = json!({
        "payment-identifier": { "info": { "required": false, "more": 1 }, "schema": {} },
        "sponsoring": {
            "info": { "version": "1", "from": null, "signature": "0x1" }, "schema": { "a": [1] },
        },
        "bare": { "info": { "signature": "0x2" } },
        "odd": { "info": "text" },
        "wrong": { "info": {} },
        "theirs": { "info": { "x": 1 } },
    });
    assert_eq!(Value::Object(sent), expected);
}
