//! Traces of what the facilitator does, for those who collect them elsewhere.

#[cfg(feature = "otlp")]
mod otlp;
#[cfg(not(feature = "otlp"))]
mod without;

use pay402_core::error::Misconfigured;

#[cfg(feature = "otlp")]
pub(crate) use self::otlp::{Telemetry, traced};
#[cfg(not(feature = "otlp"))]
pub(crate) use self::without::{Telemetry, traced};

/// What the environment asks for; `None` where nothing is to be traced.
///
/// # Errors
/// The variable that is wrong.
pub(crate) fn from_environment() -> Result<Option<Telemetry>, Misconfigured> {
    Telemetry::from_environment()
}
