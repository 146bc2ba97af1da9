//! One payment, step by step, for any transport: prepare what is presented, read the answer,
//! close the books.
//!
//! **Invariants:** [`Wallet::prepare`] presents the open authorization of a purchase again before
//! it would clear a new one, and clears a new one only when the chain proves the old one dead.
//! [`Wallet::conclude`] never signs; whatever it cannot prove stays reserved.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use pay402_core::error::Unavailable;
use pay402_core::facilitator::{Settled, Settlement};
use pay402_core::payment::{PAYMENT_IDENTIFIER, PaymentRequired};
use pay402_core::refusal::Reason;
use pay402_core::scheme::{Authorized, ClientScheme, Fate, Unplanned};
use pay402_core::spend::{
    Clearance, Denied, Intent, NotCleared, Quote, Reservation, Verdict, VoidProof, clear,
};
use pay402_core::transport::http as transport;
use pay402_core::wire::json;
use pay402_core::{Amount, Presented, Refusal, Refused, Requirements};
use serde_json::{Map, Value};
use url::Url;

use crate::error::{PayError, PaymentStatus};
use crate::origin::{names_requested, origin_of};
use crate::receipt::{Candidate, Priced, Receipt, ReceiptStatus, Terms};
use crate::router::{Declined, Rail, printable, rank};
use crate::wallet::{Purchase, Wallet, within};

/// A signed payment, ready to be presented, any number of times. A bearer capability: its
/// `Debug` shows none of it.
pub struct Ready {
    presented: Presented,
    headers: HeaderMap,
    scheme: Arc<dyn ClientScheme>,
    clearance: Clearance,
    resumed: bool,
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready").field("resumed", &self.resumed).finish_non_exhaustive()
    }
}

impl Ready {
    /// The message to present, for transports without headers.
    pub const fn presented(&self) -> &Presented {
        &self.presented
    }

    /// The headers to add to an HTTP request: the same bytes each time.
    pub const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// What is reserved for it.
    pub const fn reservation(&self) -> &Reservation {
        self.clearance.reservation()
    }

    /// Whether an earlier authorization for the same purchase is presented again.
    pub const fn resumed(&self) -> bool {
        self.resumed
    }

    /// What it pays.
    pub fn terms(&self) -> Terms {
        Terms::of_reservation(self.reservation())
    }

    fn receipt(&self, status: ReceiptStatus) -> Receipt {
        let terms = self.terms();
        Receipt {
            status,
            ceiling: terms.is_metered().then_some(terms.amount),
            terms: Some(terms),
            charged: None,
            transaction: None,
            resumed: self.resumed,
            note: None,
        }
    }
}

/// What a server answered to a payment. Claims, not proof.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The handler's answer, with the settlement that the server names, if it names one. With a
    /// settlement the status may be an error: some routes settle before the handler runs.
    Served {
        /// What the server says of the settlement.
        settlement: Option<Settlement>,
        /// Why there is no settlement to read, for people.
        note: Option<String>,
    },
    /// The outcome is not known to the server either.
    Pending {
        /// The transaction that may pay, when there is one.
        transaction: Option<String>,
    },
    /// The payment was turned down, or used for another request.
    Refused(Refused),
    /// Something between here and the handler was out of reach.
    Busy(StatusCode),
    /// The handler failed; a server charges nothing then.
    Failed(StatusCode),
}

impl Answer {
    /// Reads an HTTP answer. `body` may be left empty unless [`Answer::needs_body`].
    pub fn read(
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        terms: &Requirements,
    ) -> Self {
        let outcome = transport::read_outcome(headers, terms);
        let served = status.is_success() || status.is_redirection();
        match (outcome, served) {
            (Ok(Some(Settled::Done(settlement))), _) if status != StatusCode::PAYMENT_REQUIRED => {
                Self::Served { settlement: Some(settlement), note: None }
            }
            (Ok(Some(Settled::Refused(refused))), true) => {
                let note = format!("the server says it was not paid: {}", tidy(refused));
                Self::Served { settlement: None, note: Some(note) }
            }
            (Ok(Some(Settled::Pending { .. })), true) => {
                let note = "the server says that the settlement is pending".to_owned();
                Self::Served { settlement: None, note: Some(note) }
            }
            (Ok(None), true) => {
                let note = "the server did not say whether it was paid".to_owned();
                Self::Served { settlement: None, note: Some(note) }
            }
            (Err(error), true) => {
                let note = format!("what the server says of the payment cannot be read: {error}");
                Self::Served { settlement: None, note: Some(note) }
            }
            (Ok(Some(Settled::Pending { transaction })), false) => Self::Pending { transaction },
            (Ok(Some(Settled::Refused(refused))), false) => Self::Refused(tidy(refused)),
            // "Paid" on a 402 contradicts itself; the chain is asked, as for every refusal.
            (Ok(_) | Err(_), _) => Self::read_without_outcome(status, headers, body),
        }
    }

    /// Whether the body of an answer with this status says what became of the payment.
    pub const fn needs_body(status: StatusCode) -> bool {
        matches!(
            status,
            StatusCode::PAYMENT_REQUIRED
                | StatusCode::CONFLICT
                | StatusCode::PRECONDITION_FAILED
                | StatusCode::SERVICE_UNAVAILABLE
        )
    }

    /// Whether presenting the same payment again, later, may bring another answer.
    pub fn may_change(&self) -> bool {
        match self {
            Self::Pending { .. } | Self::Busy(_) => true,
            Self::Refused(refused) => matches!(
                refused.reason,
                Reason::Known(Refusal::UnexpectedVerifyError | Refusal::UnexpectedSettleError)
            ),
            Self::Served { .. } | Self::Failed(_) => false,
        }
    }

    fn read_without_outcome(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let reason = said_reason(headers, body);
        let is = |refusal| reason.as_ref().is_some_and(|reason: &Reason| reason.is(refusal));
        if Self::needs_body(status) && is(Refusal::SettlementPending) {
            return Self::Pending { transaction: None };
        }
        match status {
            StatusCode::PAYMENT_REQUIRED => {
                let refused = match reason {
                    Some(Reason::Known(refusal)) => Refused::from(refusal),
                    Some(Reason::Foreign(text)) => Refused {
                        reason: Reason::Foreign("unspecified".into()),
                        message: format!("the server says: {}", printable(&text)),
                        payer: None,
                        transaction: None,
                    },
                    None => Refused {
                        reason: Reason::Foreign("unspecified".into()),
                        message: "the server asks for payment again without a reason".into(),
                        payer: None,
                        transaction: None,
                    },
                };
                Self::Refused(refused)
            }
            StatusCode::CONFLICT if is(Refusal::DuplicateSettlement) => {
                Self::Refused(Refusal::DuplicateSettlement.into())
            }
            StatusCode::PRECONDITION_FAILED if is(Refusal::Permit2AllowanceRequired) => {
                Self::Refused(Refusal::Permit2AllowanceRequired.into())
            }
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Self::Busy(status),
            _ => Self::Failed(status),
        }
    }
}

impl Wallet {
    /// Prepares the payment for a purchase that `required` asks for: the open authorization of
    /// this purchase if there is one, else a new one inside the owner's rules. When this returns,
    /// the amount is reserved, durably, and the payment is signed.
    ///
    /// # Errors
    /// See [`PayError`]. Nothing has left the process then.
    pub async fn prepare(
        &self,
        purchase: &Purchase,
        required: &PaymentRequired,
    ) -> Result<Ready, PayError> {
        check_resource(purchase.url(), required)?;
        if let Some((scheme, reservation)) = self.standing(purchase).await? {
            let clearance = Clearance::resume(reservation);
            match self.fate(&scheme, &clearance).await {
                Ok(Fate::Dead) => {
                    self.void(&clearance, VoidProof::ChainDead).await.map_err(PayError::Ledger)?
                }
                // Used: the server may still hold the content for who presents it again.
                Ok(Fate::Used { .. } | Fate::Live) | Err(_) => {
                    return self.sign(scheme, clearance, required, Standing::Resumed).await;
                }
            }
        }
        self.reconcile_expired().await;
        let (rails, declined) = rank(&self.schemes, &required.accepts, purchase.url());
        let (scheme, clearance, standing) =
            self.clear_one(purchase, required, rails, declined).await?;
        self.sign(scheme, clearance, required, standing).await
    }

    /// What a purchase would cost and what the rules say of it. Signs and reserves nothing.
    ///
    /// # Errors
    /// When the offer is for another origin, or the ledger cannot be read.
    pub async fn preview(
        &self,
        purchase: &Purchase,
        required: &PaymentRequired,
    ) -> Result<Priced, PayError> {
        check_resource(purchase.url(), required)?;
        let open = self.standing(purchase).await?;
        let (rails, declined) = rank(&self.schemes, &required.accepts, purchase.url());
        let mut candidates = Vec::with_capacity(rails.len());
        for Rail { scheme, quote } in rails {
            let payer = scheme.payer();
            let spent = self.ledger.spent(&payer, &quote.asset).await.map_err(PayError::Ledger)?;
            let mut verdict = self.policy.judge(&quote, &purchase.intent(&payer), &spent);
            let used = spent.posted.checked_add(spent.reserved).unwrap_or(Amount::MAX);
            let remaining = match &verdict {
                Verdict::Allow(limits) => limits.total.map(|total| total.saturating_sub(used)),
                Verdict::Ask(denied) | Verdict::Deny(denied) if denied.rule == "total_budget" => {
                    denied.remaining
                }
                Verdict::Ask(_) | Verdict::Deny(_) => None,
            };
            // What the owner allows on the chain itself counts too, where it can be told.
            if matches!(verdict, Verdict::Allow(_))
                && let Err(Unplanned::Denied(why)) = scheme.plan_nonce(&quote, [0; 32]).await
            {
                verdict = Verdict::Deny(*why);
            }
            let terms = Terms::of_quote(&quote, &payer);
            candidates.push(Candidate { terms, verdict, spent, remaining });
        }
        let chosen = candidates.iter().position(|c| matches!(c.verdict, Verdict::Allow(_)));
        Ok(Priced {
            description: required.resource.description.as_deref().map(printable),
            candidates,
            declined,
            chosen,
            open: open.map(|(_, reservation)| Terms::of_reservation(&reservation)),
        })
    }

    /// Closes the books on an answer as far as the chain proves it, and says what it means.
    ///
    /// # Errors
    /// [`PayError::Refused`], [`PayError::AlreadySettled`] or [`PayError::Ambiguous`] when the
    /// answer is not the content.
    pub async fn conclude(&self, ready: &Ready, answer: Answer) -> Result<Receipt, PayError> {
        match answer {
            Answer::Served { settlement, note } => {
                Ok(self.conclude_served(ready, settlement, note).await)
            }
            Answer::Refused(refused) => Err(self.conclude_refused(ready, refused).await),
            Answer::Pending { transaction } => Err(PayError::Ambiguous {
                problem: "the server says that the settlement is pending".into(),
                transaction: transaction.as_deref().map(printable),
                terms: Box::new(ready.terms()),
                status: PaymentStatus::Unknown,
            }),
            Answer::Busy(status) | Answer::Failed(status) => {
                let mut receipt = ready.receipt(ReceiptStatus::Unsettled);
                receipt.note = Some(format!(
                    "the server answered {status} and did not say that it was paid; repeating \
                     the request presents the same payment again"
                ));
                Ok(receipt)
            }
        }
    }

    async fn conclude_served(
        &self,
        ready: &Ready,
        settlement: Option<Settlement>,
        note: Option<String>,
    ) -> Receipt {
        let quote = &ready.reservation().quote;
        let claimed = settlement.map(|settlement| Claimed::of(&settlement, quote));
        let mut receipt = ready.receipt(ReceiptStatus::Unknown);
        receipt.note = note;
        let booked = match (self.fate(&ready.scheme, &ready.clearance).await, claimed) {
            (Ok(Fate::Used { transaction, charged }), claimed) => {
                receipt.status = ReceiptStatus::Settled;
                receipt.transaction = transaction.or(claimed.and_then(|c| c.transaction));
                receipt.charged = within(quote, charged);
                if receipt.charged.is_none() {
                    receipt.note = Some("what was charged could not be read; all is booked".into());
                }
                let hash = receipt.transaction.clone().unwrap_or_default();
                self.post(&ready.clearance, charged, &hash).await
            }
            (Ok(Fate::Dead), _) => {
                receipt.status = ReceiptStatus::Unsettled;
                receipt.note =
                    Some("the chain shows that the payment was not and cannot be used".into());
                self.void(&ready.clearance, VoidProof::ChainDead).await
            }
            // The authorization stays good until it expires, and whoever holds it can still take
            // all of it: the server's word releases nothing.
            (Ok(Fate::Live), Some(claimed)) if claimed.charged == Some(Amount::ZERO) => {
                receipt.status = ReceiptStatus::Unsettled;
                receipt.charged = claimed.charged;
                receipt.note = Some(NOTHING_CHARGED.into());
                Ok(())
            }
            (Ok(Fate::Live), Some(claimed)) => {
                receipt.transaction = claimed.transaction;
                receipt.charged = claimed.charged;
                receipt.note =
                    Some("the server says it was paid; the chain does not show it yet".into());
                Ok(())
            }
            (Err(_), Some(claimed)) => {
                receipt.status = ReceiptStatus::Claimed;
                receipt.transaction = claimed.transaction;
                receipt.charged = claimed.charged;
                if claimed.charged != Some(quote.amount) {
                    receipt.note = Some(ALL_BOOKED.into());
                }
                let hash = receipt.transaction.clone().unwrap_or_default();
                self.post(&ready.clearance, None, &hash).await
            }
            (Ok(Fate::Live) | Err(_), None) => Ok(()),
        };
        // What could not be booked stays reserved, which counts as spent.
        if let Err(error) = booked {
            tracing::warn!(%error, "the outcome of a payment could not be booked");
            receipt.note = Some(format!("the outcome could not be booked: {error}"));
        }
        receipt
    }

    async fn conclude_refused(&self, ready: &Ready, mut refused: Refused) -> PayError {
        let terms = Box::new(ready.terms());
        let mut status = PaymentStatus::Sent;
        let booked = match self.fate(&ready.scheme, &ready.clearance).await {
            Ok(Fate::Used { transaction, charged }) => {
                let transaction = transaction.or(refused.transaction.take());
                let hash = transaction.as_deref().unwrap_or("");
                if let Err(error) = self.post(&ready.clearance, charged, hash).await {
                    tracing::warn!(%error, "a settled payment could not be booked");
                }
                let charged = within(&ready.reservation().quote, charged);
                return PayError::AlreadySettled { transaction, charged, terms };
            }
            Ok(Fate::Dead) => {
                status = PaymentStatus::Failed;
                self.void(&ready.clearance, VoidProof::ChainDead).await
            }
            Ok(Fate::Live) | Err(_) => Ok(()),
        };
        if let Err(error) = booked {
            tracing::warn!(%error, "a dead payment could not be released");
            status = PaymentStatus::Sent;
        }
        PayError::Refused { refused: Box::new(refused), terms, status }
    }

    /// The open reservation of a purchase, and the scheme that can sign it again.
    async fn standing(
        &self,
        purchase: &Purchase,
    ) -> Result<Option<(Arc<dyn ClientScheme>, Reservation)>, PayError> {
        for payer in self.payers() {
            let id = purchase.intent(&payer).id;
            if let Some(open) = self.ledger.open(&id).await.map_err(PayError::Ledger)? {
                return self.with_scheme(open).map(Some);
            }
        }
        Ok(None)
    }

    fn with_scheme(
        &self,
        open: Reservation,
    ) -> Result<(Arc<dyn ClientScheme>, Reservation), PayError> {
        let missing = || {
            PayError::Ledger(Unavailable::new(
                "the scheme of an open payment",
                "this purchase has a payment that this wallet cannot sign again",
            ))
        };
        self.scheme_of(&open).map(|scheme| (scheme, open)).ok_or_else(missing)
    }

    /// Clears the first rail that the rules and the ledger allow.
    async fn clear_one(
        &self,
        purchase: &Purchase,
        required: &PaymentRequired,
        rails: Vec<Rail>,
        mut declined: Vec<Declined>,
    ) -> Result<(Arc<dyn ClientScheme>, Clearance, Standing), PayError> {
        let mut ask: Option<Denied> = None;
        let mut unplanned: Option<PayError> = None;
        let mut denied: Option<Denied> = None;
        for Rail { scheme, quote } in rails {
            if !fits(&quote.offer, required) {
                let why = "its payment would be too large for a header";
                declined.push(Declined::new(&quote.offer, why));
                continue;
            }
            let payer = scheme.payer();
            let terms = Terms::of_quote(&quote, &payer);
            let unsigned = |error| {
                let (terms, status) = (Box::new(terms), PaymentStatus::NotSent);
                PayError::Signer { error, terms, status }
            };
            let fresh = match self.entropy.nonce() {
                Ok(fresh) => fresh,
                Err(error) => return Err(unsigned(error)),
            };
            let intent: Intent = purchase.intent(&payer);
            let (policy, ledger) = (self.policy.as_ref(), self.ledger.as_ref());
            let offer = quote.offer.clone();
            let now = self.clock.now();
            match clear(policy, ledger, scheme.as_ref(), quote, intent, fresh, now).await {
                Ok(clearance) => return Ok((scheme, clearance, Standing::Fresh)),
                Err(NotCleared::Open(open)) => {
                    let (scheme, open) = self.with_scheme(*open)?;
                    return Ok((scheme, Clearance::resume(open), Standing::Resumed));
                }
                // One network is out of reach; the next offer may be of another.
                Err(NotCleared::Unplanned(error)) => {
                    unplanned = unplanned.or_else(|| Some(unsigned(error)));
                }
                Err(NotCleared::Unavailable(error)) => return Err(PayError::Ledger(error)),
                Err(NotCleared::Ask(why)) => ask = ask.or(Some(why)),
                // The best offer's denial is the error; the others' explain it.
                Err(NotCleared::Denied(why)) if denied.is_none() => denied = Some(why),
                Err(NotCleared::Denied(why)) => declined.push(Declined::new(&offer, why.message)),
            }
        }
        Err(match (ask, unplanned, denied) {
            (Some(why), _, _) => PayError::NeedsApproval(Box::new(why)),
            (None, Some(error), _) => error,
            (None, None, Some(why)) => PayError::Denied { denied: Box::new(why), declined },
            (None, None, None) => PayError::NoRail { origin: origin_of(purchase.url()), declined },
        })
    }

    /// Signs what was cleared and puts the message together. What was cleared just now and cannot
    /// be signed is released: nothing of it left this function.
    async fn sign(
        &self,
        scheme: Arc<dyn ClientScheme>,
        clearance: Clearance,
        required: &PaymentRequired,
        standing: Standing,
    ) -> Result<Ready, PayError> {
        match self.message(&scheme, &clearance, required).await {
            Ok((presented, headers)) => {
                let resumed = standing == Standing::Resumed;
                Ok(Ready { presented, headers, scheme, clearance, resumed })
            }
            Err(error) => {
                let mut status = PaymentStatus::Unknown;
                if standing == Standing::Fresh {
                    status = match self.void(&clearance, VoidProof::NeverSigned).await {
                        Ok(()) => PaymentStatus::NotSent,
                        Err(_) => PaymentStatus::Reserved,
                    };
                }
                let terms = Box::new(Terms::of_reservation(clearance.reservation()));
                Err(PayError::Signer { error, terms, status })
            }
        }
    }

    async fn message(
        &self,
        scheme: &Arc<dyn ClientScheme>,
        clearance: &Clearance,
        required: &PaymentRequired,
    ) -> Result<(Presented, HeaderMap), Unavailable> {
        let mut extensions = required.extensions.clone();
        if let Some(Value::Object(advertised)) = extensions.get_mut(PAYMENT_IDENTIFIER) {
            let id = scheme.identifier(clearance).await?;
            let info = advertised.entry("info").or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(info) = info {
                info.insert("id".into(), id.into());
            }
        }
        let Authorized { payload } = scheme.authorize(clearance).await?;
        extend(&mut extensions, scheme.extensions(clearance, &required.extensions).await);
        let offer = &clearance.reservation().quote.offer;
        let presented = Presented { extensions, ..message_of(required, offer, payload) };
        let mut headers = HeaderMap::new();
        transport::write_payment(&mut headers, &presented)
            .map_err(|error| Unavailable::new("the payment message", error.to_string()))?;
        Ok((presented, headers))
    }
}

/// Adds what a scheme brings to what the server advertised. What the server said stays as it is, and
/// what it did not ask for is not sent.
fn extend(advertised: &mut Map<String, Value>, added: Map<String, Value>) {
    for (name, entries) in added {
        let (Some(Value::Object(extension)), Value::Object(entries)) =
            (advertised.get_mut(&name), entries)
        else {
            continue;
        };
        let info = extension.entry("info").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(info) = info {
            for (key, value) in entries {
                info.entry(key).or_insert(value);
            }
        }
    }
}

/// What a server says of a settlement. No proof.
struct Claimed {
    transaction: Option<String>,
    charged: Option<Amount>,
}

impl Claimed {
    fn of(settlement: &Settlement, quote: &Quote) -> Self {
        let transaction = printable(&settlement.transaction);
        let charged = match quote.scheme.has_ceiling() {
            true => within(quote, Some(settlement.charged.unwrap_or(quote.amount))),
            false => Some(quote.amount),
        };
        Self { transaction: Some(transaction).filter(|hash| !hash.is_empty()), charged }
    }
}

const NOTHING_CHARGED: &str = "the server says that nothing was charged; the amount stays reserved \
                               until the authorization has expired";
const ALL_BOOKED: &str =
    "the chain could not be asked what was charged, so that all of it is booked";

/// Most that a scheme's payload, what it adds to extensions, and the identifier add to a payment
/// message, in bytes of JSON.
const SIGNED_BYTES_MAX: usize = 4 * 1024;

/// Whether a payment for `offer` fits into a header. A server fills the rest of the message, and
/// must not be able to have a signature made that is then thrown away: the same reservation may
/// have been signed, and sent, by another request.
fn fits(offer: &Requirements, required: &PaymentRequired) -> bool {
    let room = Value::String("0".repeat(SIGNED_BYTES_MAX));
    let largest = message_of(required, offer, Map::from_iter([("room".to_owned(), room)]));
    transport::write_payment(&mut HeaderMap::new(), &largest).is_ok()
}

fn message_of(
    required: &PaymentRequired,
    offer: &Requirements,
    payload: Map<String, Value>,
) -> Presented {
    Presented {
        version: required.version,
        scheme: offer.scheme.clone(),
        network: offer.network.clone(),
        accepted: Some(offer.clone()),
        payload,
        resource: Some(required.resource.clone()),
        extensions: required.extensions.clone(),
        other: Map::new(),
    }
}

/// Whether what is signed was cleared in this call or stood in the ledger before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    Fresh,
    Resumed,
}

/// A server may sell only what is its own: an offer for another origin's resource is a lure.
fn check_resource(requested: &Url, required: &PaymentRequired) -> Result<(), PayError> {
    if names_requested(requested, &required.resource.url) {
        return Ok(());
    }
    let named = match requested.join(&required.resource.url) {
        Ok(url) => crate::origin::describe(&url),
        Err(_) => "something that is no URL".to_owned(),
    };
    let message = format!(
        "{} asks for payment for {}, which belongs to another origin",
        origin_of(requested),
        printable(&named),
    );
    Err(refusal("resource_origin", message))
}

/// A denial by a rule that has no figures and that no setting lifts.
pub(crate) fn refusal(rule: &'static str, message: String) -> PayError {
    let denied = Denied { rule, message, asked: Amount::ZERO, limit: None, remaining: None };
    PayError::Denied { denied: Box::new(denied), declined: Vec::new() }
}

/// The reason that a 402, 409 or 503 without an outcome header gives in its offer or body.
fn said_reason(headers: &HeaderMap, body: &[u8]) -> Option<Reason> {
    let offered = transport::read_payment_required(headers, body).ok().and_then(|r| r.error);
    let text = offered.or_else(|| {
        let Ok(Value::Object(map)) = json::parse(body) else { return None };
        let said = ["errorReason", "invalidReason", "error"].iter().find_map(|key| map.get(*key));
        said.and_then(Value::as_str).map(str::to_owned)
    })?;
    // Some write the code alone, some `code: explanation`.
    let code = text.split_once(':').map_or(text.as_str(), |(code, _)| code);
    match Reason::parse(code.trim()) {
        known @ Reason::Known(_) => Some(known),
        Reason::Foreign(_) => Some(Reason::parse(&text)),
    }
}

fn tidy(refused: Refused) -> Refused {
    let reason = match refused.reason {
        Reason::Foreign(code) => Reason::Foreign(printable(&code)),
        known @ Reason::Known(_) => known,
    };
    Refused {
        reason,
        message: printable(&refused.message),
        payer: refused.payer.as_deref().map(printable),
        transaction: refused.transaction.as_deref().map(printable),
    }
}
