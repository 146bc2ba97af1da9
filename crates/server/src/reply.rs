//! The answers of a gate that are not the content: 400, 402, 409, 503, and the outcome header on
//! the content itself.

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use pay402_core::error::Malformed;
use pay402_core::facilitator::{Settled, Settlement};
use pay402_core::refusal::Reason;
use pay402_core::transport::http::{Asking, keep_private, malformed_response, write_outcome};
use pay402_core::{NetworkId, Refusal, Refused, WireVersion};
use serde_json::{Map, Value};

use crate::Answer;

/// When to ask again about a payment whose outcome is not known, in seconds.
pub(crate) const RETRY_PENDING_S: u64 = 3;
/// When to ask again while another request with the same payment is served, in seconds.
pub(crate) const RETRY_BUSY_S: u64 = 1;
/// When to try again after something was out of reach, in seconds.
pub(crate) const RETRY_UNAVAILABLE_S: u64 = 5;

/// To whom an outcome is told: the version of the request, and the network of the payment.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) version: WireVersion,
    pub(crate) network: NetworkId,
}

impl Caller {
    /// A refusal that no new payment mends: its code, and when to come back.
    pub(crate) fn refused(&self, status: StatusCode, refused: &Refused) -> Answer {
        let mut body = Map::new();
        body.insert("error".into(), refused.reason.code().into());
        body.insert("message".into(), refused.message.clone().into());
        if let Some(transaction) = &refused.transaction {
            body.insert("transaction".into(), transaction.clone().into());
        }
        let mut answer = Answer::json(status, &Value::Object(body));
        self.tell(&mut answer, &Settled::Refused(refused.clone()));
        answer
    }

    /// The payment was used for another request, by `transaction` when that is known.
    pub(crate) fn duplicate(&self, transaction: Option<&str>, why: &str) -> Answer {
        let mut refused = Refused::new(Refusal::DuplicateSettlement, why);
        // Where nothing was charged there is none.
        refused.transaction = transaction.filter(|hash| !hash.is_empty()).map(str::to_owned);
        self.refused(StatusCode::CONFLICT, &refused)
    }

    /// Settlement was asked for and its outcome is not known: never a payable 402.
    pub(crate) fn pending(&self, transaction: Option<&str>) -> Answer {
        let mut refused = Refused::from(Refusal::SettlementPending);
        refused.transaction = transaction.map(str::to_owned);
        self.refused(StatusCode::SERVICE_UNAVAILABLE, &refused).retry_after_s(RETRY_PENDING_S)
    }

    /// The first request with this payment is still being served.
    pub(crate) fn busy(&self) -> Answer {
        let message = "this payment is being used by an earlier request; ask again with the same \
                       payment";
        let refused = Refused::new(Refusal::SettlementPending, message);
        self.refused(StatusCode::CONFLICT, &refused).retry_after_s(RETRY_BUSY_S)
    }

    /// Something on our side is out of reach. Nothing was granted, nothing was charged; what
    /// exactly is for the log, not for strangers.
    pub(crate) fn unavailable(&self, refusal: Refusal) -> Answer {
        let message = "the payment could not be processed now; nothing was charged. Send the same \
                       payment again later";
        let refused = Refused::new(refusal, message);
        self.refused(StatusCode::SERVICE_UNAVAILABLE, &refused).retry_after_s(RETRY_UNAVAILABLE_S)
    }

    /// The payer has too many payments under way that are not settled yet.
    pub(crate) fn too_many(&self) -> Answer {
        let message = "too many payments of this payer are under way; send the same payment again \
                       when one of them has settled";
        let refused = Refused::new(Refusal::UnexpectedVerifyError, message);
        self.refused(StatusCode::TOO_MANY_REQUESTS, &refused).retry_after_s(RETRY_BUSY_S)
    }

    /// The content, with the outcome that paid for it.
    pub(crate) fn content(&self, mut content: Answer, settlement: Settlement) -> Answer {
        self.tell(&mut content, &Settled::Done(settlement));
        keep_private(&mut content.headers);
        content
    }

    /// The offers again, and why the last payment was refused.
    pub(crate) fn ask_again(
        &self,
        status: StatusCode,
        asking: &Asking,
        refused: &Refused,
    ) -> Answer {
        let mut answer = Answer { status, ..asked(asking) };
        self.tell(&mut answer, &Settled::Refused(refused.clone()));
        answer
    }

    fn tell(&self, answer: &mut Answer, settled: &Settled) {
        write_outcome(&mut answer.headers, self.version, &self.network, settled);
    }
}

/// A 402 as it goes out.
pub(crate) fn asked(asking: &Asking) -> Answer {
    Answer {
        status: StatusCode::PAYMENT_REQUIRED,
        headers: asking.headers().clone(),
        body: asking.body().to_owned().into(),
    }
}

/// A request that is not what the protocol says: 400, naming the field.
pub(crate) fn malformed(error: &Malformed) -> Answer {
    let (status, body) = malformed_response(error);
    Answer::json(status, &body)
}

/// The status for a refusal; a stranger's code before settlement is a refused payment.
pub(crate) fn status_of(reason: &Reason) -> StatusCode {
    match reason {
        Reason::Known(refusal) => {
            StatusCode::from_u16(refusal.http_status()).expect("the registry holds HTTP statuses")
        }
        Reason::Foreign(_) => StatusCode::PAYMENT_REQUIRED,
    }
}

/// Adds when to come back to answers that say "later".
pub(crate) fn later(mut answer: Answer) -> Answer {
    if answer.status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_UNAVAILABLE_S));
    }
    answer
}
