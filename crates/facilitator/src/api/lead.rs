//! Calls that only the leader of a network carries out: here when this process leads, and otherwise
//! by asking the one that does.
//!
//! **Which answer a caller gets.** A call is carried out until somebody's answer is had or its time
//! is up:
//! - *Nothing was entered* (the leader was not reached, or says that it does not lead): whoever leads
//!   then is asked.
//! - *The answer was lost* (the leader died, froze, or lost its lease under way): the payment may be in
//!   the journal, and may yet come into it, so looking there tells nothing for good. The **same call
//!   is made again** to whoever leads then. That is safe: what a payment is, who may be told of its
//!   success and whether somebody was is compared and changed in the journal alone, in one
//!   transaction, whoever asks from where. A call that comes again meets its own entry: it waits for
//!   it when nobody does, collects a success that is owed, and is refused one that was told. One
//!   success is told to one caller over all processes; one whose answer was lost after it was marked as
//!   told may be told to nobody, as in a crash.
//! - *Its time is up*: after a lost answer `settlement_pending`, with the hash that the journal knows;
//!   else 503, with which nothing is entered.
//!
//! A call that was forwarded is never forwarded again: who does not lead says so.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use pay402_core::error::Unavailable;
use pay402_core::facilitator::Settled;
use pay402_core::journal::Holder;
use pay402_core::transport::forward::{NotLeading, write_not_leading};
use pay402_core::wire::account::{AccountRequest, encode_account_answer};
use pay402_core::{Digest, NetworkId, Payment, PaymentKey, WireVersion, wire};
use tokio::time::Instant;

use super::answer::{json_answer, retry_later, unavailable};
use super::forward::{Forwarded, Incoming};
use super::{Api, settlements};
use crate::Engine;
use crate::post::{Place, Post};
use crate::settle::hash;

/// Shortest pause before the leader is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How much longer than a lease a call waits for somebody to lead, when nothing was entered for it.
const SUCCESSION: Duration = Duration::from_secs(3);

/// What is asked.
pub(super) enum Asked {
    /// To settle a payment.
    Settle {
        version: WireVersion,
        caller: Option<Digest>,
        /// The caller's name in the configuration.
        name: Option<String>,
        payment: Box<Payment>,
    },
    /// To send something for an account.
    Account(AccountRequest),
}

/// What came of it.
struct Told {
    settled: Result<Settled, Unavailable>,
    /// The payment's key, where it could be read.
    key: Option<PaymentKey>,
}

impl From<Result<Settled, Unavailable>> for Told {
    fn from(settled: Result<Settled, Unavailable>) -> Self {
        Self { settled, key: None }
    }
}

impl Told {
    /// Whether somebody else may know more.
    const fn is_open(&self) -> bool {
        matches!(self.settled, Ok(Settled::Pending { .. }) | Err(_))
    }
}

impl Asked {
    fn network(&self) -> &NetworkId {
        match self {
            Self::Settle { payment, .. } => &payment.terms().network,
            Self::Account(request) => &request.network,
        }
    }

    /// The longest that the caller waits.
    fn wait(&self, engine: &Engine) -> Duration {
        match self {
            Self::Settle { payment, .. } => engine.wait_for(payment),
            Self::Account(_) => engine.wait_max(),
        }
    }

    async fn here(&self, engine: &Engine, wait: Duration) -> Told {
        match self {
            Self::Settle { caller, name, payment, .. } => {
                let payment = Payment::clone(payment);
                let (key, settled) =
                    engine.settle_known(*caller, name.clone(), payment, wait).await;
                Told { settled, key }
            }
            Self::Account(AccountRequest { network, request }) => {
                engine.account_for(network, request.clone(), wait).await.into()
            }
        }
    }

    fn answer(&self, told: &Told) -> Response {
        let encode = |settled: &Settled| match self {
            Self::Settle { version, .. } => wire::encode_settled(*version, self.network(), settled),
            Self::Account(request) => encode_account_answer(&request.network, settled),
        };
        let mut answer = match &told.settled {
            Ok(settled) => json_answer(StatusCode::OK, &encode(settled)),
            Err(error) => {
                tracing::warn!(%error, "a call could not be carried out");
                retry_later(&encode(&Settled::Refused(unavailable::settle(error))))
            }
        };
        let caller = match self {
            Self::Settle { caller, .. } => *caller,
            Self::Account(_) => None,
        };
        // Only who can look it up is told by what.
        let id = caller.and(told.key.as_ref()).and_then(settlements::header_of);
        if let Some(id) = id {
            answer.headers_mut().insert(&settlements::SETTLEMENT_ID, id);
        }
        answer
    }

    /// What the journal shows of it, to one whose answer was lost.
    async fn pending(&self, engine: &Engine, post: &Post) -> Told {
        let network = &post.idle.network;
        let identified = match self {
            Self::Settle { payment, .. } => network.identify(payment),
            Self::Account(request) => network.identify_account(&request.request),
        };
        let Ok(identified) = identified else {
            return Ok(Settled::Pending { transaction: None }).into();
        };
        let found = engine.entry(&identified.key).await.ok().flatten();
        let own = found.filter(|entry| entry.new.fingerprint == identified.fingerprint);
        let transaction = own.as_ref().and_then(hash);
        Told { settled: Ok(Settled::Pending { transaction }), key: Some(identified.key) }
    }
}

/// Carries a call out, here or there. `left` is the time that is left for a call which was forwarded
/// to here.
pub(super) async fn carry_out(
    api: &Api,
    engine: &Engine,
    asked: Asked,
    incoming: Incoming,
    left: Option<Duration>,
) -> Response {
    let wait = asked.wait(engine).min(left.unwrap_or(Duration::MAX));
    let Some(post) = engine.post(asked.network()) else {
        return asked.answer(&asked.here(engine, wait).await);
    };
    let _under_way = post.begin();
    if !post.idle.options.follows {
        return asked.answer(&asked.here(engine, wait).await);
    }
    let call = Call { api, engine, post, asked, incoming, deadline: Instant::now() + wait };
    match left {
        Some(_) => call.at_most_here().await,
        None => call.anywhere().await,
    }
}

struct Call<'a> {
    api: &'a Api,
    engine: &'a Engine,
    post: &'a Post,
    asked: Asked,
    incoming: Incoming,
    deadline: Instant,
}

impl Call<'_> {
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn leads(&self) -> bool {
        matches!(self.post.place(), Place::Here(_))
    }

    /// Of a call that was forwarded to here: the answer, or that this process does not lead.
    async fn at_most_here(self) -> Response {
        if !self.leads() {
            let mut answer = self.asked.answer(&self.nobody().into());
            write_not_leading(answer.headers_mut(), NotLeading::Untouched);
            return answer;
        }
        let told = self.asked.here(self.engine, self.left()).await;
        let mut answer = self.asked.answer(&told);
        if told.is_open() && !self.leads() {
            let known = match told.settled {
                Ok(_) => NotLeading::Unknown,
                Err(_) => NotLeading::Untouched,
            };
            write_not_leading(answer.headers_mut(), known);
        }
        answer
    }

    async fn anywhere(self) -> Response {
        let patience = Instant::now() + self.post.idle.options.lease + SUCCESSION;
        // Whether a leader that nothing was heard of any more may have entered it.
        let mut lost = false;
        loop {
            match self.post.place() {
                Place::Here(_) => {
                    let told = self.asked.here(self.engine, self.left()).await;
                    let leads = self.leads();
                    match &told.settled {
                        Err(_) if lost || !leads => {}
                        Ok(_) if told.is_open() && !leads => lost = true,
                        _ => return self.asked.answer(&told),
                    }
                }
                Place::There(Holder { url: Some(url), .. }) => match self.forward(&url).await {
                    Forwarded::Answered(answer)
                        if lost && answer.status() == StatusCode::SERVICE_UNAVAILABLE => {}
                    Forwarded::Answered(answer) => return answer,
                    Forwarded::Untouched => {}
                    Forwarded::Lost => lost = true,
                },
                Place::There(_) if !lost => return self.asked.answer(&self.nobody().into()),
                Place::There(_) | Place::Nowhere => {}
            }
            let now = Instant::now();
            if lost && now >= self.deadline {
                return self.asked.answer(&self.asked.pending(self.engine, self.post).await);
            }
            let in_vain = now >= self.deadline.min(patience) || self.post.is_blind();
            if !lost && in_vain {
                return self.asked.answer(&self.nobody().into());
            }
            // Not at once, in any case: who died may be asked again before it is known.
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn forward(&self, url: &str) -> Forwarded {
        let forwarder = &self.api.0.forwarder;
        let forwarded = forwarder.send(self.post, url, &self.incoming, self.left()).await;
        let counts = &self.post.idle.metrics.forwards;
        match &forwarded {
            Forwarded::Answered(_) => counts.answered.add(1),
            Forwarded::Untouched => counts.untouched.add(1),
            Forwarded::Lost => counts.lost.add(1),
        }
        forwarded
    }

    fn nobody(&self) -> Result<Settled, Unavailable> {
        let what = format!("settling on {}", self.post.idle.id);
        Err(Unavailable::new(what, "the process that leads cannot be reached from here"))
    }
}
