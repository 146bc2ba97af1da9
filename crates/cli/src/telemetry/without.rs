//! A program that cannot trace, and says so where it is asked to.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use pay402_core::error::Misconfigured;
use pay402_facilitator::SpanCounts;
use tracing_subscriber::layer::Identity;
use tracing_subscriber::{Layer, Registry};

/// There is none.
pub(crate) struct Telemetry(Infallible);

impl Telemetry {
    /// Nothing is traced.
    ///
    /// # Errors
    /// When the environment says where traces are to go.
    pub(super) fn from_environment() -> Result<Option<Self>, Misconfigured> {
        let names = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match names.into_iter().find(|name| is_set(name)) {
            Some(name) => {
                let problem = "this program was built without the feature otlp; unset it";
                Err(Misconfigured::new(name, problem))
            }
            None => Ok(None),
        }
    }

    pub(crate) fn layer(&self) -> impl Layer<Registry> + Send + Sync + use<> {
        match self.0 {}
        #[allow(unreachable_code, reason = "it names the type")]
        Identity::new()
    }

    pub(crate) fn counts(&self) -> Arc<SpanCounts> {
        match self.0 {}
    }

    pub(crate) async fn export(self, _: impl Future<Output = ()>) {
        match self.0 {}
    }
}

/// The routes as they are.
pub(crate) fn traced(router: Router) -> Router {
    router
}
