//! What happens, as it is told while it happens.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{Request, StatusCode};
use futures_util::StreamExt as _;
use pay402_core::Digest;
use pay402_core::time::UnixTime;
use pay402_facilitator::Engine;
use pay402_facilitator::api::{Access, Api, KeyHash, Limits, Named, Role};
use serde_json::Value;
use tower::ServiceExt as _;

use crate::api::{ask, body};
use crate::bed::{Bed, LONG, done, settle, stage, until};
use crate::chain::{EXPIRES, NOW, payment};
use crate::forget;
use crate::openapi::Document;

const CALLERS: [(&str, Role); 3] =
    [("alice", Role::Caller), ("bob", Role::Caller), ("watch", Role::Operator)];

/// An API for callers whose keys are their names.
fn keyed(engine: &Engine) -> Api {
    let named = |(name, role): (&str, Role)| {
        let (key, name) = (KeyHash::of(name), name.into());
        Named { key, name, role, limits: Limits::default() }
    };
    let mut keys: Vec<_> = CALLERS.iter().map(|(name, _)| KeyHash::of(name)).collect();
    keys.push(KeyHash::of("nameless"));
    let api = Api::counting(Access::Keys(keys), CALLERS.map(named).to_vec(), Vec::new());
    api.open(engine.clone());
    api
}

async fn pay(api: &Router, key: &str, nonce: &str) {
    let request = Request::post("/settle").header("authorization", format!("Bearer {key}"));
    let request = request.body(Body::from(body(nonce).to_string())).unwrap();
    let answer = ask(api, request).await;
    done(&answer.settled());
}

struct Stream {
    body: BodyDataStream,
    text: String,
}

impl Stream {
    async fn open(api: &Router, key: &str, after: Option<u64>) -> Self {
        let request = Request::get("/events").header("authorization", format!("Bearer {key}"));
        let request = match after {
            Some(after) => request.header("last-event-id", after.to_string()),
            None => request,
        };
        let answer = api.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { body: answer.into_body().into_data_stream(), text: String::new() }
    }

    /// The next event, or `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                if let Some(event) = event(&block) {
                    return Some(event);
                }
            }
            let more = tokio::time::timeout(LONG, self.body.next()).await.expect("no event came");
            self.text.push_str(std::str::from_utf8(&more?.unwrap()).unwrap());
        }
    }

    /// Events up to the one that says that a payment ended.
    async fn until_end(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await.expect("the stream goes on");
            let ended = ["settled", "failed"].contains(&event["event"].as_str().unwrap());
            events.push(event);
            if ended {
                return events;
            }
        }
    }
}

/// An event's data, with its id and name checked against what stands around it.
fn event(block: &str) -> Option<Value> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    let data: Value = serde_json::from_str(field("data")?).unwrap();
    assert_eq!(field("id"), Some(&*data["id"].to_string()));
    assert_eq!(field("event"), data["event"].as_str());
    Some(data)
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

fn of(event: &Value) -> &str {
    event["settlement"].as_str().unwrap().rsplit('~').next().unwrap()
}

#[tokio::test]
async fn a_caller_is_told_what_it_entered_and_nothing_of_others() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = keyed(&engine).router();
    let mut alice = Stream::open(&api, "alice", None).await;
    let mut watch = Stream::open(&api, "watch", None).await;
    pay(&api, "bob", "1").await;
    pay(&api, "alice", "2").await;
    let told = alice.until_end().await;
    assert_eq!(names(&told).first(), Some(&"entered"));
    assert!(told.iter().all(|event| of(event) == "2"), "{told:?}");
    let last = told.last().unwrap();
    assert_eq!((&last["payer"], &last["amount"]), (&"0xpayer".into(), &"10000".into()));
    assert_eq!((&last["network"], &last["at"]), (&"eip155:84532".into(), &NOW.into()));
    assert!(last["transaction"].is_string() && last["block"].is_number(), "{last}");
    for ours in ["enteredBy", "delivery", "fee", "signer", "nonce"] {
        assert!(told.iter().all(|event| event.get(ours).is_none()), "{ours} is for operators");
    }
    let mut all = watch.until_end().await;
    all.extend(watch.until_end().await);
    assert_eq!((of(&all[0]), &all[0]["enteredBy"]), ("1", &"bob".into()));
    let document = Document::of(&api).await;
    for event in all.iter().chain(&told) {
        document.check("/components/schemas/Event", event).unwrap();
    }
    assert!(all.iter().any(|event| of(event) == "2" && event["enteredBy"] == "alice"), "{all:?}");
}

#[tokio::test]
async fn a_stream_is_taken_up_after_the_last_event_without_a_gap() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = keyed(&engine).router();
    let mut first = Stream::open(&api, "alice", None).await;
    pay(&api, "alice", "1").await;
    let begun = first.until_end().await;
    drop(first);
    // More than a page of others' in between.
    for nonce in 0..70 {
        settle(&engine, payment(&format!("other {nonce}")), LONG).await;
    }
    pay(&api, "alice", "2").await;
    let last = begun.last().unwrap()["id"].as_u64().unwrap();
    let mut again = Stream::open(&api, "alice", Some(last)).await;
    let missed = again.until_end().await;
    assert!(missed.iter().all(|event| of(event) == "2"), "{missed:?}");
    assert_eq!(names(&missed).first(), Some(&"entered"));
    pay(&api, "alice", "3").await;
    assert!(again.until_end().await.iter().all(|event| of(event) == "3"));
    // From the very first on: the same again.
    let mut whole = Stream::open(&api, "alice", Some(0)).await;
    assert_eq!(whole.until_end().await, begun);
    assert_eq!(whole.until_end().await, missed);
    // Another process goes on where this one was.
    let engine = bed.restart(engine).await;
    let api = keyed(&engine).router();
    let mut later = Stream::open(&api, "alice", Some(last)).await;
    assert_eq!(later.until_end().await, missed);
}

#[tokio::test]
async fn everything_is_told_where_there_are_no_callers() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = pay402_facilitator::api::router(engine.clone(), Access::Open);
    let request = Request::get("/events?after=0").body(Body::empty()).unwrap();
    settle(&engine, payment("1"), LONG).await;
    let answer = api.oneshot(request).await.unwrap();
    let mut stream = Stream { body: answer.into_body().into_data_stream(), text: String::new() };
    let told = stream.until_end().await;
    assert_eq!(told.last().unwrap()["delivery"], "delivered");
    assert!(told.iter().any(|event| event["signer"] == "0xsigner"), "{told:?}");
}

#[tokio::test]
async fn what_cannot_be_followed_is_said() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = keyed(&engine).router();
    let get = |key: &str, after: &str| {
        let request = Request::get("/events").header("authorization", format!("Bearer {key}"));
        request.header("last-event-id", after).body(Body::empty()).unwrap()
    };
    for bad in ["", "-1", "+1", "1x", "99999999999999999999999", "5"] {
        let answer = ask(&api, get("alice", bad)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad:?}");
        assert_eq!(answer.json()["field"], "Last-Event-ID");
    }
    assert_eq!(ask(&api, get("nameless", "0")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(ask(&api, get("nobody", "0")).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn streams_are_few_and_a_place_is_given_back() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = keyed(&engine).router();
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(Stream::open(&api, "alice", None).await);
    }
    let get = || {
        let request = Request::get("/events").header("authorization", "Bearer alice");
        request.body(Body::empty()).unwrap()
    };
    let refused = ask(&api, get()).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.json()["error"], "too_many_streams");
    Stream::open(&api, "bob", None).await;
    open.pop();
    until("a place is free again", || async {
        let answer = api.clone().oneshot(get()).await.unwrap();
        answer.status() == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn streams_end_when_the_process_stops() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = keyed(&engine);
    let router = api.router();
    let mut stream = Stream::open(&router, "alice", None).await;
    pay(&router, "alice", "1").await;
    engine.stop(LONG).await;
    api.close();
    stream.until_end().await;
    assert_eq!(stream.next().await, None);
}

/// Nobody is waited for: a reader that takes nothing is let go, and what it missed is still there.
#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_off() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = keyed(&engine).router();
    let mut slow = Stream::open(&api, "watch", None).await;
    for nonce in 0..40 {
        settle(&engine, payment(&nonce.to_string()), LONG).await;
    }
    assert_eq!(stage(&engine, "39").await, "settled", "it was waited for");
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(30)).await;
    tokio::time::resume();
    let mut last = 0;
    while let Some(event) = slow.next().await {
        last = event["id"].as_u64().unwrap();
    }
    let mut again = Stream::open(&api, "watch", Some(last)).await;
    assert_eq!(again.next().await.unwrap()["id"].as_u64(), Some(last + 1));
}

#[tokio::test]
async fn a_proof_of_a_request_is_not_told() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let caller = Digest::of(&[b"canary"]);
    engine.settle_for(Some(caller), payment("1"), LONG).await.unwrap();
    let api = pay402_facilitator::api::router(engine, Access::Open);
    let request = Request::get("/events?after=0").body(Body::empty()).unwrap();
    let body = api.oneshot(request).await.unwrap().into_body().into_data_stream();
    let mut stream = Stream { body, text: String::new() };
    let told = format!("{:?}", stream.until_end().await);
    let hex: String = caller.0.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!told.contains(&hex), "{told}");
}

/// Whoever was away for longer than events are kept is told so, and from where on they are.
#[tokio::test]
async fn a_gap_is_told_and_never_passed_over() {
    let bed = Bed::new();
    let engine = bed.start_with(forget::forgetting()).await;
    let api = keyed(&engine).router();
    pay(&api, "alice", "1").await;
    let mut stream = Stream::open(&api, "alice", Some(0)).await;
    let last = stream.until_end().await.last().unwrap()["id"].as_u64().unwrap();
    forget::age(&bed, EXPIRES + 1_000);
    until("it is forgotten", || async { stage(&engine, "1").await.is_empty() }).await;
    bed.chain.state().time = NOW;
    bed.clock.set(UnixTime(NOW));
    pay(&api, "alice", "2").await;
    let get = |after: u64| {
        let request = Request::get("/events").header("authorization", "Bearer alice");
        request.header("last-event-id", after.to_string()).body(Body::empty()).unwrap()
    };
    for after in [0, last - 1] {
        let answer = api.clone().oneshot(get(after)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::GONE);
        let told = axum::body::to_bytes(answer.into_body(), 10_000).await.unwrap();
        let told: Value = serde_json::from_slice(&told).unwrap();
        assert_eq!((&told["error"], &told["after"]), (&"gone".into(), &last.into()));
    }
    let mut again = Stream::open(&api, "alice", Some(last)).await;
    assert!(again.until_end().await.iter().all(|event| of(event) == "2"));
}
