//! Webhooks: signed, in order, until they are taken, across restarts, and never to where they may not go.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use pay402_facilitator::api::{Access, Api, KeyHash, Limits, Named, Role};
use pay402_facilitator::webhooks::{Of, Receiver, Targets, Webhook};
use pay402_facilitator::{Engine, Options};
use serde_json::Value;

use crate::api::{ask, body, read};
use crate::bed::{Bed, LONG, done, options, settle, stage, until};
use crate::chain::{EXPIRES, Undone, payment};
use crate::forget;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Takes webhooks and remembers them; refuses as many of each payment as it was told to.
#[derive(Clone, Default)]
struct Shop(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    taken: Vec<Value>,
    refused: HashMap<String, u32>,
    refuses: u32,
    down: bool,
}

impl Shop {
    async fn open(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new()
            .route("/hook", post(take))
            .route("/away", post(|| async { (StatusCode::FOUND, [("location", "/hook")]) }))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        address
    }

    fn taken(&self) -> Vec<Value> {
        self.0.lock().unwrap().taken.clone()
    }

    fn of(&self, nonce: &str) -> Vec<String> {
        let taken = self.taken().into_iter();
        let of = taken.filter(|event| of(event) == nonce);
        of.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }
}

fn of(event: &Value) -> &str {
    event["data"]["settlement"].as_str().unwrap().rsplit('~').next().unwrap()
}

async fn take(State(shop): State<Shop>, headers: HeaderMap, bytes: Bytes) -> StatusCode {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let body = std::str::from_utf8(&bytes).unwrap();
    let encoding = base64::engine::general_purpose::STANDARD;
    let key = encoding.decode(SECRET.trim_start_matches("whsec_")).unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    let expected = format!("v1,{}", encoding.encode(mac.finalize().into_bytes()));
    assert_eq!(header("webhook-signature"), expected);
    let event: Value = serde_json::from_str(body).unwrap();
    assert_eq!(id, format!("evt_{}", event["data"]["id"]));
    let mut inside = shop.0.lock().unwrap();
    let refuses = inside.refuses;
    let refused = inside.refused.entry(id).or_default();
    if *refused < refuses {
        *refused += 1;
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    if inside.down {
        return StatusCode::BAD_GATEWAY;
    }
    inside.taken.push(event);
    StatusCode::NO_CONTENT
}

fn hook(of: Of, at: SocketAddr, path: &str) -> Webhook {
    let url = format!("http://{at}{path}");
    let receiver = Receiver { url: &url, secret: SECRET, targets: Targets::DangerousPrivate };
    Webhook::new("webhook", of, receiver, Duration::from_millis(5)).unwrap()
}

fn with(webhooks: Vec<Webhook>) -> Options {
    Options { webhooks, ..options() }
}

fn keyed(engine: &Engine) -> Router {
    let named = |name: &str| Named {
        key: KeyHash::of(name),
        name: name.into(),
        role: Role::Caller,
        limits: Limits::default(),
    };
    let keys = ["alice", "bob"];
    let access = Access::Keys(keys.map(KeyHash::of).to_vec());
    let api = Api::counting(access, keys.map(named).to_vec(), Vec::new());
    api.open(engine.clone());
    api.router()
}

async fn pay(api: &Router, key: &str, nonce: &str) {
    let request =
        axum::http::Request::post("/settle").header("authorization", format!("Bearer {key}"));
    let answer = ask(api, request.body(body(nonce).to_string().into()).unwrap()).await;
    done(&answer.settled());
}

#[tokio::test]
async fn a_caller_is_sent_how_its_payments_ended() {
    let (bed, alice, all) = (Bed::new(), Shop::default(), Shop::default());
    let hooks = vec![
        hook(Of::Caller("alice".into()), alice.open().await, "/hook"),
        hook(Of::All, all.open().await, "/hook"),
    ];
    let engine = bed.start_with(with(hooks)).await;
    let api = keyed(&engine);
    pay(&api, "bob", "1").await;
    pay(&api, "alice", "2").await;
    until("all of it was sent", || async { all.taken().len() == 2 }).await;
    until("hers was sent", || async { alice.taken().len() == 1 }).await;
    let told = &alice.taken()[0];
    assert_eq!((of(told), &told["type"]), ("2", &"settlement.settled".into()));
    assert_eq!(told["data"]["amount"], "10000");
    assert!(told["timestamp"].as_str().unwrap().ends_with('Z'), "{told}");
    assert!(told["data"].get("fee").is_none(), "what it cost is the operator's");
    assert_eq!(all.taken().iter().filter(|event| event["data"]["enteredBy"] == "bob").count(), 1);
    let figures = read(&pay402_facilitator::api::router(engine, Access::Open), "/metrics").await;
    let line = "x402_webhook_events_total{webhook=\"operator\",outcome=\"delivered\"} 2";
    let figures = String::from_utf8(figures.body).unwrap();
    assert!(figures.contains(line), "{figures}");
}

#[tokio::test]
async fn who_delivered_is_sent_the_loss() {
    let (bed, alice, all) = (Bed::new(), Shop::default(), Shop::default());
    let hooks = vec![
        hook(Of::Caller("alice".into()), alice.open().await, "/hook"),
        hook(Of::All, all.open().await, "/hook"),
    ];
    let watch_every = Duration::from_millis(2);
    let engine = bed.start_with(Options { watch_every, ..with(hooks) }).await;
    pay(&keyed(&engine), "alice", "1").await;
    {
        let mut state = bed.chain.state();
        state.time = EXPIRES;
        state.reorganize(1, Undone::Lost);
    }
    for shop in [alice, all] {
        until("the loss was sent", || async { shop.taken().len() == 2 }).await;
        assert_eq!(shop.of("1"), ["settlement.settled", "settlement.reverted"]);
        let lost = &shop.taken()[1]["data"];
        assert_eq!((&lost["event"], &lost["amount"]), (&"reverted".into(), &"10000".into()));
        assert!(lost["reason"].is_string(), "{lost}");
    }
}

#[tokio::test]
async fn an_event_is_sent_until_it_is_taken() {
    let (bed, shop) = (Bed::new(), Shop::default());
    shop.0.lock().unwrap().refuses = 3;
    let hooks = vec![hook(Of::All, shop.open().await, "/hook")];
    let engine = bed.start_with(with(hooks)).await;
    for nonce in ["1", "2", "3"] {
        settle(&engine, payment(nonce), LONG).await;
    }
    until("all were taken", || async { shop.taken().len() == 3 }).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(shop.taken().len(), 3, "what was taken was sent again");
    assert!(shop.0.lock().unwrap().refused.values().all(|times| *times == 3));
}

/// What the process did not get rid of, the next one does; what it did, the next does not repeat.
#[tokio::test]
async fn nothing_is_lost_when_the_process_dies() {
    let (bed, shop) = (Bed::new(), Shop::default());
    let at = shop.open().await;
    let engine = bed.start_with(with(vec![hook(Of::All, at, "/hook")])).await;
    settle(&engine, payment("1"), LONG).await;
    until("it was taken", || async { shop.taken().len() == 1 }).await;
    shop.0.lock().unwrap().down = true;
    for nonce in ["2", "3"] {
        settle(&engine, payment(nonce), LONG).await;
    }
    engine.crash();
    drop(engine);
    shop.0.lock().unwrap().down = false;
    bed.clock.set(pay402_core::time::Clock::now(&*bed.clock).plus_s(30));
    let engine = bed.start_with(with(vec![hook(Of::All, at, "/hook")])).await;
    until("the rest was taken", || async { shop.taken().len() >= 3 }).await;
    for nonce in ["1", "2", "3"] {
        assert!(shop.of(nonce).contains(&"settlement.settled".to_owned()), "{nonce}");
    }
    // Set back, it is all sent once more, by the process that runs.
    let before = shop.taken().len();
    let journal = bed.journal();
    assert_eq!(journal.replay_hook("operator", 0).await, Ok(1));
    until("all was sent anew", || async { shop.taken().len() >= before + 3 }).await;
    drop(engine);
}

/// A hook that was not there before is sent what happens from then on.
#[tokio::test]
async fn a_new_hook_begins_now() {
    let (bed, shop) = (Bed::new(), Shop::default());
    let engine = bed.start().await;
    settle(&engine, payment("1"), LONG).await;
    engine.stop(LONG).await;
    drop(engine);
    let hooks = vec![hook(Of::All, shop.open().await, "/hook")];
    let engine = bed.start_with(with(hooks)).await;
    // Its place is taken a moment after the start.
    until("it has a place", || async {
        let at = bed.journal().hook("operator", &crate::chain::terms().network).await;
        at.unwrap().is_some()
    })
    .await;
    settle(&engine, payment("2"), LONG).await;
    until("the second was sent", || async { !shop.of("2").is_empty() }).await;
    assert_eq!(shop.of("1"), Vec::<String>::new());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (bed, shop) = (Bed::new(), Shop::default());
    let hooks = vec![hook(Of::All, shop.open().await, "/away")];
    let engine = bed.start_with(with(hooks)).await;
    settle(&engine, payment("1"), LONG).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(shop.taken(), Vec::<Value>::new());
}

#[test]
fn what_is_wrong_with_a_hook_is_said_without_its_secrets() {
    let make = |url: &str, secret: &str| {
        let receiver = Receiver { url, secret, targets: Targets::Public };
        Webhook::new("caller[0].webhook", Of::All, receiver, Duration::from_secs(1))
    };
    make("https://shop.example/hook/token", SECRET).unwrap();
    for (url, secret, field) in [
        ("http://shop.example/token", SECRET, "url"),
        ("https://10.0.0.1/token", SECRET, "url"),
        ("token", SECRET, "url"),
        ("https://shop.example/token", "whsec_token", "secret"),
        ("https://shop.example/token", "token", "secret"),
    ] {
        let error = make(url, secret).unwrap_err();
        assert_eq!(error.key, format!("caller[0].webhook.{field}"), "{error}");
        assert!(!error.to_string().contains("token"), "{error}");
    }
    let shown = format!("{:?}", make("https://shop.example/hook/token", SECRET).unwrap());
    assert!(!shown.contains("token") && !shown.contains("MfKQ"), "{shown}");
}

/// What waits for its receiver is what the history is kept for.
#[tokio::test]
async fn what_was_not_sent_is_not_forgotten() {
    let (bed, shop) = (Bed::new(), Shop::default());
    let at = shop.open().await;
    let webhooks = vec![hook(Of::All, at, "/hook")];
    let engine = bed.start_with(Options { webhooks, ..forget::forgetting() }).await;
    // It has begun.
    done(&settle(&engine, payment("first"), LONG).await);
    until("it is sent", || async { shop.of("first").len() == 1 }).await;
    shop.0.lock().unwrap().down = true;
    done(&settle(&engine, payment("1"), LONG).await);
    forget::age(&bed, EXPIRES + 1_000);
    until("the first is forgotten", || async { stage(&engine, "first").await.is_empty() }).await;
    let seen = bed.chain.state().headers;
    until("it is looked", || async { bed.chain.state().headers > seen + 12 }).await;
    assert_eq!(stage(&engine, "1").await, "settled");
    shop.0.lock().unwrap().down = false;
    until("it is sent", || async { shop.of("1") == ["settlement.settled"] }).await;
    until("it is forgotten", || async { stage(&engine, "1").await.is_empty() }).await;
}
