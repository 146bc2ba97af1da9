//! The facilitator behind HTTP: answers that are no answers never grant, and never lose money.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use http_body_util::BodyExt as _;
use pay402_core::facilitator::{Facilitator as _, Settled, Verdict};
use pay402_core::{Amount, Payment, Refusal, Requirements, Scheme, WireVersion};
use pay402_server::RemoteFacilitator;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::stage::{HASH, NETWORK, PAYER, presented, presented_for, terms};

/// A facilitator that gives one answer to everything.
struct Server {
    url: String,
    calls: Arc<AtomicUsize>,
    /// Path and body of every request.
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Status, headers, body.
type Scripted = (u16, Vec<(&'static str, &'static str)>, String);

#[derive(Clone)]
struct Script {
    calls: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    answers: Arc<Vec<Scripted>>,
}

async fn answer(State(script): State<Script>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let asked = (path, serde_json::from_slice(&body).unwrap_or_default());
    script.asked.lock().unwrap().push(asked);
    let call = script.calls.fetch_add(1, Ordering::SeqCst);
    let (status, headers, body) = &script.answers[call.min(script.answers.len() - 1)];
    let mut response = Response::builder().status(*status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Body::from(body.clone())).unwrap()
}

async fn serve(answers: Vec<Scripted>) -> Server {
    let calls = Arc::new(AtomicUsize::new(0));
    let asked = Arc::<Mutex<Vec<_>>>::default();
    let script = Script { calls: calls.clone(), asked: asked.clone(), answers: Arc::new(answers) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://user:hunter2@{}/base", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer).with_state(script);
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Server { url, calls, asked, task }
}

async fn always(status: u16, body: impl ToString) -> (Server, RemoteFacilitator) {
    let server = serve(vec![(status, vec![], body.to_string())]).await;
    let remote = RemoteFacilitator::new(&server.url).unwrap();
    (server, remote)
}

fn payment() -> Payment {
    Payment::pair(terms(), presented("1", None)).unwrap()
}

#[tokio::test]
async fn good_answers_are_read() {
    let kinds = json!({ "kinds": [
        { "x402Version": 2, "scheme": "exact", "network": NETWORK },
        { "x402Version": 1, "scheme": "exact", "network": "base-sepolia" },
        { "x402Version": 9, "scheme": "exact", "network": "later" },
    ], "extensions": [], "signers": {} });
    let (_server, remote) = always(200, kinds).await;
    let supported = remote.supported().await.unwrap();
    for version in [WireVersion::V1, WireVersion::V2] {
        assert!(supported.has(version, &terms().scheme, &terms().network));
    }
    let (_server, remote) = always(200, json!({ "isValid": true, "payer": PAYER })).await;
    assert_eq!(remote.verify(&payment()).await, Ok(Verdict::Valid { payer: PAYER.into() }));
    let body = json!({ "success": true, "transaction": HASH, "network": NETWORK, "payer": PAYER });
    let (_server, remote) = always(200, body).await;
    assert!(matches!(remote.settle(&payment()).await, Ok(Settled::Done(_))));
}

#[tokio::test]
async fn a_metered_payment_is_verified_for_its_ceiling_and_settled_for_its_charge() {
    let terms = Requirements { scheme: Scheme::UPTO, ..terms() };
    let payment = Payment::pair(terms.clone(), presented_for(terms, "1", None)).unwrap();
    let payment = payment.charging(Amount::ZERO).unwrap();
    let verdict = json!({ "isValid": true, "payer": PAYER }).to_string();
    let settled = |amount: Value| {
        let body = json!({
            "success": true, "transaction": "", "network": NETWORK, "payer": PAYER, "amount": amount,
        });
        (200, vec![], body.to_string())
    };
    let server =
        serve(vec![(200, vec![], verdict), settled(json!("0")), settled(Value::Null)]).await;
    let remote = RemoteFacilitator::new(&server.url).unwrap();
    assert!(matches!(remote.verify(&payment).await, Ok(Verdict::Valid { .. })));
    let told = remote.settle(&payment).await;
    let Ok(Settled::Done(settlement)) = told else { panic!("{told:?}") };
    assert_eq!((settlement.charged, settlement.transaction.as_str()), (Some(Amount::ZERO), ""));
    // Without a transaction it has to say that nothing was charged.
    let told = remote.settle(&payment).await;
    assert_eq!(told, Ok(Settled::Pending { transaction: None }));

    let asked = server.asked.lock().unwrap();
    let amount = |index: usize| {
        let (path, body): &(String, Value) = &asked[index];
        (path.as_str(), body["paymentRequirements"]["amount"].as_str().unwrap())
    };
    assert_eq!(amount(0), ("/base/verify", "10000"));
    assert_eq!(amount(1), ("/base/settle", "0"));
    for (_, body) in &*asked {
        assert_eq!(body["paymentPayload"]["accepted"]["amount"], "10000");
    }
}

/// Answers to `/settle` that look like success and are none (threat A13).
fn malformed_successes() -> Vec<(u16, String)> {
    let good = json!({ "success": true, "transaction": HASH, "network": NETWORK, "payer": PAYER });
    let set = |key: &str, value: Value| {
        let mut body = good.clone();
        body[key] = value;
        body.to_string()
    };
    let without = |key: &str| {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(key);
        body.to_string()
    };
    let not_true = [
        json!("true"),
        json!(1),
        json!("1"),
        json!("yes"),
        json!(null),
        json!([true]),
        json!({ "success": true }),
        json!(false),
        json!(0),
        json!(""),
        json!("false"),
        json!(1.0),
        json!("TRUE"),
        json!([]),
    ];
    let not_network = [
        json!("eip155:8453"),
        json!("base"),
        json!(""),
        json!(null),
        json!(84532),
        json!([]),
        json!("EIP155:84532"),
        json!("eip155:84532 "),
        json!("eip155:084532"),
        json!("84532"),
    ];
    let not_transaction = [json!(""), json!(null), json!(0), json!([HASH]), json!(true)];
    let not_amount = [json!("-1"), json!("0x10"), json!(10_000), json!("1e4"), json!("1,000")];
    let mut cases: Vec<_> = not_true.into_iter().map(|v| (200, set("success", v))).collect();
    cases.extend(not_network.into_iter().map(|v| (200, set("network", v))));
    cases.extend(not_transaction.into_iter().map(|v| (200, set("transaction", v))));
    cases.extend(not_amount.into_iter().map(|v| (200, set("amount", v))));
    cases.extend(["success", "network", "transaction"].map(|key| (200, without(key))));
    let good = good.to_string();
    let twice = format!("{}, \"success\": true}}", good.trim_end_matches('}'));
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let large = format!("{{\"pad\":\"{}\",{}", "x".repeat(100_000), &good[1..]);
    for broken in [
        String::new(),
        "null".into(),
        "true".into(),
        "[]".into(),
        "\"ok\"".into(),
        "{".into(),
        "OK".into(),
        "<html>ok</html>".into(),
        format!("{good}{good}"),
        twice,
        deep,
        large,
        good[..good.len() - 1].to_owned(),
    ] {
        cases.push((200, broken));
    }
    for status in [201, 202, 204, 302, 400, 402, 404, 409, 429, 500, 502, 503, 504] {
        cases.push((status, good.clone()));
    }
    cases
}

#[tokio::test]
async fn fifty_malformed_successes_never_settle() {
    let cases = malformed_successes();
    assert!(cases.len() >= 50, "only {}", cases.len());
    for (status, body) in cases {
        let (_server, remote) = always(status, &body).await;
        let settled = remote.settle(&payment()).await;
        let text: String = body.chars().take(120).collect();
        assert!(!matches!(settled, Ok(Settled::Done(_))), "{status} {text} granted");
        // Only an answer that plainly says no may free the payment.
        if let Ok(Settled::Refused(_)) = settled {
            assert!(body.contains("\"success\":false"), "{status} {text} was read as a refusal");
        }
        if status >= 500 {
            assert!(matches!(settled, Ok(Settled::Pending { .. })), "{status} {text}");
        }
    }
}

#[tokio::test]
async fn malformed_verdicts_never_grant() {
    let good = json!({ "isValid": true, "payer": PAYER }).to_string();
    let broken = [
        (200, "{}".to_owned()),
        (200, json!({ "isValid": "true", "payer": PAYER }).to_string()),
        (200, json!({ "isValid": 1, "payer": PAYER }).to_string()),
        (200, json!({ "isValid": null }).to_string()),
        (200, json!({ "valid": true }).to_string()),
        (200, String::new()),
        (200, "true".into()),
        (201, good.clone()),
        (302, good.clone()),
        (400, good.clone()),
        (500, good.clone()),
        (503, good),
    ];
    for (status, body) in broken {
        let (_server, remote) = always(status, &body).await;
        let error = remote.verify(&payment()).await.expect_err(&body);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    // A refusal is one on 400 too, but not on 500.
    let refusal = json!({ "isValid": false, "invalidReason": "insufficient_funds" });
    let (_server, remote) = always(400, &refusal).await;
    let Ok(Verdict::Invalid(refused)) = remote.verify(&payment()).await else { panic!() };
    assert!(refused.reason.is(Refusal::InsufficientFunds));
    let (_server, remote) = always(500, &refusal).await;
    assert!(remote.verify(&payment()).await.is_err());
}

#[tokio::test]
async fn a_pending_settlement_keeps_its_hash_whatever_the_status() {
    let body = json!({ "success": false, "errorReason": "settlement_pending",
        "transaction": HASH, "network": NETWORK });
    for status in [200, 202, 503] {
        let (_server, remote) = always(status, &body).await;
        let expected = Settled::Pending { transaction: Some(HASH.into()) };
        assert_eq!(remote.settle(&payment()).await, Ok(expected), "{status}");
    }
    let body = json!({ "success": false, "errorReason": "invalid_transaction_state" });
    let (_server, remote) = always(200, &body).await;
    let Ok(Settled::Refused(refused)) = remote.settle(&payment()).await else { panic!() };
    assert!(refused.reason.is(Refusal::TransactionReverted));
    // A server error proves nothing about the money, whatever its body says.
    let (_server, remote) = always(500, &body).await;
    assert!(matches!(remote.settle(&payment()).await, Ok(Settled::Pending { .. })));
}

#[tokio::test]
async fn what_was_not_sent_is_unavailable_and_what_may_have_been_is_pending() {
    // Nobody listens.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://user:hunter2@{}/", listener.local_addr().unwrap());
    drop(listener);
    let remote = RemoteFacilitator::new(&url).unwrap();
    for error in [
        remote.settle(&payment()).await.unwrap_err(),
        remote.verify(&payment()).await.unwrap_err(),
        remote.supported().await.unwrap_err(),
    ] {
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
    }
    assert!(!format!("{remote:?}").contains("hunter2"));

    // Somebody takes the request and hangs up.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let remote = RemoteFacilitator::new(&format!("http://{}", listener.local_addr().unwrap()));
    let hang_up = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut some = [0; 16];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut some).await.unwrap();
    });
    let settled = remote.unwrap().settle(&payment()).await;
    assert_eq!(settled, Ok(Settled::Pending { transaction: None }));
    hang_up.await.unwrap();

    for status in [401, 403, 404, 429] {
        let (_server, remote) = always(status, "no").await;
        assert!(remote.settle(&payment()).await.is_err(), "{status}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (target, _) = always(200, json!({ "isValid": true, "payer": PAYER })).await;
    let location: &'static str = Box::leak(format!("{}/verify", target.url).into_boxed_str());
    for status in [301, 302, 307, 308] {
        let server = serve(vec![(status, vec![("location", location)], String::new())]).await;
        let remote = RemoteFacilitator::new(&server.url).unwrap();
        assert!(remote.verify(&payment()).await.is_err(), "{status}");
        let settled = remote.settle(&payment()).await;
        assert_eq!(settled, Ok(Settled::Pending { transaction: None }), "{status}");
        let error = remote.supported().await.unwrap_err();
        assert!(error.problem.contains("redirects are not followed"), "{error}");
    }
    assert_eq!(target.calls.load(Ordering::SeqCst), 0, "a payment followed a redirect");
}

#[tokio::test]
async fn only_verification_is_tried_again_when_it_is_turned_away() {
    let busy = || (429, vec![("retry-after", "0")], String::new());
    let valid = json!({ "isValid": true, "payer": PAYER }).to_string();
    let server = serve(vec![busy(), busy(), (200, vec![], valid)]).await;
    let remote = RemoteFacilitator::new(&server.url).unwrap();
    assert!(matches!(remote.verify(&payment()).await, Ok(Verdict::Valid { .. })));
    assert_eq!(server.calls.load(Ordering::SeqCst), 3);

    let server = serve(vec![busy()]).await;
    let remote = RemoteFacilitator::new(&server.url).unwrap();
    assert!(remote.settle(&payment()).await.is_err());
    assert_eq!(server.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_api_key_is_sent_and_never_printed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(async |request: Request| {
        let right = request.headers().get("authorization").is_some_and(|v| v == "Bearer hunter2");
        if right { (StatusCode::OK, r#"{"kinds":[]}"#) } else { (StatusCode::UNAUTHORIZED, "") }
    });
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let remote = RemoteFacilitator::new(&url).unwrap();
    assert!(remote.supported().await.unwrap_err().problem.contains("API key"));
    let remote = remote.header("authorization", "Bearer hunter2").unwrap();
    assert!(remote.supported().await.unwrap().kinds.is_empty());
    assert!(!format!("{remote:?}").contains("hunter2"));
    task.abort();
}

#[test]
fn what_cannot_be_a_facilitator_is_a_misconfiguration() {
    for bad in ["", "facilitator.example.com", "ftp://a", "http://", "https://a/#f"] {
        assert_eq!(RemoteFacilitator::new(bad).unwrap_err().key, "facilitator", "{bad}");
    }
    // A key is for the facilitator and not for those on the way.
    let open = ["http://f.example", "http://10.0.0.7:4020", "http://shop.localhost"];
    let shut = ["https://f.example", "http://127.0.0.1:4020", "http://localhost", "http://[::1]:1"];
    for (urls, is_open) in [(&open[..], true), (&shut, false)] {
        for url in urls {
            let remote = RemoteFacilitator::new(url).unwrap();
            let header = remote.header("authorization", "Bearer hunter2");
            let problem = header.err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(problem.starts_with("facilitator: is not encrypted"), is_open, "{url}");
            assert!(!problem.contains("hunter2"), "{problem}");
            let with_password = url.replace("://", "://user:hunter2@");
            assert_eq!(RemoteFacilitator::new(&with_password).is_err(), is_open, "{url}");
        }
    }
}

#[tokio::test]
async fn the_idempotency_key_is_of_the_payment_and_the_store_of_claims() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (seen, mut keys) = tokio::sync::mpsc::channel(16);
    let app = Router::new().fallback(async move |request: Request| {
        let key = request.headers().get("idempotency-key");
        seen.send(key.map(|key| key.to_str().unwrap().to_owned())).await.unwrap();
        (StatusCode::INTERNAL_SERVER_ERROR, "")
    });
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let mut key_of = async |claims: Option<&str>, nonce: &str| {
        let remote = RemoteFacilitator::new(&url).unwrap();
        let remote = match claims {
            Some(claims) => remote.idempotent_for(claims),
            None => remote,
        };
        let payment = Payment::pair(terms(), presented(nonce, None)).unwrap();
        remote.settle(&payment).await.unwrap();
        keys.recv().await.unwrap()
    };
    let first = key_of(Some("shop"), "1").await.unwrap();
    assert_eq!(first.len(), 64);
    assert_eq!(key_of(Some("shop"), "1").await.as_ref(), Some(&first));
    assert_ne!(key_of(Some("shop"), "2").await.as_ref(), Some(&first));
    assert_ne!(key_of(Some("other"), "1").await.as_ref(), Some(&first));
    assert_eq!(key_of(None, "1").await, None);
    task.abort();
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(async || {
        let piece = || Ok::<_, std::io::Error>(bytes::Bytes::from_static(&[b' '; 4096]));
        Body::from_stream(futures_util::stream::repeat_with(piece))
    });
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let remote = RemoteFacilitator::new(&url).unwrap();
    let soon = std::time::Duration::from_secs(8);
    let error = tokio::time::timeout(soon, remote.supported()).await.unwrap().unwrap_err();
    assert!(error.problem.contains("larger than 65536 bytes"), "{error}");
    let settled = tokio::time::timeout(soon, remote.settle(&payment())).await.unwrap();
    assert_eq!(settled, Ok(Settled::Pending { transaction: None }));
    task.abort();
}

#[tokio::test]
async fn a_reason_is_bounded_and_names_no_url() {
    let text = format!(
        "HTTP request failed. URL: https://node.example/v2/hunter2 Request body: {}",
        "x".repeat(10_000)
    );
    let refusing = json!({
        "isValid": false, "invalidReason": "insufficient_funds", "invalidMessage": text,
        "success": false, "errorReason": "insufficient_funds", "errorMessage": text,
        "transaction": "f".repeat(1_000), "network": NETWORK, "payer": "p".repeat(1_000),
    });
    let (_server, remote) = always(200, &refusing).await;
    let Ok(Verdict::Invalid(verified)) = remote.verify(&payment()).await else { panic!() };
    let Ok(Settled::Refused(settled)) = remote.settle(&payment()).await else { panic!() };
    for refused in [verified, settled] {
        assert!(refused.message.starts_with("HTTP request failed. URL: [url]"), "{refused}");
        assert_eq!(refused.message.chars().count(), pay402_server::remote::REASON_CHARS_MAX);
        assert_eq!((refused.payer, refused.transaction), (None, None));
    }
    let endless = json!({
        "success": true, "transaction": "f".repeat(10_000), "network": NETWORK, "payer": PAYER,
    });
    let (_server, remote) = always(200, endless).await;
    assert_eq!(remote.settle(&payment()).await, Ok(Settled::Pending { transaction: None }));
}
