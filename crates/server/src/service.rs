//! The tower service: translates between HTTP messages and the gate's decisions, and holds the
//! handler's answer back until it is paid. Decides nothing itself.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, VARY};
use http::request::Parts;
use http::{HeaderName, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use pay402_core::payment::Presented;
use pay402_core::transport::http::{strip_charge, strip_payment};
use tower_service::Service;

use crate::body::PaidBody;
use crate::future::PaymentFuture;
use crate::gate::{Admission, Gate, Triage, unsellable};
use crate::place::RequestMeta;
use crate::{Answer, Charge, Disposal};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A service behind a gate. See [`crate::PaymentLayer`].
///
/// The inner service runs only for a payment that was claimed and verified. It sees the request
/// without its payment and with a [`crate::PaidBy`] among the extensions. Its answer is held back
/// whole until it is paid for, at the [`Charge`] among its own extensions if there is one; trailers
/// are not passed on.
#[derive(Clone)]
pub struct PaymentService<S> {
    gate: Gate,
    inner: S,
}

impl<S> PaymentService<S> {
    /// `inner` behind `gate`.
    pub const fn new(gate: Gate, inner: S) -> Self {
        Self { gate, inner }
    }
}

impl<S, B, RB> Service<Request<B>> for PaymentService<S>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    RB: Body<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    type Response = Response<PaidBody<RB>>;
    type Error = S::Error;
    type Future = PaymentFuture<RB, S::Error>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // Whether the inner service is ready matters only once it is called, and most requests
        // never get there.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        match self.gate.triage(&RequestMeta::of(&parts)) {
            Triage::Decided(Admission::Refuse(answer) | Admission::Replay(answer)) => {
                PaymentFuture::ready(whole(answer))
            }
            Triage::Paid(presented) => {
                let (gate, inner) = (self.gate.clone(), self.inner.clone());
                PaymentFuture::paid(paid(gate, inner, *presented, parts, body))
            }
            Triage::Decided(Admission::Free) => {
                strip_payment(&mut parts.headers);
                let mut inner = self.inner.clone();
                PaymentFuture::paid(async move {
                    let response = call(&mut inner, Request::from_parts(parts, body)).await?;
                    Ok(head_only(response))
                })
            }
            Triage::Decided(Admission::Serve(ticket)) => {
                // No ticket comes without a claim, which triage never makes.
                drop(ticket);
                PaymentFuture::ready(whole(unsellable()))
            }
        }
    }
}

/// Claims, serves and settles.
async fn paid<S, B, RB>(
    gate: Gate,
    mut inner: S,
    presented: Presented,
    mut parts: Parts,
    body: B,
) -> Result<Response<PaidBody<RB>>, S::Error>
where
    S: Service<Request<B>, Response = Response<RB>>,
    RB: Body<Data = Bytes>,
    RB::Error: Into<BoxError>,
{
    let ticket = match gate.admit_paid(&RequestMeta::of(&parts), presented).await {
        Admission::Serve(ticket) => ticket,
        Admission::Refuse(answer) | Admission::Replay(answer) => return Ok(whole(answer)),
        Admission::Free => return Ok(whole(unsellable())),
    };
    // The payment is a bearer capability and stops here.
    strip_payment(&mut parts.headers);
    parts.extensions.insert(ticket.paid_by().clone());
    // An error or a panic in here drops the ticket, which gives the payment back.
    let response = call(&mut inner, Request::from_parts(parts, body)).await?;
    match Disposal::on(response.status()) {
        Disposal::Settle => {}
        Disposal::Release => {
            gate.release(ticket).await;
            let mut response = response.map(PaidBody::inner);
            strip_charge(response.headers_mut());
            return Ok(response);
        }
        Disposal::Withhold => {
            gate.release(ticket).await;
            return Ok(whole(unsellable()));
        }
    }
    let (mut head, body) = response.into_parts();
    let charge = head.extensions.remove::<Charge>().unwrap_or_default();
    match gather(&gate, body).await {
        Ok(body) => {
            let content = Answer { status: head.status, headers: head.headers, body };
            let mut response = whole(gate.settle(ticket, charge, content).await);
            *response.extensions_mut() = head.extensions;
            Ok(response)
        }
        Err(answer) => {
            gate.release(ticket).await;
            Ok(whole(answer))
        }
    }
}

async fn call<S, B>(inner: &mut S, request: Request<B>) -> Result<S::Response, S::Error>
where
    S: Service<Request<B>>,
{
    poll_fn(|context| inner.poll_ready(context)).await?;
    inner.call(request).await
}

/// The whole body, or the answer to give in its place.
async fn gather<RB>(gate: &Gate, body: RB) -> Result<Bytes, Answer>
where
    RB: Body<Data = Bytes>,
    RB::Error: Into<BoxError>,
{
    let limit = gate.response_bytes_max();
    let gathering = Limited::new(body, limit).collect();
    let Ok(gathered) = tokio::time::timeout(gate.max_timeout(), gathering).await else {
        // The authorization has expired by now, or is about to.
        let message = "the handler took too long to finish its answer; nothing was charged";
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        return Err(Answer::problem(status, "response_too_slow", message));
    };
    gathered.map(http_body_util::Collected::to_bytes).map_err(|error| {
        if error.is::<LengthLimitError>() {
            let message = format!(
                "the handler's answer is larger than {limit} bytes, the most that is held back \
                 until it is paid; nothing was charged"
            );
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return Answer::problem(status, "response_too_large", &message);
        }
        tracing::warn!(%error, "the handler's answer broke off");
        let message = "the handler's answer broke off; nothing was charged";
        Answer::problem(StatusCode::BAD_GATEWAY, "response_broken", message)
    })
}

fn whole<RB>(answer: Answer) -> Response<PaidBody<RB>> {
    let mut response = Response::new(PaidBody::whole(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

/// What a preflight needs to know, and nothing that could be worth money: a handler that answers
/// every method would otherwise give away what it says in headers, such as a link.
fn head_only<RB>(response: Response<RB>) -> Response<PaidBody<RB>> {
    let (mut head, _body) = response.into_parts();
    let told = |name: &HeaderName| {
        matches!(*name, ALLOW | VARY) || name.as_str().starts_with("access-control-")
    };
    let headers = std::mem::take(&mut head.headers);
    let mut last = None;
    for (name, value) in headers {
        // Further values of a header come without its name.
        last = name.or(last);
        if let Some(name) = last.as_ref().filter(|name| told(name)) {
            head.headers.append(name, value);
        }
    }
    Response::from_parts(head, PaidBody::whole(Bytes::new()))
}
