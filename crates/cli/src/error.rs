//! What goes wrong, for people, for programs, and as an exit code.

use std::process::ExitCode;

use pay402_core::error::{Misconfigured, Unavailable};
use serde_json::{Value, json};

use crate::terminal;

/// Exit codes: the table of purl, the first x402 command line, and ours from 11.
pub(crate) mod exit {
    pub(crate) const GENERAL: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const CONFIG: u8 = 3;
    pub(crate) const NETWORK: u8 = 4;
    pub(crate) const REFUSED: u8 = 5;
    pub(crate) const OUTCOME_UNKNOWN: u8 = 13;
    pub(crate) const HTTP_FAILED: u8 = 22;
}

/// An error as it is reported.
#[derive(Debug)]
pub(crate) struct CliError {
    /// Stable name for programs.
    pub(crate) code: &'static str,
    /// The process's exit code.
    pub(crate) exit: u8,
    /// One sentence.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) suggestion: Option<String>,
    /// Whether the same call may succeed later.
    pub(crate) retryable: bool,
    /// What is known about the money: `not_sent`, `reserved`, `sent`, `settled`, `failed`,
    /// `unknown`. `None` where no money is involved.
    pub(crate) payment: Option<&'static str>,
    /// Figures behind the message.
    pub(crate) details: Box<Value>,
}

impl CliError {
    fn new(code: &'static str, exit: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            exit,
            message: message.into(),
            suggestion: None,
            retryable: false,
            payment: None,
            details: Box::default(),
        }
    }

    pub(crate) fn general(message: impl Into<String>) -> Self {
        Self::new("general", exit::GENERAL, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new("usage", exit::USAGE, message).suggest("see `pay402 --help`")
    }

    pub(crate) fn network(message: impl Into<String>) -> Self {
        let error = Self::new("network", exit::NETWORK, message);
        Self { retryable: true, ..error }
    }

    /// Another process does our work now.
    pub(crate) fn taken_over(message: impl Into<String>) -> Self {
        let error = Self::new("taken_over", exit::GENERAL, message);
        Self { retryable: true, ..error }.suggest(
            "one process serves a journal in a file; were this one's clock or machine stopped?",
        )
    }

    /// Somebody said no, and nothing was done.
    pub(crate) fn refused(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, exit::REFUSED, message)
    }

    /// Something was sent, and it is not known how it ended.
    pub(crate) fn unclear(message: impl Into<String>) -> Self {
        let error = Self::new("outcome_unknown", exit::OUTCOME_UNKNOWN, message);
        Self { retryable: true, ..error }
    }

    /// The chain says otherwise than the books.
    pub(crate) fn contradicted(message: impl Into<String>) -> Self {
        Self::new("contradicted", exit::GENERAL, message)
    }

    /// It could not be proven, nor that it is not so.
    pub(crate) fn unproven(message: impl Into<String>) -> Self {
        Self::new("unproven", exit::OUTCOME_UNKNOWN, message)
    }

    pub(crate) fn http_failed(status: u16) -> Self {
        Self::new("http_failed", exit::HTTP_FAILED, format!("the server answered {status}"))
    }

    /// An error that the client crate classified.
    pub(crate) fn payment(
        code: &'static str,
        exit: u8,
        message: impl Into<String>,
        payment: &'static str,
    ) -> Self {
        Self { payment: Some(payment), ..Self::new(code, exit, message) }
    }

    pub(crate) fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    pub(crate) fn with_details(mut self, details: Value) -> Self {
        *self.details = details;
        self
    }

    /// Prints the error to standard error and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if terminal::stderr_is_terminal() {
            let style = terminal::stderr_style();
            terminal::note(&format!("{} {}", style.bad("error:"), self.message));
            if let Some(suggestion) = &self.suggestion {
                terminal::note(&format!("{} {suggestion}", style.dim(" help:")));
            }
        } else {
            let mut object = json!({
                "error": true, "code": self.code, "message": self.message,
                "exit_code": self.exit, "retryable": self.retryable,
            });
            if let Some(suggestion) = &self.suggestion {
                object["suggestion"] = suggestion.clone().into();
            }
            if let Some(payment) = self.payment {
                object["payment"] = json!({ "status": payment });
            }
            if !self.details.is_null() {
                object["details"] = (*self.details).clone();
            }
            terminal::note(&object.to_string());
        }
        ExitCode::from(self.exit)
    }
}

impl From<Misconfigured> for CliError {
    fn from(error: Misconfigured) -> Self {
        Self::new("config", exit::CONFIG, error.to_string())
    }
}

impl From<Unavailable> for CliError {
    fn from(error: Unavailable) -> Self {
        Self::network(error.to_string())
    }
}
