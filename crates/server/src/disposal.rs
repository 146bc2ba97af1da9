//! Which answers of a handler are charged for: one table, closed at every edge. How much is charged
//! for them is [`crate::Charge`]'s matter.
//!
//! | handler's status | charged | what the client gets |
//! | --- | --- | --- |
//! | 1xx, 101 included | no | 500: an upgraded connection cannot be paid for afterwards |
//! | 2xx, 204 and 206 included | yes | the answer, after settlement |
//! | 3xx, 304 included | no | the answer as it is |
//! | 400 and above | no | the answer as it is |
//!
//! A redirect is free. A handler whose redirect *is* the content (a signed download link) gives it
//! away: it should answer 2xx with the link instead.

use http::StatusCode;

/// What becomes of a payment after the handler has answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Disposal {
    /// The payment is settled before the answer is sent.
    Settle,
    /// The payment is released and the answer is sent as it is.
    Release,
    /// The payment is released and the answer is withheld: it cannot be sold.
    Withhold,
}

impl Disposal {
    /// The table of this module.
    pub fn on(status: StatusCode) -> Self {
        match status.as_u16() {
            200..=299 => Self::Settle,
            300.. => Self::Release,
            _ => Self::Withhold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_is_charged() {
        for status in 100..=999_u16 {
            let expected = match status {
                100..=199 => Disposal::Withhold,
                200..=299 => Disposal::Settle,
                _ => Disposal::Release,
            };
            assert_eq!(Disposal::on(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
    }
}
