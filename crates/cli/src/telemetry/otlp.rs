//! Traces by OTLP, where the variables of OpenTelemetry say where to.
//!
//! **Invariants:** what waits to be exported is bounded, and nobody who settles ever waits for it: a span for
//! which there is no room is dropped and counted. Only what is meant to be traced is exported, never a log line.
//! Where nothing is to be traced, nothing is started.

mod outbox;
mod settings;

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, Method};
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanExporter as _};
use pay402_core::error::Misconfigured;
use pay402_facilitator::{SpanCounts, TRACE_TARGET};
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::{Layer, Registry};

use self::outbox::{Client, Outbox};

/// The name of the tracer.
const TRACER: &str = "pay402";
/// The header in which a caller tells its own trace (W3C Trace Context). What callers add in the one beside
/// it is text of theirs, and is not taken over.
const PARENT: &str = "traceparent";

/// Traces that are exported.
pub(crate) struct Telemetry {
    provider: SdkTracerProvider,
    outbox: Outbox,
    counts: Arc<SpanCounts>,
}

impl Telemetry {
    /// Reads the environment; `None` where nothing is to be traced.
    ///
    /// # Errors
    /// The variable that is wrong.
    pub(super) fn from_environment() -> Result<Option<Self>, Misconfigured> {
        let variable = |name: &str| std::env::var(name).ok();
        let Some(settings) = settings::read(variable)? else { return Ok(None) };
        let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let wrong = |problem: String| Misconfigured::new(endpoint, problem);
        let client = Client::new(&settings.endpoint, settings.timeout).map_err(wrong)?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(settings.endpoint.as_str())
            .with_timeout(settings.timeout)
            // What is not taken is dropped and counted: the queue goes on.
            .with_retry_policy(RetryPolicy::disabled())
            .build();
        // The library's own words may hold the URL.
        let mut exporter = exporter.map_err(|_| wrong("cannot be exported to".to_owned()))?;
        let resource = Resource::builder().with_service_name(settings.service.clone()).build();
        exporter.set_resource(&resource);
        let counts = Arc::new(SpanCounts::default());
        let (queue, outbox) = outbox::pair(exporter, &settings, Arc::clone(&counts));
        let provider =
            SdkTracerProvider::builder().with_resource(resource).with_span_processor(queue).build();
        Ok(Some(Self { provider, outbox, counts }))
    }

    /// Hears the spans that are meant to be traced.
    pub(crate) fn layer(&self) -> impl Layer<Registry> + Send + Sync + use<> {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(TRACER))
            .with_location(false)
            .with_threads(false)
            .with_level(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(FilterFn::new(|metadata| metadata.target() == TRACE_TARGET))
    }

    /// What becomes of the spans.
    pub(crate) fn counts(&self) -> Arc<SpanCounts> {
        Arc::clone(&self.counts)
    }

    /// Exports until everything has ended, then what is left; for a moment at most.
    pub(crate) async fn export(self, until: impl Future<Output = ()>) {
        self.outbox.run(until).await;
    }
}

/// The routes, with a span around each call.
pub(crate) fn traced(router: Router) -> Router {
    router.layer(axum::middleware::from_fn(trace))
}

/// A span around a call, in the caller's own trace if it has one.
async fn trace(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_default();
    let is_call = matches!(&*route, "/verify" | "/settle" | "/account" | "/settlements/{id}");
    if !is_call {
        return next.run(request).await;
    }
    let span = tracing::info_span!(
        target: TRACE_TARGET,
        "request",
        otel.name = format!("{} {route}", method(request.method())),
        otel.kind = "server",
        http.request.method = method(request.method()),
        http.route = route,
        http.response.status_code = tracing::field::Empty,
    );
    let parent = TraceContextPropagator::new().extract(&Parent(request.headers()));
    // Fails where the span is not recorded.
    _ = span.set_parent(parent);
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    response
}

/// A method by its name, where it is one that has a handler.
const fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        _ => "_OTHER",
    }
}

/// The trace that a caller told.
struct Parent<'a>(&'a HeaderMap);

impl Extractor for Parent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let value = (key == PARENT).then(|| self.0.get(PARENT)).flatten();
        value.and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        vec![PARENT]
    }
}
