//! The gate: whether a request is served, and what it is answered when it is not.
//!
//! Framework-free: it reads the head of a request and returns a decision. The checks run from
//! cheap to dear: form, match with our own terms, identification without I/O, the claim, and only
//! then the facilitator.
//!
//! **Invariant:** a [`Ticket`] exists only for a payment that was claimed durably, for this very
//! request, before the handler runs. Whatever cannot be told refuses.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::StatusCode;
use pay402_core::error::Malformed;
use pay402_core::facilitator::Verdict;
use pay402_core::grants::{Claim, Claimed, GrantState, Held};
use pay402_core::payment::{PAYMENT_IDENTIFIER, PaymentRequired, Presented};
use pay402_core::resource::ResourceInfo;
use pay402_core::time::UnixTime;
use pay402_core::transport::http::{Asking, read_payment, strip_charge};
use pay402_core::wire::terms_about;
use pay402_core::{Payment, PaymentKey, Refusal, Refused, WireVersion};
use serde_json::{Map, Value, json};

use crate::place::{PATH_BYTES_MAX, Place, RequestMeta, names_same_path};
use crate::reply::{self, Caller};
use crate::route::Route;
use crate::seal::Secret;
use crate::server::{Offer, Shared};
use crate::ticket::{Matched, Ticket};
use crate::{Answer, Charge, Disposal};

/// Longest wait for the facilitator's verification, in seconds.
pub const VERIFY_WAIT_S: u64 = 35;
/// How long a claim is remembered after the authorization can have expired, in seconds. That long
/// a lost answer can be had again.
pub const CLAIM_KEPT_S: u64 = 24 * 3600;
/// Most encoded 402 answers a gate keeps, one per URL.
pub const ASKED_MAX: usize = 1024;

const UNPAID: &str = "payment is required: sign one of the offers and send it with the request";

/// What to do with a request.
#[derive(Debug)]
pub enum Admission {
    /// A CORS preflight: let the inner service answer it, but without a body and without a
    /// payment. Browsers send preflights without any payment, so a gate that asked them for one
    /// could never be paid from a page.
    Free,
    /// Answer this; the handler does not run.
    Refuse(Answer),
    /// Run the handler, then [`Gate::settle`] or [`Gate::release`].
    Serve(Ticket),
    /// Answer this again: the request was paid and answered before, and proved to be the same.
    Replay(Answer),
}

/// The gate of one route. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    offers: Vec<Arc<Offer>>,
    route: Route,
    /// What is asked for, but for the URL and the offers.
    required: PaymentRequired,
    /// Encoded answers by URL.
    asked: RwLock<HashMap<Box<str>, Answer>>,
}

/// What the head of a request alone says.
pub(crate) enum Triage {
    /// The decision is made.
    Decided(Admission),
    /// It carries a payment, which is well-formed JSON so far.
    Paid(Box<Presented>),
}

/// Why a payment is turned away before it is claimed.
enum Turned {
    Malformed(Malformed),
    Refused(Refused),
}

impl Gate {
    pub(crate) fn new(shared: Arc<Shared>, offers: Vec<Offer>, route: Route) -> Self {
        let resource = ResourceInfo {
            url: String::new(),
            description: route.description.clone(),
            mime_type: route.mime_type.clone(),
            other: Map::new(),
        };
        let mut extensions = Map::from_iter([(PAYMENT_IDENTIFIER.to_owned(), identifier_info())]);
        for Offer { scheme, terms, .. } in &offers {
            for (name, extension) in scheme.extensions(terms, &shared.supported.extensions) {
                extensions.entry(name).or_insert(extension);
            }
        }
        let required = PaymentRequired {
            version: WireVersion::CURRENT,
            error: Some(UNPAID.into()),
            resource,
            accepts: Vec::new(),
            extensions,
            other: Map::new(),
        };
        let offers = offers.into_iter().map(Arc::new).collect();
        let asked = RwLock::default();
        Self { inner: Arc::new(Inner { shared, offers, route, required, asked }) }
    }

    /// Decides on a request. The handler runs only for [`Admission::Serve`].
    pub async fn admit(&self, request: RequestMeta<'_>) -> Admission {
        match self.triage(&request) {
            Triage::Decided(admission) => admission,
            Triage::Paid(presented) => self.admit_paid(&request, *presented).await,
        }
    }

    /// Collects `charge` for `response`, the whole answer of the handler, and returns what to send:
    /// the response with its outcome, or why it is withheld. A response that [`Disposal`] does not
    /// settle is released instead, and one with a charge that its offer does not allow is withheld.
    ///
    /// Once begun, settlement goes on even when this future is dropped.
    pub async fn settle(&self, mut ticket: Ticket, charge: Charge, mut response: Answer) -> Answer {
        strip_charge(&mut response.headers);
        match Disposal::on(response.status) {
            Disposal::Settle => match ticket.charge(charge) {
                Ok(()) => crate::settle::settle(self.clone(), ticket, response).await,
                Err(error) => {
                    let key = &ticket.paid_by().payment;
                    tracing::error!(%key, %error, "the handler's charge is not allowed");
                    self.release(ticket).await;
                    bad_charge()
                }
            },
            Disposal::Release => {
                self.release(ticket).await;
                response
            }
            Disposal::Withhold => {
                self.release(ticket).await;
                unsellable()
            }
        }
    }

    /// Gives the payment back: the handler failed, and nothing is charged.
    pub async fn release(&self, ticket: Ticket) {
        ticket.release().await;
    }

    /// Largest answer of the handler that can be sold, in bytes.
    pub fn response_bytes_max(&self) -> usize {
        self.inner.route.response_bytes_max
    }

    /// Longest time from signing to settlement.
    pub fn max_timeout(&self) -> Duration {
        Duration::from_secs(self.inner.route.max_timeout_seconds)
    }

    /// Decides what needs no payment to decide. Does as little as possible: most requests that a
    /// public route sees are unpaid.
    pub(crate) fn triage(&self, request: &RequestMeta<'_>) -> Triage {
        let decided = |answer| Triage::Decided(Admission::Refuse(answer));
        match read_payment(request.headers) {
            Ok(None) if request.is_preflight() => Triage::Decided(Admission::Free),
            Ok(None) => decided(self.asking(request)),
            Ok(Some(presented)) => Triage::Paid(Box::new(presented)),
            Err(error) => decided(reply::malformed(&error)),
        }
    }

    /// The 402 of an unpaid request; from memory where this URL was asked for before.
    pub(crate) fn asking(&self, request: &RequestMeta<'_>) -> Answer {
        let path = request.path();
        // Under a configured URL the path alone decides; otherwise the host is part of it.
        let cacheable = self.inner.shared.base.is_fixed();
        if cacheable {
            let asked = self.inner.asked.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = asked.get(path) {
                return answer.clone();
            }
        }
        let place = match self.place(request) {
            Ok(place) => place,
            Err(answer) => return *answer,
        };
        let answer = reply::asked(&self.offering(&self.required_at(&place)));
        if cacheable {
            let mut asked = self.inner.asked.write().unwrap_or_else(PoisonError::into_inner);
            // Starting over is cheaper than bookkeeping, and a route of many URLs gains little.
            if asked.len() >= ASKED_MAX {
                asked.clear();
            }
            asked.insert(path.into(), answer.clone());
        }
        answer
    }

    /// The 402, or 412, that says why the last payment was refused.
    pub(crate) fn asking_because(
        &self,
        place: &Place,
        caller: &Caller,
        refused: &Refused,
    ) -> Answer {
        let status = reply::status_of(&refused.reason);
        match status {
            // 412: the payer has something to do on the chain first, and then pays by the same offer.
            StatusCode::PAYMENT_REQUIRED | StatusCode::PRECONDITION_FAILED => {
                let error = Some(refused.to_string());
                let required = PaymentRequired { error, ..self.required_at(place) };
                caller.ask_again(status, &self.offering(&required), refused)
            }
            _ => reply::later(caller.refused(status, refused)),
        }
    }

    pub(crate) async fn admit_paid(
        &self,
        request: &RequestMeta<'_>,
        presented: Presented,
    ) -> Admission {
        let place = match self.place(request) {
            Ok(place) => place,
            Err(answer) => return Admission::Refuse(*answer),
        };
        let caller = Caller { version: presented.version, network: presented.network.clone() };
        let now = self.inner.shared.clock.now();
        let matched = match self.recognise(presented, place.clone(), now) {
            Ok(matched) => matched,
            Err(Turned::Malformed(error)) => return Admission::Refuse(reply::malformed(&error)),
            Err(Turned::Refused(refused)) => {
                return Admission::Refuse(self.asking_because(&place, &caller, &refused));
            }
        };
        if let Some(refused) = matched.late.clone() {
            return self.admit_late(matched, &refused, now, &caller).await;
        }
        self.inner.shared.prune_sometimes();
        match self.claim(matched, now).await {
            Ok(ticket) => self.open(ticket, &place, &caller).await,
            Err(Unclaimed::Held(matched, held)) => self.repeat(*matched, held, &caller).await,
            Err(Unclaimed::Unavailable) => {
                Admission::Refuse(caller.unavailable(Refusal::UnexpectedVerifyError))
            }
        }
    }

    /// A payment whose time is over buys nothing any more. But one that was settled, or may have
    /// been, is told so: a fresh offer would have its payer pay twice for what is kept for it.
    async fn admit_late(
        &self,
        matched: Matched,
        refused: &Refused,
        now: UnixTime,
        caller: &Caller,
    ) -> Admission {
        let place = matched.place.clone();
        let unavailable = || Admission::Refuse(caller.unavailable(Refusal::UnexpectedVerifyError));
        match self.inner.shared.grants.state(&matched.key).await {
            Ok(Some(GrantState::Settling { .. } | GrantState::Delivered { .. })) => {}
            // Settlement was not asked for in time.
            Ok(Some(GrantState::Claimed) | None) => {
                return Admission::Refuse(self.asking_because(&place, caller, refused));
            }
            Err(error) => {
                tracing::error!(%error, "a claim could not be looked up");
                return unavailable();
            }
        }
        match self.claim(matched, now).await {
            // It was released or forgotten a moment ago.
            Ok(ticket) => {
                ticket.release().await;
                Admission::Refuse(self.asking_because(&place, caller, refused))
            }
            Err(Unclaimed::Held(matched, held)) => self.repeat(*matched, held, caller).await,
            Err(Unclaimed::Unavailable) => unavailable(),
        }
    }

    /// Where the request goes, or the answer when it goes nowhere that can be sold.
    fn place(&self, request: &RequestMeta<'_>) -> Result<Place, Box<Answer>> {
        if request.path().len() > PATH_BYTES_MAX {
            let message = format!("path and query are longer than {PATH_BYTES_MAX} bytes");
            let answer = Answer::problem(StatusCode::URI_TOO_LONG, "uri_too_long", &message);
            return Err(Box::new(answer));
        }
        let origin = self.inner.shared.base.origin(request);
        let origin = origin.map_err(|error| Box::new(reply::malformed(&error)))?;
        Ok(Place::new(request, &origin, &self.inner.route.mounted_at))
    }

    fn offering(&self, required: &PaymentRequired) -> Asking {
        Asking::offering(required, |version| {
            let offers = self.inner.offers.iter().filter(|offer| offer.versions.contains(&version));
            offers.map(|offer| offer.terms.clone()).collect()
        })
    }

    fn required_at(&self, place: &Place) -> PaymentRequired {
        let mut required = self.inner.required.clone();
        required.resource.url.clone_from(&place.url);
        required
    }

    /// Matches a payment with our own terms and identifies it, without asking anybody.
    fn recognise(
        &self,
        presented: Presented,
        place: Place,
        now: UnixTime,
    ) -> Result<Matched, Turned> {
        check_identifier(&presented).map_err(Turned::Malformed)?;
        let answers = |offer: &&Arc<Offer>| {
            offer.terms.scheme == presented.scheme
                && offer.terms.network == presented.network
                && offer.versions.contains(&presented.version)
        };
        let candidates: Vec<_> = self.inner.offers.iter().filter(answers).collect();
        let Some(first) = candidates.first() else {
            return Err(Turned::Refused(Refusal::UnsupportedScheme.into()));
        };
        first.scheme.form(&presented).map_err(Turned::Malformed)?;
        if let Some(resource) = presented.resource.as_ref().filter(|said| !said.url.is_empty())
            && !names_same_path(&resource.url, &place.url)
        {
            let message = "the payment names another resource in resource.url";
            let refused = Refused::new(Refusal::InvalidPaymentRequirements, message);
            return Err(Turned::Refused(refused));
        }
        // Several offers may share scheme and network; the payment says by its content, and in
        // version 2 by what it accepted, which one it answers.
        let mut refused = None;
        for offer in candidates {
            match self.identify(offer, &presented, &place, now) {
                Ok((payment, key, late)) => {
                    let secret = presented.payment_identifier().map(|id| Secret::new(id, &key));
                    let offer = offer.clone();
                    return Ok(Matched { offer, payment, key, secret, place, late });
                }
                // The first reason may be of an offer that was never meant; a signature that is
                // wrong for the offer that was accepted says more than "not this one".
                Err(reason) => match &refused {
                    Some(_) if reason.reason.is(Refusal::InvalidPaymentRequirements) => {}
                    _ => refused = Some(reason),
                },
            }
        }
        Err(Turned::Refused(refused.expect("there is at least one candidate")))
    }

    fn identify(
        &self,
        offer: &Offer,
        presented: &Presented,
        place: &Place,
        now: UnixTime,
    ) -> Result<(Payment, PaymentKey, Option<Refused>), Refused> {
        let resource =
            ResourceInfo { url: place.url.clone(), ..self.inner.required.resource.clone() };
        let terms = terms_about(presented.version, offer.terms.clone(), &resource);
        let mut forwarded = presented.clone();
        // The id opens the sealed answer: it is between the payer and us, not for the facilitator.
        forwarded.extensions.shift_remove(PAYMENT_IDENTIFIER);
        let payment = Payment::pair(terms, forwarded)?;
        match offer.scheme.identify(&payment, now) {
            Ok(key) => Ok((payment, key, None)),
            Err(late) if late.reason.is(Refusal::ValidBefore) => {
                let key = offer.scheme.recall(&payment)?;
                Ok((payment, key, Some(late)))
            }
            Err(refused) => Err(refused),
        }
    }

    /// Claims a payment for its request. Runs to its end even when the client hangs up, so that a
    /// claim is never left without a ticket to release it.
    async fn claim(&self, matched: Matched, now: UnixTime) -> Result<Ticket, Unclaimed> {
        let shared = self.inner.shared.clone();
        let claim = Claim {
            key: matched.key.clone(),
            request: matched.place.fingerprint(&matched.offer.terms),
            proof: matched.secret.as_ref().map(Secret::proof),
            claimed_at: now,
            forget_at: now.plus_s(self.inner.route.max_timeout_seconds).plus_s(CLAIM_KEPT_S),
        };
        let claiming = tokio::spawn(async move {
            match shared.grants.claim(claim).await {
                Ok(Claimed::Granted) => Ok(Ticket::granted(shared, matched)),
                Ok(Claimed::Held(held)) => Err(Unclaimed::Held(Box::new(matched), held)),
                Err(error) => {
                    tracing::error!(%error, "a payment could not be claimed");
                    Err(Unclaimed::Unavailable)
                }
            }
        });
        claiming.await.unwrap_or_else(|_| Err(Unclaimed::Unavailable))
    }

    /// Makes sure that a claimed payment would settle.
    async fn open(&self, ticket: Ticket, place: &Place, caller: &Caller) -> Admission {
        let matched = ticket.matched();
        let facilitator = &*self.inner.shared.facilitator;
        let opening = matched.offer.scheme.open(&matched.payment, facilitator);
        let wait = Duration::from_secs(VERIFY_WAIT_S);
        let refusal = match tokio::time::timeout(wait, opening).await {
            Ok(Ok(Verdict::Valid { payer })) => match self.inner.shared.expose(&payer) {
                Some(exposed) => return Admission::Serve(ticket.verified(payer, exposed)),
                None => caller.too_many(),
            },
            Ok(Ok(Verdict::Invalid(refused))) => self.asking_because(place, caller, &refused),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a payment could not be verified");
                caller.unavailable(Refusal::UnexpectedVerifyError)
            }
            Err(_) => {
                tracing::warn!(seconds = VERIFY_WAIT_S, "verification took too long");
                caller.unavailable(Refusal::UnexpectedVerifyError)
            }
        };
        ticket.release().await;
        Admission::Refuse(refusal)
    }

    /// Answers a request whose payment is held by an earlier one.
    async fn repeat(&self, matched: Matched, held: Held, caller: &Caller) -> Admission {
        let Held { same_request, same_proof, state } = held;
        let proven = same_request && same_proof;
        let answer = match state {
            GrantState::Claimed if same_request => caller.busy(),
            GrantState::Claimed => {
                let why = "this payment is being used by another request";
                caller.duplicate(None, why).retry_after_s(reply::RETRY_BUSY_S)
            }
            GrantState::Settling { charge, sealed } if proven => {
                return crate::settle::resume(self.clone(), matched, charge, sealed).await;
            }
            GrantState::Settling { .. } if same_request => caller.pending(None),
            GrantState::Settling { .. } => {
                caller.duplicate(None, "this payment is being settled for another request")
            }
            GrantState::Delivered { transaction, charged, sealed: Some(sealed) } if proven => {
                let settlement = matched.settlement(transaction.clone(), charged);
                match crate::settle::replay(&matched, caller, &sealed, settlement) {
                    Some(answer) => return Admission::Replay(answer),
                    None => caller.duplicate(Some(&transaction), UNPROVEN),
                }
            }
            GrantState::Delivered { transaction, .. } if proven => {
                let why = "this payment was settled and answered; the answer was too large to keep";
                caller.duplicate(Some(&transaction), why)
            }
            GrantState::Delivered { transaction, .. } => {
                caller.duplicate(Some(&transaction), UNPROVEN)
            }
        };
        Admission::Refuse(answer)
    }
}

const UNPROVEN: &str = "this payment was settled and answered. The answer is given again only to \
                        the same request with the same payment-identifier";

enum Unclaimed {
    Held(Box<Matched>, Held),
    Unavailable,
}

/// The advertised extension (`payment-identifier`): an id is welcome, and not required.
fn identifier_info() -> Value {
    json!({
        "info": { "required": false },
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "required": { "type": "boolean" },
                "id": { "type": "string", "minLength": 16, "maxLength": 128 },
            },
            "required": ["required"],
        },
    })
}

/// An id of the wrong form is an error: to ignore it would take away the retry it stands for.
fn check_identifier(presented: &Presented) -> Result<(), Malformed> {
    let said = presented.extensions.get(PAYMENT_IDENTIFIER);
    let id = said.and_then(|said| said.get("info")).and_then(|info| info.get("id"));
    if id.is_some_and(|id| !id.is_null()) && presented.payment_identifier().is_none() {
        let problem = "must be 16 to 128 characters of A-Z a-z 0-9 _ -";
        return Err(Malformed::new("extensions.payment-identifier.info.id", problem));
    }
    Ok(())
}

/// A handler charged what its route does not sell for. What exactly is for the log.
fn bad_charge() -> Answer {
    let message = "the handler charged what cannot be charged for it; nothing was charged";
    Answer::problem(StatusCode::INTERNAL_SERVER_ERROR, "bad_charge", message)
}

/// An answer that no payment can follow, 101 above all.
pub(crate) fn unsellable() -> Answer {
    let message = "the handler gave an answer that cannot be paid for; nothing was charged";
    Answer::problem(StatusCode::INTERNAL_SERVER_ERROR, "unsellable_response", message)
}
