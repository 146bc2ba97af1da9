//! `/dashboard`: where payments, signers and networks stand, for whoever operates the facilitator.
//!
//! Rendered here, without a build step and with nothing from elsewhere: one page is one answer. A small
//! script keeps it up to date by `/events`; without it, it is reloaded. Nothing can be done here but
//! look, so there is no request to forge. **Invariant:** the browser runs and loads only what the
//! page's policy names by its hash.

mod page;
mod session;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, LOCATION, ORIGIN, REFERRER_POLICY,
    SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::uri::Uri;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Limited};
use pay402_core::error::Unavailable;
use pay402_core::history::Span;
use pay402_core::journal::Backlog;
use sha2::{Digest as _, Sha256};

use self::page::{Budget, Html, Lane, Overview, Refusals, States, Tile};
pub(super) use self::session::Sessions;
use super::access::Reader;
use super::answer::TurnedAway;
use super::fitness::look;
use super::settlements::key_of;
use super::{Api, BODY_TIMEOUT};
use crate::Engine;
use crate::metrics::gwei_of;
use crate::post::Place;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("live.js");
/// Payments on the first page.
const NEWEST: usize = 50;
/// Records on a payment's page.
const HISTORY_MAX: usize = 500;
/// Largest form, in bytes.
const FORM_BYTES_MAX: usize = 4_096;
/// How long the journal may take for a page.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn dashboard(State(api): State<Api>, headers: HeaderMap) -> Response {
    let engine = match admit(&api, &headers) {
        Ok(engine) => engine,
        Err(answer) => return *answer,
    };
    match overview(&api, engine).await {
        Ok(overview) => live("Dashboard", &page::overview(&overview)),
        Err(error) => unavailable(&error),
    }
}

pub(super) async fn payment(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let engine = match admit(&api, &headers) {
        Ok(engine) => engine,
        Err(answer) => return *answer,
    };
    let Ok(Path(id)) = id else { return nothing() };
    let key = key_of(&id);
    match in_time(engine.entry(&key)).await.flatten() {
        Ok(Some(entry)) => {
            let span = Span { after: 0, upto: u64::MAX, limit: HISTORY_MAX };
            match in_time(engine.history_of(&key, span)).await.flatten() {
                Ok(history) => {
                    let is_whole = history.len() < HISTORY_MAX;
                    live("Payment", &page::payment(&entry, &history, is_whole))
                }
                Err(error) => unavailable(&error),
            }
        }
        Ok(None) => nothing(),
        Err(error) => unavailable(&error),
    }
}

/// Takes a key and begins a session, for operators.
pub(super) async fn sign_in(State(api): State<Api>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if !is_same_origin(&parts.headers) {
        let text = "This form is for the dashboard's own page.";
        return still(StatusCode::FORBIDDEN, "Not from here", &page::notice("Not from here", text));
    }
    let body = Limited::new(body, FORM_BYTES_MAX).collect();
    let form = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(form)) => form.to_bytes(),
        Ok(Err(_)) | Err(_) => return refused_key(),
    };
    let key = std::str::from_utf8(&form).ok().and_then(|form| form.trim().strip_prefix("key="));
    match key.and_then(|key| api.reader_with(key)) {
        Some(Reader::Operator) => {
            let Some(cookie) = api.0.sessions.begin(Reader::Operator, &parts.headers) else {
                return refused_key();
            };
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = StatusCode::SEE_OTHER;
            let headers = answer.headers_mut();
            headers.insert(LOCATION, HeaderValue::from_static("/dashboard"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert(SET_COOKIE, cookie);
            answer
        }
        Some(Reader::Caller(_) | Reader::Nameless) => not_an_operator(),
        None => refused_key(),
    }
}

/// The engine, when an operator asks and it has started.
fn admit<'a>(api: &'a Api, headers: &HeaderMap) -> Result<&'a Engine, Box<Response>> {
    match api.reader(headers) {
        Ok(Reader::Operator) => {}
        Ok(Reader::Caller(_) | Reader::Nameless) => return Err(Box::new(not_an_operator())),
        Err(TurnedAway::Unauthorized) => {
            let login = page::login(None);
            return Err(Box::new(still(StatusCode::UNAUTHORIZED, "Sign in", &login)));
        }
        Err(why) => return Err(Box::new(api.turn_away(why))),
    }
    api.started().map_err(|why| Box::new(api.turn_away(why)))
}

/// Whether a form was sent by a page of ours, as far as the browser says.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let authority = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let authority = authority.and_then(|uri| uri.authority().map(ToString::to_string));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    authority.is_some() && authority.as_deref() == host
}

async fn in_time<T>(asked: impl Future<Output = T>) -> Result<T, Unavailable> {
    let late = |_| Unavailable::new("journal", "no answer in time");
    tokio::time::timeout(PATIENCE, asked).await.map_err(late)
}

async fn overview(api: &Api, engine: &Engine) -> Result<Overview, Unavailable> {
    let look = look(api, engine).await;
    let newest = in_time(engine.newest(NEWEST)).await??;
    let health = engine.health();
    let (mut states, mut lanes, mut budgets) = (Vec::new(), Vec::new(), Vec::new());
    let mut refusals: BTreeMap<&'static str, [u64; 3]> = BTreeMap::new();
    let (mut oldest, mut unfinished) = (None, Some(0_u64));
    for post in engine.posts() {
        let desk = &*post.idle;
        let backlog = look.backlogs.iter().find(|(network, _)| *network == desk.id);
        let backlog = backlog.and_then(|(_, backlog)| backlog.as_ref().ok());
        let of = |stage: fn(&Backlog) -> u64| backlog.map(stage);
        let network = desk.id.as_str().to_owned();
        let failed = desk.metrics.failed.read().map(|(_, count)| count).sum();
        states.push(States {
            network: network.clone(),
            status: health.iter().find(|one| one.network == desk.id).map_or("", |one| one.status),
            leader: match post.place() {
                Place::Here(_) => "this process".to_owned(),
                Place::There(holder) => holder.url.unwrap_or(holder.name),
                Place::Nowhere => "nobody".to_owned(),
            },
            due: of(|backlog| backlog.due),
            signed: of(|backlog| backlog.signed),
            sent: of(|backlog| backlog.sent),
            settled: desk.metrics.settled.read(),
            failed,
            gas_gwei: desk.metrics.gas.gwei(),
        });
        unfinished = unfinished.zip(backlog).map(|(all, of)| all + of.due + of.signed + of.sent);
        if let Some(entered) = backlog.and_then(|backlog| backlog.oldest) {
            let age = desk.clock.now().0.saturating_sub(entered.0);
            oldest = oldest.max(Some(age));
        }
        lanes.extend(desk.lanes.iter().map(|lane| {
            Lane {
                network: network.clone(),
                signer: lane.signer.clone(),
                wei: lane.wei(),
                in_flight: backlog
                    .and_then(|backlog| backlog.by_signer.get(&lane.signer).copied())
                    .unwrap_or_default(),
                rejections: lane.rejections(),
                is_low: lane.is_low(),
            }
        }));
        if let Some(desk) = post.crew().map(|crew| crew.desk) {
            let accounts = desk.budgets.accounts(desk.clock.now()).into_iter();
            budgets.extend(accounts.map(|account| Budget {
                network: network.clone(),
                caller: account.caller,
                spent_gwei: gwei_of(account.booked),
                max_gwei: gwei_of(account.bound),
            }));
        }
        for (_, calls) in desk.metrics.by_scheme() {
            let verified = calls.verifications.invalid.read().map(|(code, count)| (0, code, count));
            let settled = calls.settlements.refused.read().map(|(code, count)| (1, code, count));
            for (place, code, count) in verified.chain(settled) {
                refusals.entry(code).or_default()[place] += count;
            }
        }
        for (code, count) in desk.metrics.failed.read() {
            refusals.entry(code).or_default()[2] += count;
        }
    }
    let tiles = tiles(&states, unfinished, oldest);
    let refusals = refusals.into_iter().map(|(code, [verified, settled, failed])| Refusals {
        code,
        verified,
        settled,
        failed,
    });
    let mut refusals: Vec<_> = refusals.collect();
    refusals.sort_by_key(|of| std::cmp::Reverse(of.verified + of.settled + of.failed));
    Ok(Overview { tiles, states, lanes, budgets, refusals, newest })
}

fn tiles(states: &[States], unfinished: Option<u64>, oldest: Option<u64>) -> Vec<Tile> {
    let sum = |of: fn(&States) -> u64| states.iter().map(of).sum::<u64>();
    let (settled, failed) = (sum(|of| of.settled), sum(|of| of.failed));
    let closed = settled + failed;
    let per_payment = sum(|of| of.gas_gwei).checked_div(closed);
    let tile = |name, value, more| Tile { name, value, more };
    vec![
        tile(
            "Unfinished",
            unfinished.map_or_else(|| "unknown".into(), |count| count.to_string()),
            "",
        ),
        tile("Oldest of them", oldest.map_or_else(|| "none".into(), page::age), ""),
        tile("Settled", settled.to_string(), "since start"),
        tile("Failed", failed.to_string(), "since start"),
        tile(
            "Gas per payment",
            per_payment.map_or_else(|| "none".into(), |gwei| gwei.to_string()),
            if per_payment.is_some() { "gwei" } else { "" },
        ),
    ]
}

fn nothing() -> Response {
    let text = "Nothing was entered by this id.";
    still(StatusCode::NOT_FOUND, "Not found", &page::notice("Not found", text))
}

fn not_an_operator() -> Response {
    let text = "The dashboard is for callers whose role is operator in the configuration.";
    still(StatusCode::FORBIDDEN, "Not for this key", &page::notice("Not for this key", text))
}

fn refused_key() -> Response {
    let login = page::login(Some("This key is not known."));
    still(StatusCode::UNAUTHORIZED, "Sign in", &login)
}

fn unavailable(error: &Unavailable) -> Response {
    tracing::warn!(%error, "the dashboard cannot be shown");
    let text = "The journal does not answer. Reload in a moment.";
    let notice = page::notice("Unavailable", text);
    still(StatusCode::SERVICE_UNAVAILABLE, "Unavailable", &notice)
}

fn live(title: &str, main: &Html) -> Response {
    answer(StatusCode::OK, &page::page(title, STYLE, Some(SCRIPT), main))
}

fn still(status: StatusCode, title: &str, main: &Html) -> Response {
    answer(status, &page::page(title, STYLE, None, main))
}

fn answer(status: StatusCode, page: &Html) -> Response {
    let mut answer = Response::new(Body::from(page.to_string()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let fixed = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(CONTENT_SECURITY_POLICY, policy().clone());
    answer
}

/// What a page may run, load and do: our style and our script, by their hashes, and asking us.
fn policy() -> &'static HeaderValue {
    static POLICY: OnceLock<HeaderValue> = OnceLock::new();
    POLICY.get_or_init(|| {
        let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            hash(STYLE),
            hash(SCRIPT)
        );
        HeaderValue::try_from(policy).expect("it is made of visible characters")
    })
}
