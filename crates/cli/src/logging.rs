//! Log lines to standard error, filtered by `RUST_LOG`, silent unless something is wrong.
//!
//! **Invariant:** no key, signature or payment header reaches a log, whatever `RUST_LOG` says. Our
//! own crates never log one; HTTP and RPC libraries log whole messages below `INFO`, so below
//! `INFO` only our own crates are heard.

use std::io::{self, IsTerminal as _};

use pay402_facilitator::TRACE_TARGET;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, FilterFn};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, registry};

/// Starts logging: text on a terminal, one JSON object per line otherwise. Beside it, `traces` hears what is meant
/// for it, and no line of the log.
pub(crate) fn start(traces: Option<impl Layer<Registry> + Send + Sync>) {
    let wanted = EnvFilter::builder().with_default_directive(Level::WARN.into()).from_env_lossy();
    let filter = wanted.and(FilterFn::new(is_safe));
    let layer = if io::stderr().is_terminal() {
        fmt::layer().with_writer(io::stderr).boxed()
    } else {
        fmt::layer().with_writer(io::stderr).json().flatten_event(true).boxed()
    };
    // Only a second start in one process can fail, and then the first one holds.
    let _ = registry().with(traces).with(layer.with_filter(filter)).try_init();
}

fn is_safe(metadata: &Metadata<'_>) -> bool {
    if metadata.target() == TRACE_TARGET {
        return false;
    }
    // `Level` orders from ERROR, the least, to TRACE.
    *metadata.level() <= Level::INFO || metadata.target().starts_with("pay402")
}
