//! What a collector is sent by a facilitator that is told where it is, and what becomes of a facilitator whose
//! collector is not there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alloy::consensus::Transaction as _;
use alloy::hex;
use alloy::providers::Provider as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use pay402_devchain::Mining;
use prost::Message as _;
use serde_json::Value;

use crate::canary::{contains, spellings};
use crate::operate::{CHAIN_ID, chain, facilitator, request, settle};
use crate::process::{Server, dev_key, run};

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    bodies: Vec<Bytes>,
    headers: Vec<HeaderMap>,
}

impl Collector {
    /// Where it is.
    async fn open(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/v1/traces", post(take)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        format!("http://{address}")
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let kept = self.0.lock().unwrap();
        kept.bodies
            .iter()
            .map(|body| ExportTraceServiceRequest::decode(&body[..]).unwrap())
            .collect()
    }

    fn spans(&self) -> Vec<Span> {
        let of = self.requests().into_iter().flat_map(|request| request.resource_spans);
        let scopes = of.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// Waits for a span that is `wanted`.
    async fn span(&self, what: &str, wanted: impl Fn(&Span) -> bool) -> Span {
        let begun = Instant::now();
        loop {
            if let Some(span) = self.spans().into_iter().find(&wanted) {
                return span;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "no {what} in {:#?}", self.spans());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn take(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut kept = collector.0.lock().unwrap();
    kept.bodies.push(body);
    kept.headers.push(headers);
    StatusCode::OK
}

fn text(value: &Option<AnyValue>) -> String {
    match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => text.clone(),
        Some(Any::IntValue(number)) => number.to_string(),
        other => panic!("an attribute of no kind of ours: {other:?}"),
    }
}

fn attributes(of: &[KeyValue]) -> HashMap<String, String> {
    of.iter().map(|it| (it.key.clone(), text(&it.value))).collect()
}

/// A facilitator that exports what it does at once.
fn traced(command: &mut std::process::Command, collector: &str) {
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", "500");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settlement_is_told_to_the_collector_in_the_callers_trace() {
    let (folder, collector) = (tempfile::tempdir().unwrap(), Collector::default());
    let at = collector.open().await;
    let chain = chain(Mining::Instant);
    let node = chain.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let canary = "node-api-key-canary";
    let rpc = format!("{}/?key={canary}", node.http_url());
    let mut command = facilitator(folder.path(), &rpc, "", "");
    traced(&mut command, &at);
    command
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-token=collector-canary")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        .env("RUST_LOG", "trace");
    let server = Server::start(command);

    let trace = "0af7651916cd43dd8448eb211c80319c";
    let (body, parent) = (request(1), "b7ad6b7169203331");
    let call = |path: &str| {
        let call = reqwest::Client::new().post(format!("{}{path}", server.url)).json(&body);
        call.header("traceparent", format!("00-{trace}-{parent}-01"))
            .header("tracestate", "vendor=tracestate-canary")
            .header("x-canary", "header-canary")
            .send()
    };
    let told: Value = call("/verify").await.unwrap().json().await.unwrap();
    assert_eq!(told["isValid"], true, "{told}");
    let told: Value = call("/settle").await.unwrap().json().await.unwrap();
    assert_eq!(told["success"], true, "{told}");
    let transaction = told["transaction"].as_str().unwrap().to_owned();
    let told: Value = call("/settle").await.unwrap().json().await.unwrap();
    assert_eq!(told["errorReason"], "duplicate_settlement");

    let named = |name: &'static str| move |span: &Span| span.name == name;
    let has = |span: &Span, key: &str, value: &str| {
        attributes(&span.attributes).get(key).is_some_and(|it| it == value)
    };
    let verify = collector.span("verification", named("verify")).await;
    assert!(has(&verify, "outcome", "valid"), "{verify:?}");
    let network = format!("eip155:{CHAIN_ID}");
    assert!(has(&verify, "network", &network) && has(&verify, "scheme", "exact"), "{verify:?}");
    let refused = |span: &Span| span.name == "settle" && has(span, "outcome", "refused");
    let refused = collector.span("refusal", refused).await;
    assert!(has(&refused, "reason", "duplicate_settlement"), "{refused:?}");
    let settle = |span: &Span| span.name == "settle" && has(span, "outcome", "settled");
    let settle = collector.span("settle call", settle).await;
    assert!(has(&settle, "transaction", &transaction), "{settle:?}");
    let life = collector.span("settlement", named("settlement")).await;
    let events: Vec<_> = life.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["entered", "signed", "sent", "closed"], "{life:#?}");
    assert_eq!(attributes(&life.events[1].attributes)["transaction"], transaction);
    assert!(has(&life, "outcome", "settled") && has(&life, "transaction", &transaction));
    assert_eq!(life.parent_span_id, settle.span_id, "it hangs nowhere");
    let request = collector.span("request", named("POST /settle")).await;
    assert!(has(&request, "http.response.status_code", "200"), "{request:?}");
    for span in collector.spans() {
        assert_eq!(hex::encode(&span.trace_id), trace, "{span:?}");
        if span.name.starts_with("POST ") {
            assert_eq!(hex::encode(&span.parent_span_id), parent, "{span:?}");
        }
    }
    let metrics =
        reqwest::get(format!("{}/metrics", server.url)).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("x402_trace_spans_total{outcome=\"dropped\"} 0"), "{metrics}");
    let resource = collector.requests()[0].resource_spans[0].resource.clone().unwrap();
    let resource = attributes(&resource.attributes);
    assert_eq!(resource["service.name"], "pay402-facilitator");
    assert_eq!(resource["deployment.environment"], "test");

    // What could be spent, and what is nobody's business.
    let block = chain.provider().get_block_by_number(1.into()).full().await.unwrap().unwrap();
    let settling = block.transactions.txns().next().unwrap();
    let input = settling.input();
    let mut secrets = Vec::new();
    for part in [&input[4 + 7 * 32..4 + 8 * 32], &input[4 + 8 * 32..]] {
        secrets.extend(spellings(part));
    }
    for index in [0, 1] {
        secrets.extend(spellings(&hex::decode(dev_key(index)).unwrap()));
    }
    for word in [canary, "collector-canary", "tracestate-canary", "header-canary"] {
        secrets.push(word.as_bytes().to_vec());
    }
    let kept = collector.0.lock().unwrap();
    for body in &kept.bodies {
        for secret in &secrets {
            let shown = String::from_utf8_lossy(&secret[..4]);
            assert!(!contains(body, secret), "the collector was sent what begins {shown}");
        }
    }
    assert!(kept.headers.iter().all(|headers| headers["x-token"] == "collector-canary"));
    drop(kept);
    let printed = server.stop();
    assert!(!printed.contains("collector-canary"), "a header of the collector is in the log");
    assert!(!printed.contains("pay402_trace"), "what is traced is in the log");
}

/// What is not exported is dropped and counted, and nobody waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_not_there_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let chain = chain(Mining::Instant);
    let node = chain.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    // It takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut command = facilitator(folder.path(), &node.http_url(), "", "");
    traced(&mut command, &format!("http://{}", silent.local_addr().unwrap()));
    command.env("OTEL_BSP_MAX_QUEUE_SIZE", "4").env("OTEL_EXPORTER_OTLP_TIMEOUT", "60000");
    let mut server = Server::start(command);
    for nonce in 1..=8 {
        let begun = Instant::now();
        assert_eq!(settle(&server.url, nonce).await.body["success"], true);
        assert!(begun.elapsed() < Duration::from_secs(5), "it was waited for");
    }
    let metrics =
        reqwest::get(format!("{}/metrics", server.url)).await.unwrap().text().await.unwrap();
    let count = |outcome: &str| -> u64 {
        let series = format!("x402_trace_spans_total{{outcome=\"{outcome}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
        line.unwrap_or_else(|| panic!("no {series} in {metrics}")).parse().unwrap()
    };
    // Three spans a payment, less what waits and what is on its way.
    assert!(count("dropped") >= 8 && count("exported") == 0, "{metrics}");
    let status = server.terminate(Duration::from_secs(10)).expect("it ends in time");
    assert!(status.success(), "{status}");
}

#[test]
fn a_wrong_variable_stops_the_start_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let begin = |variable: &str, value: &str| {
        let mut command = facilitator(folder.path(), "http://127.0.0.1:1", "", "");
        traced(&mut command, "http://127.0.0.1:1");
        command.env(variable, value);
        run(command)
    };
    for (variable, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "canary"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "canary"),
        ("OTEL_TRACES_SAMPLER", "canary"),
    ] {
        let (code, _, said) = begin(variable, value);
        assert_eq!(code, 3, "{said}");
        assert!(said.contains(variable) && !said.contains("canary"), "{said}");
    }
}
