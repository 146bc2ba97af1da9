//! The document of the API, held against what the API answers.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use boon::{Compiler, Draft, Schemas};
use http_body_util::BodyExt as _;
use pay402_core::WireVersion;
use pay402_core::wire::MESSAGE_BYTES_MAX;
use pay402_core::{Payment, Refusal};
use pay402_facilitator::Options;
use pay402_facilitator::api::{Access, Api, KeyHash, router};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::api::{body, open, read, request};
use crate::bed::{Bed, LONG, done, options, settle, stage, until};
use crate::chain::{EXPIRES, payment, presented, terms};
use crate::faults::flaky;
use crate::forget;

const PLACE: &str = "http://document.test/openapi.json";

/// Answers that no test here waits for: a body takes ten seconds to be late, a stream does not end, and a redirect has no body.
const NOT_PROVOKED: [&str; 5] = [
    "POST /verify 408",
    "POST /settle 408",
    "POST /account 408",
    "GET /events 200",
    "POST /dashboard/session 303",
];

pub struct Document {
    json: Value,
    provoked: BTreeSet<String>,
}

fn escape(part: &str) -> String {
    part.replace('~', "~0").replace('/', "~1")
}

impl Document {
    pub async fn of(api: &Router) -> Self {
        Self { json: read(api, "/openapi.json").await.json(), provoked: BTreeSet::new() }
    }

    fn at(&self, pointer: &str) -> &Value {
        self.json.pointer(pointer).unwrap_or_else(|| panic!("nothing at {pointer}"))
    }

    /// Where a response is described, behind its reference if it is one.
    fn response(&self, path: &str, method: &str, status: u16) -> Option<String> {
        let pointer =
            format!("/paths/{}/{}/responses/{status}", escape(path), method.to_lowercase());
        let response = self.json.pointer(&pointer)?;
        Some(match &response["$ref"] {
            Value::String(reference) => reference.trim_start_matches('#').to_owned(),
            _ => pointer,
        })
    }

    /// Whether `value` has the form that the schema at `pointer` asks for.
    pub fn check(&self, pointer: &str, value: &Value) -> Result<(), String> {
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V2020_12);
        compiler.add_resource(PLACE, self.json.clone()).unwrap();
        let mut schemas = Schemas::new();
        let schema = compiler.compile(&format!("{PLACE}#{pointer}"), &mut schemas).unwrap();
        schemas.validate(value, schema).map_err(|error| error.to_string())
    }

    /// Asks, and holds the answer against its description.
    async fn ask(&mut self, api: &Router, path: &str, request: Request<Body>) -> StatusCode {
        let method = request.method().to_string();
        let answer = api.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let what = format!("{method} {path} {}", status.as_u16());
        let described = self.response(path, &method, status.as_u16());
        let described = described.unwrap_or_else(|| panic!("{what} is not in the document"));
        let media_type = answer.headers()["content-type"].to_str().unwrap();
        let media_type = media_type.split(';').next().unwrap().to_owned();
        if let Some(Value::Object(headers)) = self.at(&described).get("headers") {
            for name in headers.keys().filter(|name| *name != "Settlement-Id") {
                assert!(answer.headers().contains_key(name), "{what} lacks {name}");
            }
        }
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let schema = format!("{described}/content/{}/schema", escape(&media_type));
        let value = match media_type.as_str() {
            "application/json" => serde_json::from_slice(&bytes).unwrap(),
            _ => Value::String(String::from_utf8(bytes.to_vec()).unwrap()),
        };
        if let Err(error) = self.check(&schema, &value) {
            panic!("{what}: {value}\n{error}");
        }
        self.provoked.insert(what);
        status
    }

    async fn get(&mut self, api: &Router, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).unwrap();
        self.ask(api, path, request).await
    }

    async fn post(&mut self, api: &Router, path: &str, body: impl Into<Body>) -> StatusCode {
        let request = Request::post(path).header("content-type", "application/json");
        self.ask(api, path, request.body(body.into()).unwrap()).await
    }

    async fn look(&mut self, api: &Router, nonce: &str, proof: Option<&str>) -> StatusCode {
        let uri = format!("/settlements/eip155:84532~0xasset~0xpayer~{nonce}");
        let mut request = Request::get(uri).header("authorization", "Bearer key");
        if let Some(proof) = proof {
            request = request.header("idempotency-key", proof);
        }
        self.ask(api, "/settlements/{id}", request.body(Body::empty()).unwrap()).await
    }
}

fn adoption() -> String {
    json!({"network": "eip155:84532", "account": "0xa"}).to_string()
}

#[tokio::test]
async fn every_answer_is_described_and_every_description_is_true() {
    let bed = Bed::new();
    let (journal, faults) = flaky(&bed);
    let settle_wait_max = Duration::from_millis(300);
    let call_timeout = Duration::from_millis(40);
    let options = Options { settle_wait_max, call_timeout, ..options() };
    let engine = bed.start_on(journal, options).await;
    let api = open(&engine);
    let keyed = router(engine.clone(), Access::Keys(vec![KeyHash::of("key")]));
    let mut document = Document::of(&api).await;
    let document = &mut document;

    // What is asked of all that is well.
    for path in ["/verify", "/settle", "/account", "/supported", "/health"] {
        assert_eq!(document.get(&api, path).await, StatusCode::OK);
    }
    for path in ["/livez", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(document.get(&api, path).await, StatusCode::OK);
    }
    // Payments of both versions, good and bad, known and pending.
    let v1 = Payment::pair(terms(), presented(WireVersion::V1, &terms(), "v1")).unwrap();
    let mut forged = body("2");
    forged["paymentPayload"]["payload"]["signature"] = "bad".into();
    for payment in [body("1"), request(&v1), forged, body("1")] {
        let schema = "/paths/~1settle/post/requestBody/content/application~1json/schema";
        document.check(schema, &payment).unwrap();
        for path in ["/verify", "/settle"] {
            assert_eq!(document.post(&api, path, payment.to_string()).await, StatusCode::OK);
        }
    }
    bed.chain.state().automine = false;
    assert_eq!(document.post(&api, "/settle", body("3").to_string()).await, StatusCode::OK);
    bed.chain.state().automine = true;
    bed.chain.state().mine();
    assert_eq!(document.post(&api, "/account", adoption()).await, StatusCode::BAD_REQUEST);
    let elsewhere = adoption().replace("84532", "1");
    assert_eq!(document.post(&api, "/account", elsewhere).await, StatusCode::OK);

    // Settlements that are looked up.
    let keyed_call = |method: Method, uri: &str, body: String| {
        let request = Request::builder().method(method).uri(uri);
        let request = request.header("authorization", "Bearer key").header("idempotency-key", "id");
        request.body(Body::from(body)).unwrap()
    };
    for (nonce, reverts) in [("k1", false), ("k2", true)] {
        bed.chain.state().reverts_next = reverts;
        let call = keyed_call(Method::POST, "/settle", body(nonce).to_string());
        assert_eq!(document.ask(&keyed, "/settle", call).await, StatusCode::OK);
        assert_eq!(document.look(&keyed, nonce, Some("id")).await, StatusCode::OK);
    }
    assert_eq!(document.look(&keyed, "k1", Some("other")).await, StatusCode::NOT_FOUND);
    assert_eq!(document.look(&keyed, "k1", None).await, StatusCode::BAD_REQUEST);
    assert_eq!(document.look(&api, "k1", Some("id")).await, StatusCode::FORBIDDEN);
    let nobody = Request::get("/settlements/x").body(Body::empty()).unwrap();
    let told = document.ask(&keyed, "/settlements/{id}", nobody).await;
    assert_eq!(told, StatusCode::UNAUTHORIZED);

    // Whoever may not, and what nobody may send.
    for path in ["/verify", "/settle", "/account"] {
        assert_eq!(document.post(&keyed, path, "{}").await, StatusCode::UNAUTHORIZED);
        assert_eq!(document.post(&api, path, "{}").await, StatusCode::BAD_REQUEST);
        let long = vec![b' '; MESSAGE_BYTES_MAX + 1];
        assert_eq!(document.post(&api, path, long).await, StatusCode::PAYLOAD_TOO_LARGE);
        let text = Request::post(path).body(Body::from("{}")).unwrap();
        assert_eq!(document.ask(&api, path, text).await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let page = Request::post(path).header("origin", "null").body(Body::from("{}")).unwrap();
        assert_eq!(document.ask(&api, path, page).await, StatusCode::FORBIDDEN);
    }
    assert_eq!(document.get(&keyed, "/metrics").await, StatusCode::UNAUTHORIZED);
    assert_eq!(document.get(&keyed, "/events").await, StatusCode::UNAUTHORIZED);
    let nameless = keyed_call(Method::GET, "/events", String::new());
    assert_eq!(document.ask(&keyed, "/events", nameless).await, StatusCode::FORBIDDEN);
    let form = |key: &str| {
        Request::post("/dashboard/session").body(Body::from(format!("key={key}"))).unwrap()
    };
    assert_eq!(
        document.ask(&keyed, "/dashboard/session", form("x")).await,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        document.ask(&keyed, "/dashboard/session", form("key")).await,
        StatusCode::FORBIDDEN
    );
    let one = "/dashboard/payments/{id}";
    let payment_page = |nonce: &str, key: &str| {
        let uri = format!("/dashboard/payments/eip155:84532~0xasset~0xpayer~{nonce}");
        let request = Request::get(uri).header("authorization", format!("Bearer {key}"));
        request.body(Body::empty()).unwrap()
    };
    assert_eq!(document.get(&api, "/dashboard").await, StatusCode::OK);
    assert_eq!(document.get(&keyed, "/dashboard").await, StatusCode::UNAUTHORIZED);
    let nameless = keyed_call(Method::GET, "/dashboard", String::new());
    assert_eq!(document.ask(&keyed, "/dashboard", nameless).await, StatusCode::FORBIDDEN);
    for (who, nonce, key, status) in [
        (&api, "1", "", StatusCode::OK),
        (&api, "never", "", StatusCode::NOT_FOUND),
        (&keyed, "1", "x", StatusCode::UNAUTHORIZED),
        (&keyed, "1", "key", StatusCode::FORBIDDEN),
    ] {
        assert_eq!(document.ask(who, one, payment_page(nonce, key)).await, status);
    }
    let ahead = Request::get("/events").header("last-event-id", "100000").body(Body::empty());
    assert_eq!(document.ask(&api, "/events", ahead.unwrap()).await, StatusCode::BAD_REQUEST);
    let page = Request::get("/metrics").header("host", "page.example").body(Body::empty()).unwrap();
    assert_eq!(document.ask(&api, "/metrics", page).await, StatusCode::FORBIDDEN);

    // What is deleted by now.
    let other = Bed::new();
    let forgetful = other.start_with(forget::forgetting()).await;
    done(&settle(&forgetful, payment("1"), LONG).await);
    forget::age(&other, EXPIRES + 1_000);
    until("it is forgotten", || async { stage(&forgetful, "1").await.is_empty() }).await;
    let behind = Request::get("/events?after=0").body(Body::empty()).unwrap();
    assert_eq!(document.ask(&open(&forgetful), "/events", behind).await, StatusCode::GONE);

    // What cannot be told.
    bed.chain.state().hangs = true;
    for path in ["/verify", "/settle"] {
        let told = document.post(&api, path, body("9").to_string()).await;
        assert_eq!(told, StatusCode::SERVICE_UNAVAILABLE);
    }
    faults.down.store(true, Ordering::SeqCst);
    assert_eq!(document.get(&api, "/dashboard").await, StatusCode::SERVICE_UNAVAILABLE);
    let told = document.ask(&api, one, payment_page("1", "")).await;
    assert_eq!(told, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(document.look(&keyed, "k1", Some("id")).await, StatusCode::SERVICE_UNAVAILABLE);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(document.get(&api, "/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
    faults.down.store(false, Ordering::SeqCst);
    engine.stop(Duration::ZERO).await;
    assert_eq!(document.get(&api, "/health").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(document.get(&api, "/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(document.post(&api, "/account", adoption()).await, StatusCode::BAD_REQUEST);

    // And before the start.
    let starting = Api::new(Access::Open).router();
    for path in ["/supported", "/health", "/readyz", "/metrics", "/events"] {
        assert_eq!(document.get(&starting, path).await, StatusCode::SERVICE_UNAVAILABLE);
    }
    for path in ["/verify", "/settle", "/account"] {
        let told = document.post(&starting, path, "{}").await;
        assert_eq!(told, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(document.get(&starting, "/openapi.json").await, StatusCode::OK);

    let described = document.at("/paths").as_object().unwrap().iter();
    let described: BTreeSet<_> = described
        .flat_map(|(path, operations)| {
            let operations = operations.as_object().unwrap().iter();
            operations.flat_map(move |(method, operation)| {
                let statuses = operation["responses"].as_object().unwrap().keys();
                statuses.map(move |status| format!("{} {path} {status}", method.to_uppercase()))
            })
        })
        .collect();
    let mut provoked = document.provoked.clone();
    provoked.extend(NOT_PROVOKED.map(str::to_owned));
    assert_eq!(described, provoked);
}

#[tokio::test]
async fn every_example_has_the_form_that_it_is_an_example_of() {
    let document = Document::of(&Api::new(Access::Open).router()).await;
    fn examples(value: &Value, pointer: &str, found: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(map) => {
                if let (Some(example), Some(_)) = (map.get("example"), map.get("schema")) {
                    found.push((format!("{pointer}/schema"), example.clone()));
                }
                for (key, value) in map {
                    examples(value, &format!("{pointer}/{}", escape(key)), found);
                }
            }
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    examples(value, &format!("{pointer}/{index}"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    examples(&document.json, "", &mut found);
    assert!(found.len() > 15, "{}", found.len());
    for (schema, example) in found {
        document.check(&schema, &example).unwrap_or_else(|error| panic!("{schema}: {error}"));
    }
    // The schemas can refuse.
    let verdict = "/components/schemas/Verdict";
    let code = Refusal::InsufficientFunds.code();
    let invalid = json!({"isValid": false, "invalidReason": code, "invalidMessage": "x"});
    document.check(verdict, &invalid).unwrap();
    for bad in [
        json!({"isValid": "true", "payer": "0x"}),
        json!({"isValid": false, "invalidReason": "no_such_code", "invalidMessage": "x"}),
        json!({"isValid": true, "payer": "0x", "more": 1}),
    ] {
        document.check(verdict, &bad).unwrap_err();
    }
}
