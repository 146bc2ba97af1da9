//! After the handler: the answer is sealed, the money collected, and only then the answer sent.
//!
//! The work runs in a task of its own. A client that hangs up cancels nothing once it has begun;
//! before that, its ticket is released.
//!
//! **Invariant:** content leaves only with a proven settlement. A refusal frees the payment only
//! when it proves that no money moved; everything else stays what it is, unknown, and is answered
//! with `settlement_pending`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use pay402_core::asset::same_address;
use pay402_core::facilitator::{Settled, Settlement};
use pay402_core::refusal::{Funds, Reason};
use pay402_core::{Amount, Payment, Refusal, Refused};
use tokio::time::Instant;

use crate::Answer;
use crate::gate::{Admission, Gate};
use crate::reply::{self, Caller};
use crate::ticket::{Matched, Ticket};

/// Longest wait for an outcome before the client is told `settlement_pending`, in seconds. A
/// route with a shorter `max_timeout_seconds` waits no longer than that.
pub const SETTLE_WAIT_S: u64 = 75;
/// Longest wait for one answer of the facilitator, in seconds.
pub const SETTLE_CALL_S: u64 = 120;
/// Pause before a pending settlement is asked for again, in milliseconds; it doubles each time.
const POLL_FIRST_MS: u64 = 250;
/// Longest such pause, in milliseconds.
const POLL_LONGEST_MS: u64 = 5_000;
/// How often a facilitator that is out of reach is tried, when nothing was sent yet.
const UNAVAILABLE_TRIES: u32 = 3;

/// Whether the facilitator may have sent this payment before this attempt.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Before {
    Unasked,
    MaybeSent,
}

/// How an attempt to settle ended.
enum End {
    /// The money moved.
    Done(Settlement),
    /// It certainly did not move; the payment is free again.
    Failed(Refused),
    /// Refused, but that proves nothing about the money; the claim stays.
    Held(Refused),
    /// Not known.
    Pending,
    /// The facilitator is out of reach and nothing was sent.
    Unavailable,
}

/// What is known so far, for a client that stops waiting.
type Hash = Arc<Mutex<Option<String>>>;

/// Settles a ticket and returns what to send.
pub(crate) async fn settle(gate: Gate, ticket: Ticket, response: Answer) -> Answer {
    let payment = &ticket.matched().payment;
    let caller =
        Caller { version: payment.presented().version, network: payment.terms().network.clone() };
    let hash = Hash::default();
    let here = gate.inner.shared.enter_settling(&ticket.matched().key);
    let told = (caller.clone(), hash.clone());
    let work_gate = gate.clone();
    let work = async move {
        let answer = settle_claimed(&work_gate, ticket, response, &told.0, &told.1).await;
        drop(here);
        answer
    };
    // From here on a client that hangs up cancels nothing.
    wait(&gate, tokio::spawn(work), &caller, &hash).await
}

/// Asks again about a payment whose outcome was not known, for a request that proved to be the
/// one it was claimed for.
pub(crate) async fn resume(
    gate: Gate,
    mut matched: Matched,
    charge: Option<Amount>,
    sealed: Option<Vec<u8>>,
) -> Admission {
    let caller = Caller {
        version: matched.payment.presented().version,
        network: matched.payment.terms().network.clone(),
    };
    // What was to be charged the first time is charged now, and nothing else.
    if let Some(charge) = charge {
        match matched.payment.clone().charging(charge) {
            Ok(payment) => matched.payment = payment,
            Err(error) => {
                let key = &matched.key;
                tracing::error!(%key, %error, "what was recorded cannot be charged");
                return Admission::Refuse(caller.pending(None));
            }
        }
    }
    let hash = Hash::default();
    let work = resume_claimed(gate.clone(), matched, sealed, caller.clone(), hash.clone());
    let answer = wait(&gate, tokio::spawn(work), &caller, &hash).await;
    if answer.status.is_success() { Admission::Replay(answer) } else { Admission::Refuse(answer) }
}

/// The sealed answer of a settled payment, as it was sent the first time.
pub(crate) fn replay(
    matched: &Matched,
    caller: &Caller,
    sealed: &[u8],
    settlement: Settlement,
) -> Option<Answer> {
    let (content, payer) = matched.secret.as_ref()?.open(sealed)?;
    Some(caller.content(content, tell_paid(settlement, &payer)))
}

impl Matched {
    /// The settlement by `transaction` of what was `charged`, `None` for the amount of the terms, as
    /// it is told the first time and whenever it is told again.
    pub(crate) fn settlement(&self, transaction: String, charged: Option<Amount>) -> Settlement {
        let terms = self.payment.terms();
        Settlement {
            transaction,
            network: terms.network.clone(),
            payer: None,
            charged: terms.scheme.has_ceiling().then_some(charged.unwrap_or(terms.amount)),
        }
    }

    /// What is to be collected, where that is not simply the amount of the terms.
    fn charge(&self) -> Option<Amount> {
        self.payment.terms().scheme.has_ceiling().then(|| self.payment.charge())
    }
}

async fn wait(
    gate: &Gate,
    work: tokio::task::JoinHandle<Answer>,
    caller: &Caller,
    hash: &Hash,
) -> Answer {
    let longest = gate.max_timeout().min(Duration::from_secs(SETTLE_WAIT_S));
    match tokio::time::timeout(longest, work).await {
        Ok(Ok(answer)) => answer,
        // The work goes on; or it broke, and the claim stays as it is.
        Err(_) | Ok(Err(_)) => caller.pending(read(hash).as_deref()),
    }
}

async fn settle_claimed(
    gate: &Gate,
    ticket: Ticket,
    response: Answer,
    caller: &Caller,
    hash: &Hash,
) -> Answer {
    let shared = gate.inner.shared.clone();
    let payer = ticket.paid_by().payer.clone();
    let matched = ticket.matched();
    let (key, charge) = (matched.key.clone(), matched.charge());
    let sealed = matched.secret.as_ref().and_then(|secret| secret.seal(&response, &payer));
    if let Err(error) = shared.grants.settling(&key, charge, sealed).await {
        // Settling without a record could not be found again after a crash.
        tracing::error!(%key, %error, "settlement could not be recorded and was not asked for");
        ticket.release().await;
        return caller.unavailable(Refusal::UnexpectedSettleError);
    }
    let (matched, _exposed) = ticket.into_settlement();
    match collect(gate, &matched, &payer, Before::Unasked, hash).await {
        End::Done(settlement) => {
            let settlement = record(gate, &matched, settlement).await;
            caller.content(response, tell_paid(settlement, &payer))
        }
        other => conclude(gate, &matched, caller, other, hash).await,
    }
}

async fn resume_claimed(
    gate: Gate,
    matched: Matched,
    sealed: Option<Vec<u8>>,
    caller: Caller,
    hash: Hash,
) -> Answer {
    // Asking may be what sends the payment. As long as that is possible, it is asked only where
    // there is something to deliver for it.
    if sealed.is_none() && matched.late.is_none() {
        return caller.pending(None);
    }
    let Some(_here) = gate.inner.shared.enter_settling(&matched.key) else {
        // The first request's own attempt is still going on in this process.
        return caller.pending(None);
    };
    match collect(&gate, &matched, "", Before::MaybeSent, &hash).await {
        End::Done(settlement) => {
            let settlement = record(&gate, &matched, settlement).await;
            let transaction = settlement.transaction.clone();
            let kept = sealed.and_then(|sealed| replay(&matched, &caller, &sealed, settlement));
            kept.unwrap_or_else(|| {
                let why = "this payment was settled; the answer was too large to keep";
                caller.duplicate(Some(&transaction), why)
            })
        }
        other => conclude(&gate, &matched, &caller, other, &hash).await,
    }
}

/// Answers and books every end but success.
async fn conclude(
    gate: &Gate,
    matched: &Matched,
    caller: &Caller,
    end: End,
    hash: &Hash,
) -> Answer {
    let grants = &gate.inner.shared.grants;
    let key = &matched.key;
    if matches!(end, End::Failed(_) | End::Unavailable)
        && let Err(error) = grants.release(key).await
    {
        tracing::warn!(%key, %error, "a claim could not be released");
    }
    match end {
        End::Failed(refused) => gate.asking_because(&matched.place, caller, &refused),
        // The money may have moved: no fresh payable 402, which would have the client pay twice.
        End::Held(refused) => match &refused.reason {
            Reason::Known(_) => match reply::status_of(&refused.reason) {
                StatusCode::PAYMENT_REQUIRED | StatusCode::PRECONDITION_FAILED => {
                    caller.refused(StatusCode::CONFLICT, &refused)
                }
                status => reply::later(caller.refused(status, &refused)),
            },
            Reason::Foreign(_) => {
                reply::later(caller.refused(StatusCode::SERVICE_UNAVAILABLE, &refused))
            }
        },
        End::Unavailable => caller.unavailable(Refusal::UnexpectedSettleError),
        End::Pending | End::Done(_) => caller.pending(read(hash).as_deref()),
    }
}

/// Asks for settlement until there is an outcome or the time is over.
async fn collect(
    gate: &Gate,
    matched: &Matched,
    payer: &str,
    mut before: Before,
    hash: &Hash,
) -> End {
    let started = Instant::now();
    let longest = Duration::from_secs(SETTLE_WAIT_S);
    let mut pause = Duration::from_millis(POLL_FIRST_MS);
    let mut tries = 0;
    loop {
        match ask(gate, matched).await {
            Ok(Settled::Done(settlement)) => match check(&settlement, &matched.payment, payer) {
                Ok(()) => return End::Done(settlement),
                Err(problem) => {
                    let key = &matched.key;
                    tracing::error!(%key, problem, "the facilitator's success is not one");
                    before = Before::MaybeSent;
                }
            },
            Ok(Settled::Refused(refused)) => return judge(refused, before),
            Ok(Settled::Pending { transaction }) => {
                before = Before::MaybeSent;
                if transaction.is_some() {
                    *hash.lock().unwrap_or_else(PoisonError::into_inner) = transaction;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "settlement could not be asked for");
                tries += 1;
                if before == Before::Unasked && tries >= UNAVAILABLE_TRIES {
                    return End::Unavailable;
                }
            }
        }
        if started.elapsed() + pause > longest {
            return if before == Before::Unasked { End::Unavailable } else { End::Pending };
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(POLL_LONGEST_MS));
    }
}

async fn ask(gate: &Gate, matched: &Matched) -> Result<Settled, pay402_core::error::Unavailable> {
    let facilitator = &*gate.inner.shared.facilitator;
    let closing = matched.offer.scheme.close(&matched.payment, facilitator);
    let longest = Duration::from_secs(SETTLE_CALL_S);
    // A call that was cut off may have sent something.
    let unknown = |_| Ok(Settled::Pending { transaction: None });
    tokio::time::timeout(longest, closing).await.unwrap_or_else(unknown)
}

/// What a refusal to settle proves.
fn judge(refused: Refused, before: Before) -> End {
    let reason = &refused.reason;
    if reason.is(Refusal::DuplicateSettlement) {
        return End::Held(refused);
    }
    // Our facilitator will not send it again, and no other request can be granted for it.
    let over = reason.is(Refusal::TransactionReverted) || reason.is(Refusal::AuthorizationCanceled);
    match before {
        Before::Unasked if over || reason.funds() == Funds::Untouched => End::Failed(refused),
        Before::Unasked => End::Held(refused),
        // Once something may have been sent, "insufficient funds" and the like may only mean that
        // the transfer has happened. Nothing but the fate of the transfer itself counts.
        Before::MaybeSent if over => End::Failed(refused),
        Before::MaybeSent => End::Pending,
    }
}

/// Whether a success is about this payment (threat A13).
fn check(settlement: &Settlement, payment: &Payment, payer: &str) -> Result<(), &'static str> {
    let (terms, asked) = (payment.terms(), payment.charge());
    let charged = settlement.charged.unwrap_or(asked);
    if settlement.network != terms.network {
        return Err("it is on another network");
    }
    if charged > asked {
        return Err("it charged more than was asked for");
    }
    if charged < asked {
        return Err("it charged less than was asked for");
    }
    let off_chain = terms.scheme.charges_off_chain() || charged == Amount::ZERO;
    if settlement.transaction.is_empty() && !off_chain {
        return Err("it names no transaction");
    }
    match settlement.payer.as_deref().filter(|said| !said.is_empty()) {
        Some(said) if !payer.is_empty() && !same_address(said, payer) => {
            Err("it names another payer than verification did")
        }
        _ => Ok(()),
    }
}

/// Books a success and returns it as it is told: what was asked for was charged.
async fn record(gate: &Gate, matched: &Matched, settlement: Settlement) -> Settlement {
    let (key, transaction) = (&matched.key, settlement.transaction.as_str());
    tracing::info!(%key, transaction, charged = %matched.payment.charge(), "payment settled");
    if let Err(error) = gate.inner.shared.grants.deliver(key, transaction).await {
        // The money moved and the client gets what it paid for; only a repeat is affected.
        tracing::error!(%key, transaction, %error, "a settlement could not be recorded");
    }
    matched.settlement(settlement.transaction, matched.charge())
}

/// The settlement with its payer, in the words of verification.
fn tell_paid(settlement: Settlement, payer: &str) -> Settlement {
    let payer = Some(payer.to_owned()).filter(|payer| !payer.is_empty());
    Settlement { payer, ..settlement }
}

fn read(hash: &Hash) -> Option<String> {
    hash.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[cfg(test)]
mod tests {
    use pay402_core::{NetworkId, Presented, Requirements, Scheme, WireVersion};
    use serde_json::Map;

    use super::*;

    /// A payment of a hundred, of which `charge` is asked for.
    fn payment(scheme: &str, charge: u64) -> Payment {
        let terms = Requirements {
            scheme: Scheme::new(scheme),
            network: NetworkId::eip155(84_532),
            amount: 100.into(),
            asset: "0xA".into(),
            pay_to: "0xB".into(),
            max_timeout_seconds: 60,
            extra: Map::new(),
            other: Map::new(),
        };
        let presented = Presented {
            version: WireVersion::V2,
            scheme: terms.scheme.clone(),
            network: terms.network.clone(),
            accepted: Some(terms.clone()),
            payload: Map::new(),
            resource: None,
            extensions: Map::new(),
            other: Map::new(),
        };
        Payment::pair(terms, presented).unwrap().charging(charge.into()).unwrap()
    }

    #[test]
    fn a_success_charges_what_was_asked_for() {
        let charging = |scheme: &str, asked: u64, transaction: &str, charged: Option<u64>| {
            let settlement = Settlement {
                transaction: transaction.into(),
                network: NetworkId::eip155(84_532),
                payer: None,
                charged: charged.map(Amount::from),
            };
            check(&settlement, &payment(scheme, asked), "0xC")
        };
        for fine in [None, Some(100)] {
            assert_eq!(charging("exact", 100, "0x1", fine), Ok(()), "{fine:?}");
        }
        for wrong in [0, 99, 101] {
            assert!(charging("exact", 100, "0x1", Some(wrong)).is_err(), "{wrong}");
        }
        assert!(charging("exact", 100, "", Some(0)).is_err());
        for asked in [1, 40, 100] {
            for fine in [None, Some(asked)] {
                assert_eq!(charging("upto", asked, "0x1", fine), Ok(()), "{fine:?} of {asked}");
            }
            // Not even what is below the ceiling.
            for wrong in [0, asked - 1, asked + 1, 101] {
                let told = charging("upto", asked, "0x1", Some(wrong));
                assert_eq!(told.is_ok(), wrong == asked, "{wrong} of {asked}");
            }
            assert!(charging("upto", asked, "", Some(asked)).is_err(), "no transaction");
        }
        assert_eq!(charging("upto", 0, "", Some(0)), Ok(()));
        assert_eq!(charging("batch-settlement", 1, "", Some(1)), Ok(()));
        assert!(charging("batch-settlement", 1, "", Some(2)).is_err());
    }

    #[test]
    fn a_duplicate_is_told_as_one_even_after_pending() {
        for before in [Before::Unasked, Before::MaybeSent] {
            let end = judge(Refusal::DuplicateSettlement.into(), before);
            assert!(
                matches!(end, End::Held(refused) if refused.reason.is(Refusal::DuplicateSettlement))
            );
        }
    }
}
