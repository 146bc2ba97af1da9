//! Errors by culprit. Refusals, which the payer can mend, are in [`crate::refusal`].

use std::fmt;

/// A message that is not what the protocol says. HTTP 400.
///
/// It names the field and the remedy, and never repeats a value that could be a secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Malformed {
    /// Path of the field, such as `paymentPayload.payload.authorization.value`.
    pub field: String,
    /// What is wrong and what to send instead.
    pub problem: String,
}

impl Malformed {
    /// A problem with `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// The same problem, one level further out.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        self.field =
            if self.field.is_empty() { parent.into() } else { format!("{parent}.{}", self.field) };
        self
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for Malformed {}

/// Something needed is out of reach: nobody's fault, try again. Never grants, never signs.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{what} is unavailable: {problem}")]
pub struct Unavailable {
    /// What could not be reached, such as `rpc eip155:8453` or `ledger`. Never a URL with a key.
    pub what: String,
    /// What happened, free of secrets.
    pub problem: String,
}

impl Unavailable {
    /// `what` failed with `problem`.
    pub fn new(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { what: what.into(), problem: problem.into() }
    }
}

/// The operator's or owner's configuration cannot work. Stops the process at start.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct Misconfigured {
    /// The setting that is wrong, such as `network[0].rpc`.
    pub key: String,
    /// What is wrong with it and how to mend it.
    pub problem: String,
}

impl Misconfigured {
    /// A problem with the setting `key`.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }
}
