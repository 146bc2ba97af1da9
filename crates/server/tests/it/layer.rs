//! The tower layer around axum routes and around a service that is not axum's.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use pay402_core::Scheme;
use pay402_core::transport::http::read_payment_required;
use pay402_server::{Admission, Answer, Charge, PaidBy, RequestMeta, ResourceServer};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::stage::{self, ASSET, FakeScheme, PAYER, Stage, paid, presented, route, send, with};

#[tokio::test]
async fn the_handler_sees_who_pays_and_not_the_payment() {
    let stage = Stage::new().await;
    let app = stage.app(route(), |request| async move {
        for name in ["payment-signature", "x-payment"] {
            assert!(request.headers().get(name).is_none(), "{name} reached the handler");
        }
        let paid_by = request.extensions().get::<PaidBy>().expect("the gate says who pays");
        assert_eq!(paid_by.payer, PAYER);
        assert_eq!((paid_by.amount, paid_by.decimals), (10_000.into(), 6));
        assert_eq!(paid_by.scheme, Scheme::EXACT);
        assert_eq!(paid_by.asset.address, ASSET.to_lowercase());
        Response::new(Body::from(paid_by.payment.to_string()))
    });
    let got = send(&app, paid("7", None)).await;
    assert!(got.paid(), "{got:?}");
    assert!(got.text().ends_with("/7"), "{}", got.text());
}

#[tokio::test]
async fn one_layer_guards_one_route_and_leaves_the_others() {
    let stage = Stage::new().await;
    let layer = stage.server.layer(route()).unwrap();
    let app = Router::new()
        .route("/paid", get(async || "data").layer(layer))
        .route("/health", get(async || "ok"));
    assert_eq!(send(&app, stage::get("/health")).await.text(), "ok");
    assert_eq!(send(&app, stage::get("/paid")).await.status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(send(&app, paid("1", None)).await.text(), "data");
}

#[tokio::test]
async fn a_nested_route_sells_its_whole_url() {
    let stage = Stage::new().await;
    let layer = stage.server.layer(route().mounted_at("/v1")).unwrap();
    let inner = Router::new().route("/paid", get(async || "data")).route_layer(layer);
    let app = Router::new().nest("/v1", inner);
    let got = send(&app, stage::get("/v1/paid")).await;
    let required = read_payment_required(&got.headers, &[]).unwrap();
    assert_eq!(required.resource.url, "https://api.example.com/v1/paid");
    assert!(send(&app, with(stage::get("/v1/paid"), &presented("1", None))).await.paid());
}

#[tokio::test]
async fn any_tower_service_can_be_sold() {
    let stage = Stage::new().await;
    let service = service_fn(|_request: Request<Empty<Bytes>>| async {
        Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from("plain tower"))))
    });
    let sold = stage.server.layer(route()).unwrap().layer(service);
    let ask = |headers: Option<http::HeaderMap>| {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = "/x".parse().unwrap();
        *request.headers_mut() = headers.unwrap_or_default();
        sold.clone().oneshot(request)
    };
    assert_eq!(ask(None).await.unwrap().status(), StatusCode::PAYMENT_REQUIRED);
    let (headers, _) = paid("1", None).into_parts();
    let response = ask(Some(headers.headers)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "plain tower");
}

#[tokio::test]
async fn a_service_that_fails_gives_the_payment_back() {
    let stage = Stage::new().await;
    let failing = service_fn(|_request: Request<Body>| async {
        Err::<http::Response<Full<Bytes>>, _>("connection to the origin broke")
    });
    let sold = stage.server.layer(route()).unwrap().layer(failing);
    assert_eq!(sold.oneshot(paid("1", None)).await.err(), Some("connection to the origin broke"));
    stage.released("1").await;
    assert_eq!(stage.settled(), 0);
}

#[tokio::test]
async fn the_gate_works_without_a_framework() {
    let stage = Stage::new().await;
    let gate = stage.server.gate(route()).unwrap();
    let (parts, _) = paid("1", None).into_parts();
    let Admission::Serve(ticket) = gate.admit(RequestMeta::of(&parts)).await else {
        panic!("a good payment was not admitted")
    };
    assert_eq!(format!("{ticket:?}").matches("good").count(), 0, "the payment was printed");
    let content = Answer {
        status: StatusCode::CREATED,
        headers: http::HeaderMap::new(),
        body: Bytes::from("data"),
    };
    let answer = gate.settle(ticket, Charge::ceiling(), content).await;
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::CREATED, &b"data"[..]));
    assert!(answer.headers.contains_key("payment-response"));

    let (parts, _) = paid("2", None).into_parts();
    let Admission::Serve(ticket) = gate.admit(RequestMeta::of(&parts)).await else { panic!() };
    gate.release(ticket).await;
    assert!(stage.state("2").await.is_none());
}

#[tokio::test]
async fn without_a_public_url_only_loopback_names_are_believed() {
    let facilitator = Stage::new().await.facilitator;
    let server =
        ResourceServer::builder(facilitator, Arc::<pay402_server::MemoryGrants>::default())
            .scheme(Arc::new(FakeScheme))
            .loopback_urls()
            .start()
            .await
            .unwrap();
    let layer = server.layer(route()).unwrap();
    let app = Router::new().route("/paid", get(async || "data")).route_layer(layer);
    let at = |host: &str| {
        let mut request = stage::get("/paid?x=1");
        request.headers_mut().insert("host", host.parse().unwrap());
        request
    };
    for host in ["127.0.0.1:4021", "localhost:1"] {
        let got = send(&app, at(host)).await;
        let required = read_payment_required(&got.headers, &[]).unwrap();
        assert_eq!(required.resource.url, format!("http://{host}/paid?x=1"));
    }
    let got = send(&app, at("evil.example")).await;
    assert_eq!(got.status, StatusCode::BAD_REQUEST);
    assert!(got.text().contains("public_url"), "{}", got.text());
    let got = send(&app, with(at("evil.example"), &presented("1", None))).await;
    assert_eq!(got.status, StatusCode::BAD_REQUEST);
}
