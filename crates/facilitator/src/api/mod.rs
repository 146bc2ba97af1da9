//! The facilitator over HTTP: `/verify`, `/settle`, `/supported` and `/health` (spec v2 §7), and our
//! own `/account`.
//!
//! An invalid payment is an answer with status 200; a malformed request is 400 and names the
//! field; what could not be told is 503. Replies are in the version of the request. Nothing here
//! logs a body or a header.

mod access;
mod answer;

use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use pay402_core::error::Malformed;
use pay402_core::facilitator::{Settled, Verdict};
use pay402_core::wire::account::{AccountRequest, decode_account_request, encode_account_answer};
use pay402_core::wire::{self, FacilitatorRequest, MESSAGE_BYTES_MAX};
use pay402_core::{Digest, Payment};
use serde_json::{Value, json};

use crate::Engine;
pub use access::{Access, KeyHash, KeyHashError};
use answer::{TurnedAway, json_answer, unavailable};

/// How long a client may take to send its body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest `Idempotency-Key`, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

#[derive(Clone)]
struct Api {
    engine: Engine,
    access: std::sync::Arc<Access>,
}

/// The routes over `engine`. Whether open access is fit for the address listened on is the
/// listener's to check: [`Access::check_listen`].
pub fn router(engine: Engine, access: Access) -> Router {
    let api = Api { engine, access: std::sync::Arc::new(access) };
    Router::new()
        .route("/verify", get(describe_verify).post(verify))
        .route("/settle", get(describe_settle).post(settle))
        .route("/account", get(describe_account).post(account))
        .route("/supported", get(supported))
        .route("/health", get(health))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .with_state(api)
}

async fn verify(State(api): State<Api>, request: Request) -> Response {
    let (call, message) = match read(&api, request).await {
        Ok(read) => read,
        Err(turned_away) => return turned_away.into_response(),
    };
    let payment = match Payment::pair_to_settle(message.terms, message.presented) {
        Ok(payment) => payment,
        Err(refused) => return verdict(&Verdict::Invalid(refused)),
    };
    match api.engine.verify_for(call.digest, &payment).await {
        Ok(answer) => verdict(&answer),
        Err(error) => {
            tracing::warn!(%error, "verify could not be answered");
            let refused = unavailable::verify(&error);
            answer::retry_later(&wire::encode_verdict(&Verdict::Invalid(refused)))
        }
    }
}

fn verdict(verdict: &Verdict) -> Response {
    if let Verdict::Invalid(refused) = verdict {
        tracing::debug!(reason = refused.reason.code(), "verified as invalid");
    }
    json_answer(StatusCode::OK, &wire::encode_verdict(verdict))
}

async fn settle(State(api): State<Api>, request: Request) -> Response {
    let (call, message) = match read(&api, request).await {
        Ok(read) => read,
        Err(turned_away) => return turned_away.into_response(),
    };
    let (version, network) = (message.version, message.terms.network.clone());
    let encode = |settled: &Settled| wire::encode_settled(version, &network, settled);
    let payment = match Payment::pair_to_settle(message.terms, message.presented) {
        Ok(payment) => payment,
        Err(refused) => {
            return json_answer(StatusCode::OK, &encode(&Settled::Refused(refused)));
        }
    };
    let wait = api.engine.wait_for(&payment);
    match api.engine.settle_for(call.digest, payment, wait).await {
        Ok(settled) => json_answer(StatusCode::OK, &encode(&settled)),
        Err(error) => {
            let refused = unavailable::settle(&error);
            answer::retry_later(&encode(&Settled::Refused(refused)))
        }
    }
}

async fn account(State(api): State<Api>, request: Request) -> Response {
    let AccountRequest { network, request } = match read_account(&api, request).await {
        Ok(read) => read,
        Err(turned_away) => return turned_away.into_response(),
    };
    match api.engine.account_for(&network, request, api.engine.wait_max()).await {
        Ok(settled) => json_answer(StatusCode::OK, &encode_account_answer(&network, &settled)),
        Err(error) => {
            tracing::warn!(%error, "a request for an account could not be answered");
            let refused = Settled::Refused(unavailable::settle(&error));
            answer::retry_later(&encode_account_answer(&network, &refused))
        }
    }
}

async fn supported(State(api): State<Api>) -> Response {
    json_answer(StatusCode::OK, &wire::encode_supported(api.engine.kinds()))
}

async fn health(State(api): State<Api>) -> Response {
    let networks = api.engine.health();
    let well = networks.iter().filter(|network| network.status == "ok").count();
    let (code, status) = match well {
        _ if well == networks.len() => (StatusCode::OK, "ok"),
        0 => (StatusCode::SERVICE_UNAVAILABLE, "down"),
        _ => (StatusCode::OK, "degraded"),
    };
    let networks: Vec<_> = networks
        .iter()
        .map(|network| {
            json!({
                "network": network.network.as_str(),
                "status": network.status,
                "unfinished": network.unfinished,
            })
        })
        .collect();
    let body = json!({
        "status": status,
        "networks": networks,
        "supported": wire::encode_supported(api.engine.kinds()),
    });
    json_answer(code, &body)
}

async fn describe_verify() -> Response {
    json_answer(StatusCode::OK, &description("/verify", "checks a payment and moves nothing"))
}

async fn describe_settle() -> Response {
    json_answer(StatusCode::OK, &description("/settle", "settles a payment, at most once"))
}

async fn describe_account() -> Response {
    let body = json!({
        "endpoint": "/account",
        "method": "POST",
        "description": "adopts code for an account (EIP-7702), or carries out what its owner signed",
        "body": {
            "network": "CAIP-2 id",
            "account": "the account's address",
            "authorization": "optional: {chainId, address, nonce, yParity, r, s}",
            "call": "optional: call data of an operation with its owner's signature",
        },
    });
    json_answer(StatusCode::OK, &body)
}

fn description(endpoint: &str, does: &str) -> Value {
    json!({
        "endpoint": endpoint,
        "method": "POST",
        "description": does,
        "body": {
            "x402Version": "1 or 2",
            "paymentPayload": "what the client presented (PaymentPayload)",
            "paymentRequirements": "the server's own terms (PaymentRequirements); of a metered \
                                    payment the ceiling to verify, and the charge to settle",
        },
    })
}

async fn not_found() -> Response {
    let message = "there is /verify, /settle, /account, /supported and /health";
    json_answer(StatusCode::NOT_FOUND, &json!({"error": "not_found", "message": message}))
}

async fn wrong_method() -> Response {
    let message = "use POST for /verify, /settle and /account, GET for the others";
    let body = json!({"error": "method_not_allowed", "message": message});
    json_answer(StatusCode::METHOD_NOT_ALLOWED, &body)
}

/// Who calls.
struct Caller {
    /// API key and idempotency key, hashed together, when both were given.
    digest: Option<Digest>,
}

/// Everything that precedes the engine, the cheapest refusals first.
async fn read(api: &Api, request: Request) -> Result<(Caller, FacilitatorRequest), TurnedAway> {
    let (parts, body) = request.into_parts();
    let caller = identify(api, &parts)?;
    let body = read_body(body).await?;
    let message = wire::decode_facilitator_request(&body)?;
    // What nobody here serves is refused by the engine, as an answer.
    if let Some(network) = api.engine.network_serving(message.version, &message.terms) {
        network.form(&message.presented).map_err(|error| error.within("paymentPayload"))?;
        network.terms_form(&message.terms).map_err(|error| error.within("paymentRequirements"))?;
    }
    Ok((caller, message))
}

async fn read_account(api: &Api, request: Request) -> Result<AccountRequest, TurnedAway> {
    let (parts, body) = request.into_parts();
    api.access.admit(&parts.headers)?;
    let message = decode_account_request(&read_body(body).await?)?;
    if let Some(network) = api.engine.network(&message.network) {
        network.account_form(&message.request)?;
    }
    Ok(message)
}

fn identify(api: &Api, parts: &Parts) -> Result<Caller, TurnedAway> {
    let key = api.access.admit(&parts.headers)?;
    let Some(id) = parts.headers.get("idempotency-key") else { return Ok(Caller { digest: None }) };
    let id = id.as_bytes();
    if id.is_empty() || id.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let problem = format!("must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
        return Err(Malformed::new("Idempotency-Key", problem).into());
    }
    // Without an API key an idempotency key proves nothing: anybody could have read or guessed it.
    Ok(Caller { digest: key.map(|key| Digest::of(&[key.as_bytes(), id])) })
}

async fn read_body(body: Body) -> Result<Bytes, TurnedAway> {
    let whole = Limited::new(body, MESSAGE_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_TIMEOUT, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(TurnedAway::TooLarge),
        Ok(Err(_)) => Err(Malformed::new("body", "ended before it was complete").into()),
        Err(_) => Err(TurnedAway::TooSlow),
    }
}
