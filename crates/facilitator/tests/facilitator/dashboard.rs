//! The dashboard: who may look, what is shown, and that what is shown is text.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::request::Builder;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use pay402_core::time::{Clock as _, UnixTime};
use pay402_facilitator::Engine;
use pay402_facilitator::api::{Access, Api, KeyHash, Limits, Named, Role, router};
use tower::ServiceExt as _;

use crate::bed::{Bed, LONG, settle, stage, until};
use crate::chain::payment;

fn keyed(engine: &Engine) -> Router {
    let named = [("watch", Role::Operator), ("shop", Role::Caller)].map(|(name, role)| Named {
        key: KeyHash::of(name),
        name: name.into(),
        role,
        limits: Limits::default(),
    });
    let keys = ["watch", "shop", "nameless"].map(KeyHash::of).to_vec();
    let api = Api::counting(Access::Keys(keys), named.to_vec(), Vec::new());
    api.open(engine.clone());
    api.router()
}

struct Page {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

async fn ask(api: &Router, request: Builder, body: impl Into<Body>) -> Page {
    let answer = api.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    Page { status, headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

async fn get(api: &Router, path: &str) -> Page {
    ask(api, Request::get(path).header("host", "127.0.0.1:4020"), Body::empty()).await
}

async fn sign_in(api: &Router, key: &str, request: Builder) -> Page {
    ask(api, request.header("content-type", "text/plain"), format!("key={key}\r\n")).await
}

fn form() -> Builder {
    Request::post("/dashboard/session").header("host", "pay.example")
}

#[tokio::test]
async fn it_shows_where_everything_stands() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = router(engine.clone(), Access::Open);
    let empty = get(&api, "/dashboard").await;
    assert_eq!(empty.status, StatusCode::OK);
    assert!(empty.text.contains("None was entered yet."), "{}", empty.text);
    settle(&engine, payment("1"), LONG).await;
    bed.chain.state().reverts_next = true;
    settle(&engine, payment("2"), LONG).await;
    bed.chain.state().automine = false;
    settle(&engine, payment("3"), Duration::from_millis(50)).await;
    until("sent", || async { stage(&engine, "3").await == "sent" }).await;
    bed.clock.set(UnixTime(bed.clock.now().0 + 125));
    // What is told of the journal is a second old at most.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let shown = get(&api, "/dashboard").await.text;
    for part in [
        "<dt>Unfinished</dt><dd>1 ",
        "<dt>Oldest of them</dt><dd>2 min 5 s",
        "<dt>Settled</dt><dd>1 ",
        "<dt>Failed</dt><dd>1 ",
        "0xsigner",
        "invalid_transaction_state",
        "/dashboard/payments/eip155:84532~0xasset~0xpayer~3",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    let order = ["~3\"", "~2\"", "~1\""].map(|end| shown.find(end).expect("it is listed"));
    assert!(order.is_sorted(), "the newest is not first");
}

#[tokio::test]
async fn a_payment_is_shown_with_its_whole_history() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = router(engine.clone(), Access::Open);
    settle(&engine, payment("1"), LONG).await;
    let path = "/dashboard/payments/eip155:84532~0xasset~0xpayer~1";
    let shown = get(&api, path).await;
    assert_eq!(shown.status, StatusCode::OK);
    let places = ["entered", "signed", "settled"]
        .map(|name| shown.text.find(&format!(">{name}</span>")).expect("it is in the history"));
    let history = shown.text.find("History").unwrap();
    assert!(shown.text[history..].contains("nonce 0"), "{}", shown.text);
    assert!(places[2] < history, "its state stands above");
    let nobody = get(&api, "/dashboard/payments/eip155:84532~0xasset~0xpayer~9").await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND);
}

/// A name that a stranger chose is shown, and does nothing.
#[tokio::test]
async fn what_strangers_wrote_is_text() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = router(engine.clone(), Access::Open);
    let hostile = "<img src=x onerror=alert(1)>\"'";
    settle(&engine, payment(hostile), LONG).await;
    let list = get(&api, "/dashboard").await.text;
    let key = "/dashboard/payments/eip155:84532~0xasset~0xpayer~%3Cimg%20src";
    assert!(list.contains(key), "{list}");
    let start = list.find("/dashboard/payments/").unwrap();
    let path = &list[start..start + list[start..].find('"').unwrap()];
    let page = get(&api, path).await;
    assert_eq!(page.status, StatusCode::OK);
    for shown in [&list, &page.text] {
        assert!(!shown.contains("<img"), "{shown}");
    }
}

#[tokio::test]
async fn the_browser_runs_nothing_but_what_is_ours() {
    use base64::Engine as _;
    use sha2::Digest as _;
    let bed = Bed::new();
    let engine = bed.start().await;
    let page = get(&router(engine, Access::Open), "/dashboard").await;
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    for tag in ["style", "script"] {
        let (_, rest) = page.text.split_once(&format!("<{tag}>")).unwrap();
        let (inside, _) = rest.split_once(&format!("</{tag}>")).unwrap();
        let hash = base64::engine::general_purpose::STANDARD
            .encode(sha2::Sha256::digest(inside.as_bytes()));
        assert!(policy.contains(&format!("{tag}-src 'sha256-{hash}'")), "{tag}: {policy}");
    }
    for outside in ["http://", "https://", "//"] {
        let (_, body) = page.text.split_once("<body>").unwrap();
        let (body, _) = body.split_once("<script>").unwrap();
        assert!(!body.contains(outside), "{body}");
    }
    assert_eq!(page.headers["x-frame-options"], "DENY");
    assert_eq!(page.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn a_key_of_an_operator_opens_it_for_a_while() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = keyed(&engine);
    let asked = get(&api, "/dashboard").await;
    assert_eq!(asked.status, StatusCode::UNAUTHORIZED);
    assert!(asked.text.contains("type=password"), "{}", asked.text);

    let signed_in = sign_in(&api, "watch", form().header("origin", "https://pay.example")).await;
    assert_eq!(signed_in.status, StatusCode::SEE_OTHER);
    let cookie = signed_in.headers["set-cookie"].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Secure", "Max-Age=3600"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("watch"), "the key is in the cookie");
    let cookie = cookie.split(';').next().unwrap();
    let with = |path: &str, cookie: &str| {
        let request = Request::get(path.to_owned()).header("cookie", cookie.to_owned());
        let api = api.clone();
        async move { ask(&api, request, Body::empty()).await }
    };
    assert_eq!(with("/dashboard", cookie).await.status, StatusCode::OK);
    let mixed = format!("a=b; {cookie}; c=d");
    assert_eq!(with("/dashboard", &mixed).await.status, StatusCode::OK);
    let forged = format!("{}0", &cookie[..cookie.len() - 1]);
    let forged = if forged == cookie { format!("{cookie}1") } else { forged };
    assert_eq!(with("/dashboard", &forged).await.status, StatusCode::UNAUTHORIZED);
    // It opens nothing that moves money or tells figures.
    assert_eq!(with("/metrics", cookie).await.status, StatusCode::UNAUTHORIZED);
    let post = Request::post("/settle").header("cookie", cookie);
    let settled = ask(&api, post.header("content-type", "application/json"), "{}").await;
    assert_eq!(settled.status, StatusCode::UNAUTHORIZED);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3_601)).await;
    assert_eq!(with("/dashboard", cookie).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn nobody_else_gets_in() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = keyed(&engine);
    for (key, expected) in [
        ("shop", StatusCode::FORBIDDEN),
        ("nameless", StatusCode::FORBIDDEN),
        ("stranger", StatusCode::UNAUTHORIZED),
        ("", StatusCode::UNAUTHORIZED),
    ] {
        let told = sign_in(&api, key, form()).await;
        assert_eq!(told.status, expected, "{key}");
        assert!(!told.headers.contains_key("set-cookie"), "{key}");
        if !key.is_empty() {
            let bearer =
                Request::get("/dashboard").header("authorization", format!("Bearer {key}"));
            assert_eq!(ask(&api, bearer, Body::empty()).await.status, expected, "{key}");
        }
    }
    // Another site's page sends its own form.
    for origin in ["https://evil.example", "null", "https://pay.example.evil.example"] {
        let told = sign_in(&api, "watch", form().header("origin", origin)).await;
        assert_eq!(told.status, StatusCode::FORBIDDEN, "{origin}");
    }
    let long = "x".repeat(10_000);
    assert_eq!(sign_in(&api, &long, form()).await.status, StatusCode::UNAUTHORIZED);
    // Without keys it is for this machine, by its own name.
    let open = router(engine, Access::Open);
    for (name, value) in [("host", "page.example"), ("origin", "http://127.0.0.1:4020")] {
        let request = Request::get("/dashboard").header(name, value);
        assert_eq!(
            ask(&open, request, Body::empty()).await.status,
            StatusCode::FORBIDDEN,
            "{name}"
        );
    }
    assert_eq!(sign_in(&open, "watch", form()).await.status, StatusCode::UNAUTHORIZED);
}
