//! The engine over HTTP.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use pay402_core::facilitator::{Settled, Verdict};
use pay402_core::wire::{
    Endpoint, MESSAGE_BYTES_MAX, decode_settled, decode_supported, decode_verdict,
    encode_facilitator_request,
};
use pay402_core::{NetworkId, Payment, Refusal, Requirements, Scheme, WireVersion};
use pay402_facilitator::api::{Access, KeyHash, router};
use pay402_facilitator::{Engine, Options};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::bed::{Bed, done, options, pending, refused, stage, until};
use crate::chain::{CANARY, EXPIRES, payment, payment_on, presented, terms};

pub struct Answer {
    pub status: StatusCode,
    pub retry_after: Option<String>,
    pub settlement_id: Option<String>,
    pub content_type: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    #[track_caller]
    fn verdict(&self) -> Verdict {
        decode_verdict(&self.body).unwrap()
    }

    #[track_caller]
    pub fn settled(&self) -> Settled {
        decode_settled(&self.body, &terms()).unwrap()
    }
}

pub async fn ask(api: &Router, request: Request<Body>) -> Answer {
    let answer: Response<Body> = api.clone().oneshot(request).await.unwrap();
    let header = |name| {
        let value = answer.headers().get(name);
        value.map(|value: &axum::http::HeaderValue| value.to_str().unwrap().to_owned())
    };
    Answer {
        status: answer.status(),
        retry_after: header("retry-after"),
        settlement_id: header("settlement-id"),
        content_type: header("content-type").unwrap(),
        body: answer.into_body().collect().await.unwrap().to_bytes().to_vec(),
    }
}

pub async fn post(api: &Router, path: &str, body: impl Into<Body>) -> Answer {
    let request = Request::post(path).header("content-type", "application/json");
    ask(api, request.body(body.into()).unwrap()).await
}

pub async fn read(api: &Router, path: &str) -> Answer {
    ask(api, Request::get(path).body(Body::empty()).unwrap()).await
}

/// The same at both endpoints, as long as no less than the terms is charged.
pub fn request(payment: &Payment) -> Value {
    encode_facilitator_request(payment, Endpoint::Settle)
}

pub fn body(nonce: &str) -> Value {
    request(&payment(nonce))
}

fn v1(nonce: &str) -> Payment {
    Payment::pair(terms(), presented(WireVersion::V1, &terms(), nonce)).unwrap()
}

pub fn open(engine: &Engine) -> Router {
    router(engine.clone(), Access::Open)
}

#[tokio::test]
async fn both_versions_verify_and_settle() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = open(&engine);
    for (payment, name) in [(payment("1"), "eip155:84532"), (v1("2"), "base-sepolia")] {
        let body = request(&payment).to_string();
        let verified = post(&api, "/verify", body.clone()).await;
        assert_eq!(verified.status, StatusCode::OK);
        assert_eq!(verified.json(), json!({"isValid": true, "payer": "0xpayer"}));
        let settled = post(&api, "/settle", body.clone()).await;
        let transaction = done(&settled.settled());
        assert_eq!(
            settled.json(),
            json!({
                "success": true,
                "transaction": transaction,
                "network": name,
                "payer": "0xpayer",
            })
        );
        let again = post(&api, "/settle", body).await;
        assert_eq!((again.status, again.json()["network"].as_str()), (StatusCode::OK, Some(name)));
        let told = refused(again.settled(), Refusal::DuplicateSettlement);
        assert_eq!(told.transaction, Some(transaction));
    }
}

#[tokio::test]
async fn what_is_malformed_names_its_field() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = open(&engine);
    let with = |path: &str, value: Value| {
        let mut body = body("1");
        *body.pointer_mut(path).unwrap() = value;
        body.to_string()
    };
    let cases = [
        ("body that is no JSON", "{".to_owned(), ""),
        ("empty body", String::new(), ""),
        ("array", "[]".to_owned(), ""),
        ("no payload", json!({"x402Version": 2}).to_string(), "paymentPayload"),
        ("version 3", with("/x402Version", json!(3)), "x402Version"),
        ("text version", with("/x402Version", json!("2")), "x402Version"),
        ("other inner version", with("/paymentPayload/x402Version", json!(1)), ""),
        (
            "negative amount",
            with("/paymentRequirements/amount", json!("-1")),
            "paymentRequirements.amount",
        ),
        (
            "numeric amount",
            with("/paymentRequirements/amount", json!(1)),
            "paymentRequirements.amount",
        ),
        (
            "no network",
            with("/paymentRequirements/network", json!("base")),
            "paymentRequirements.network",
        ),
        (
            "payload of another form",
            with("/paymentPayload/payload/nonce", json!(1)),
            "paymentPayload.payload.nonce",
        ),
        (
            "payee of another form",
            with("/paymentRequirements/payTo", json!("nobody")),
            "paymentRequirements.payTo",
        ),
    ];
    for (what, body, field) in cases {
        for path in ["/verify", "/settle"] {
            let answer = post(&api, path, body.clone()).await;
            let told = answer.json();
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{what}: {told}");
            assert_eq!(told["error"], "malformed", "{what}");
            assert!(!told["message"].as_str().unwrap().is_empty(), "{what}");
            if !field.is_empty() {
                assert_eq!(told["field"], field, "{what}");
            }
        }
    }
    let invalid_utf8 = post(&api, "/verify", vec![b'{', 0xff, b'}']).await;
    assert_eq!(invalid_utf8.status, StatusCode::BAD_REQUEST);
    let long = vec![b' '; MESSAGE_BYTES_MAX + 1];
    assert_eq!(post(&api, "/verify", long).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(stage(&engine, "1").await, "");
}

#[tokio::test]
async fn open_access_turns_pages_and_proxies_away() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = open(&engine);
    for (name, value, status) in [
        ("content-type", "text/plain", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("origin", "https://page.example", StatusCode::FORBIDDEN),
        ("forwarded", "for=192.0.2.1", StatusCode::FORBIDDEN),
        ("x-forwarded-for", "192.0.2.1", StatusCode::FORBIDDEN),
    ] {
        for path in ["/verify", "/settle"] {
            let mut request = Request::post(path).body(Body::from(body("1").to_string())).unwrap();
            request.headers_mut().insert("content-type", "application/json".parse().unwrap());
            request.headers_mut().insert(name, value.parse().unwrap());
            let answer = ask(&api, request).await;
            assert_eq!(answer.status, status, "{name}");
            let told = answer.json()["message"].to_string();
            assert!(status != StatusCode::FORBIDDEN || told.contains("[[caller]]"), "{told}");
        }
    }
    assert_eq!(stage(&engine, "1").await, "");
    // Whoever has a key may be anywhere.
    let keyed = router(engine.clone(), Access::Keys(vec![KeyHash::of("key")]));
    let request = Request::post("/settle")
        .header("authorization", "Bearer key")
        .header("x-forwarded-for", "192.0.2.1");
    let answer = ask(&keyed, request.body(body("1").to_string().into()).unwrap()).await;
    done(&answer.settled());
}

#[tokio::test]
async fn what_is_invalid_is_an_answer() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = open(&engine);
    let elsewhere = Requirements { network: NetworkId::eip155(1), ..terms() };
    let later = Requirements { scheme: Scheme::new("later-scheme"), ..terms() };
    let mut claims_less = body("3");
    claims_less["paymentPayload"]["accepted"]["amount"] = json!("1");
    let mut other_scheme = body("4");
    other_scheme["paymentPayload"]["accepted"]["scheme"] = json!("upto");
    let cases = [
        (request(&payment_on(elsewhere, "1")), Refusal::InvalidNetwork),
        (request(&payment_on(later, "2")), Refusal::UnsupportedScheme),
        (claims_less, Refusal::InvalidPaymentRequirements),
        (other_scheme, Refusal::InvalidScheme),
    ];
    for (body, refusal) in cases {
        let verified = post(&api, "/verify", body.to_string()).await;
        assert_eq!(verified.status, StatusCode::OK, "{refusal}");
        assert!(
            matches!(verified.verdict(), Verdict::Invalid(told) if told.reason.is(refusal)),
            "{refusal}: {}",
            verified.json()
        );
        let settled = post(&api, "/settle", body.to_string()).await;
        assert_eq!(settled.status, StatusCode::OK);
        assert_eq!(settled.json()["errorReason"], refusal.code());
        assert_eq!(settled.json()["transaction"], "");
    }
}

#[tokio::test]
async fn pending_is_told_with_the_hash() {
    let bed = Bed::new();
    let settle_wait_max = Duration::from_millis(500);
    let engine = bed.start_with(Options { settle_wait_max, ..options() }).await;
    let api = open(&engine);
    bed.chain.state().automine = false;
    let answer = post(&api, "/settle", body("1").to_string()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["errorReason"], Refusal::SettlementPending.code());
    let hash = pending(answer.settled()).unwrap();
    bed.chain.state().mine();
    until("settled", || async { stage(&engine, "1").await == "settled" }).await;
    assert_eq!(done(&post(&api, "/settle", body("1").to_string()).await.settled()), hash);
}

#[tokio::test]
async fn what_cannot_be_told_is_503() {
    let bed = Bed::new();
    let call_timeout = Duration::from_millis(40);
    let engine = bed.start_with(Options { call_timeout, ..options() }).await;
    let api = open(&engine);
    bed.chain.state().hangs = true;
    let verified = post(&api, "/verify", body("1").to_string()).await;
    assert_eq!(verified.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(verified.retry_after.as_deref(), Some("1"));
    assert_eq!(verified.json()["isValid"], false);
    assert_eq!(verified.json()["invalidReason"], Refusal::UnexpectedVerifyError.code());
    let settled = post(&api, "/settle", body("1").to_string()).await;
    assert_eq!(settled.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(settled.retry_after.as_deref(), Some("1"));
    assert_eq!(settled.json()["success"], false);
    assert_eq!(settled.json()["errorReason"], Refusal::UnexpectedSettleError.code());
    assert_eq!(stage(&engine, "1").await, "");
}

#[tokio::test]
async fn it_says_what_it_supports_and_how_it_fares() {
    let bed = Bed::with_signers(&["0xa", "0xb"]);
    let engine = bed.start().await;
    let api = open(&engine);
    let answer = read(&api, "/supported").await;
    let supported = decode_supported(&answer.body).unwrap();
    for version in [WireVersion::V1, WireVersion::V2] {
        assert!(supported.has(version, &Scheme::EXACT, &terms().network));
    }
    assert_eq!(answer.json()["signers"], json!({"eip155:*": ["0xa", "0xb"]}));
    let health = read(&api, "/health").await;
    assert_eq!((health.status, &health.json()["status"]), (StatusCode::OK, &json!("ok")));
    assert_eq!(health.json()["supported"], answer.json());
    for path in ["/verify", "/settle"] {
        let described = read(&api, path).await;
        assert_eq!(described.status, StatusCode::OK);
        assert!(described.json()["body"]["paymentPayload"].is_string());
    }
    assert_eq!(read(&api, "/nothing").await.status, StatusCode::NOT_FOUND);
    let wrong = ask(&api, Request::delete("/verify").body(Body::empty()).unwrap()).await;
    assert_eq!(wrong.status, StatusCode::METHOD_NOT_ALLOWED);
    engine.stop(Duration::ZERO).await;
    let health = read(&api, "/health").await;
    assert_eq!(health.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(health.json()["networks"][0]["status"], "stopped");
}

#[tokio::test]
async fn keys_admit_and_prove_repeats() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let keys = ["alice", "bob"].map(KeyHash::of).to_vec();
    let api = router(engine.clone(), Access::Keys(keys));
    let ask_as = async |path: &str, key: Option<&str>, id: Option<&str>| {
        let mut request = Request::post(path);
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if let Some(id) = id {
            request = request.header("idempotency-key", id);
        }
        ask(&api, request.body(body("1").to_string().into()).unwrap()).await
    };
    for key in [None, Some("mallory"), Some("")] {
        for path in ["/verify", "/settle"] {
            let answer = ask_as(path, key, Some("1")).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{key:?}");
        }
    }
    assert_eq!(ask_as("/verify", Some("bob"), None).await.status, StatusCode::OK);
    for bad in ["", &"x".repeat(256)] {
        let answer = ask_as("/settle", Some("alice"), Some(bad)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(answer.json()["field"], "Idempotency-Key");
    }
    let first = done(&ask_as("/settle", Some("alice"), Some("id")).await.settled());
    let again = done(&ask_as("/settle", Some("alice"), Some("id")).await.settled());
    assert_eq!(again, first, "the same request was not told again");
    for (key, id) in [("alice", Some("other")), ("alice", None), ("bob", Some("id"))] {
        let told = ask_as("/settle", Some(key), id).await.settled();
        refused(told, Refusal::DuplicateSettlement);
    }
    assert_eq!(bed.chain.state().transfers, 1);
}

#[tokio::test]
async fn an_idempotency_key_alone_proves_nothing() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = open(&engine);
    let request = || {
        let request = Request::post("/settle").header("idempotency-key", "id");
        let request = request.header("content-type", "application/json");
        request.body(Body::from(body("1").to_string())).unwrap()
    };
    done(&ask(&api, request()).await.settled());
    refused(ask(&api, request()).await.settled(), Refusal::DuplicateSettlement);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_cancels_nothing() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().automine = false;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/settle", listener.local_addr().unwrap());
    let api = open(&engine);
    let serving = tokio::spawn(async move { axum::serve(listener, api).await.unwrap() });
    let client = reqwest::Client::new();
    let hung_up = client.post(&url).json(&body("1")).timeout(Duration::from_millis(125));
    assert!(hung_up.send().await.unwrap_err().is_timeout());
    // The settlement went on, and the success waits for the next one who asks.
    bed.chain.state().mine();
    until("settled", || async { stage(&engine, "1").await == "settled" }).await;
    bed.chain.state().automine = true;
    let asked = async |nonce: &str| {
        let answer = client.post(&url).json(&body(nonce)).send().await.unwrap();
        decode_settled(&answer.bytes().await.unwrap(), &terms()).unwrap()
    };
    done(&asked("1").await);
    refused(asked("1").await, Refusal::DuplicateSettlement);
    done(&asked("2").await);
    assert_eq!(bed.chain.state().transfers, 2);
    serving.abort();
}

/// Collects everything that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_spendable_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let bed = Bed::new();
    let engine = bed.start().await;
    let key = "secret-api-key";
    let api = router(engine.clone(), Access::Keys(vec![KeyHash::of(key)]));
    // Good, forged, failing, lost and expired: every road that logs something.
    for (nonce, signature) in [("1", "good"), ("2", "bad"), ("3", "good"), ("4", "good")] {
        bed.chain.state().reverts_next = nonce == "3";
        bed.chain.state().time = if nonce == "4" { EXPIRES } else { 0 };
        let mut body = body(nonce);
        let signature = format!("{signature}-{CANARY}");
        body["paymentPayload"]["payload"]["signature"] = signature.into();
        for path in ["/verify", "/settle"] {
            let request = Request::post(path).header("authorization", format!("Bearer {key}"));
            let request = request.header("idempotency-key", CANARY);
            let request = request.body(Body::from(body.to_string())).unwrap();
            assert_eq!(ask(&api, request).await.status, StatusCode::OK);
        }
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("told settled") && log.contains("failed"), "nothing was logged: {log}");
    assert!(!log.contains(CANARY) && !log.contains(key), "{log}");
}
