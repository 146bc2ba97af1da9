//! `GET /events`: what happens to settlements, as it happens, by server-sent events.
//!
//! A caller is told of what it entered; whoever operates the facilitator, of everything. A stream is
//! taken up again after the last event that arrived (`Last-Event-ID`), without a gap. **Nothing in an
//! event could be spent**, and an event is no answer to whoever presents a payment.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use pay402_core::error::Malformed;
use pay402_core::history::{Change, Record};
use pay402_core::journal::Delivery;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::Api;
use super::access::Reader;
use super::answer::{TurnedAway, retry_later};
use super::settlements::id_of;
use crate::feed::{Follower, NotFollowing, Scope};

/// Streams at a time.
const STREAMS_MAX: usize = 64;
/// Streams of one caller at a time.
const STREAMS_PER_CALLER_MAX: usize = 8;
/// How often a stream in which nothing happens shows that it is there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a reader may take nothing before its stream is cut off.
const STALL_MAX: Duration = Duration::from_secs(10);
/// How long a stream that ends may take to tell the rest.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);
/// Events that wait for a slow reader.
const WAITING_MAX: usize = 32;
/// What readers are told to wait before they come again, in milliseconds.
const AGAIN_MS: u64 = 2_000;
/// Pause before a journal that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// How many streams there are, of whom.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<HashMap<Option<String>, usize>>);

/// One stream's place; given back on drop.
struct Place {
    api: Api,
    of: Option<String>,
}

impl Streams {
    fn take(api: &Api, of: Option<String>) -> Result<Place, TurnedAway> {
        let mut streams = api.0.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = streams.get(&of).copied().unwrap_or_default();
        if here >= STREAMS_PER_CALLER_MAX || streams.values().sum::<usize>() >= STREAMS_MAX {
            return Err(TurnedAway::TooManyStreams);
        }
        streams.insert(of.clone(), here + 1);
        drop(streams);
        Ok(Place { api: api.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.api.0.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = streams.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                streams.remove(&self.of);
            }
        }
    }
}

pub(super) async fn events(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    match begin(&api, query.as_deref(), &headers).await {
        Ok(stream) => stream,
        Err(Refused::TurnedAway(why)) => api.turn_away(why),
        Err(Refused::NotFollowing(NotFollowing::Ahead(end))) => {
            let problem = format!("is above the newest event, {end}; begin anew without it");
            api.turn_away(Malformed::new("Last-Event-ID", problem).into())
        }
        Err(Refused::NotFollowing(NotFollowing::Forgotten(last))) => {
            api.turn_away(TurnedAway::Forgotten(last))
        }
        Err(Refused::NotFollowing(NotFollowing::Journal(error))) => {
            tracing::warn!(%error, "events cannot be followed");
            let message = "the journal is unavailable; ask again later";
            retry_later(&json!({"error": "unavailable", "message": message}))
        }
    }
}

enum Refused {
    TurnedAway(TurnedAway),
    NotFollowing(NotFollowing),
}

impl From<TurnedAway> for Refused {
    fn from(why: TurnedAway) -> Self {
        Self::TurnedAway(why)
    }
}

async fn begin(api: &Api, query: Option<&str>, headers: &HeaderMap) -> Result<Response, Refused> {
    let reader = api.reader(headers)?;
    let engine = api.started()?;
    let after = cursor(query, headers).map_err(TurnedAway::from)?;
    let (scope, of) = match &reader {
        Reader::Operator => (Scope::All, None),
        Reader::Caller(name) => (Scope::EnteredBy(name.clone()), Some(name.clone())),
        Reader::Nameless => return Err(TurnedAway::Nameless.into()),
    };
    let place = Streams::take(api, of)?;
    let follower = engine.feed().follow(scope, after).await.map_err(Refused::NotFollowing)?;
    let (out, waiting) = mpsc::channel(WAITING_MAX);
    tokio::spawn(stream(place, follower, reader, out));
    let body = futures_util::stream::unfold(waiting, |mut waiting| async move {
        waiting.recv().await.map(|bytes| (Ok::<Bytes, Infallible>(bytes), waiting))
    });
    let mut answer = Response::new(Body::from_stream(body));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that hold answers back would hold back all of it.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(answer)
}

/// The last event that the reader has: from the header, as browsers send it again, or the query.
fn cursor(query: Option<&str>, headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let number = |field: &str, text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number.map(Some).ok_or_else(|| Malformed::new(field, "must be the id of an event"))
    };
    if let Some(header) = headers.get("last-event-id") {
        return number("Last-Event-ID", header.to_str().unwrap_or_default());
    }
    let after = query.into_iter().flat_map(|query| query.split('&'));
    let after = after.filter_map(|pair| pair.strip_prefix("after=")).next();
    after.map_or(Ok(None), |text| number("after", text))
}

/// Tells events until the reader goes or is too slow, or the process stops.
async fn stream(place: Place, mut follower: Follower, reader: Reader, out: mpsc::Sender<Bytes>) {
    let mut closing = place.api.0.closing.subscribe();
    let mut chunk = Bytes::from(format!("retry: {AGAIN_MS}\n\n"));
    let mut heartbeat = Instant::now() + HEARTBEAT;
    loop {
        if !matches!(timeout(STALL_MAX, out.send(chunk)).await, Ok(Ok(()))) {
            return;
        }
        chunk = loop {
            let record = tokio::select! {
                biased;
                () = is_closing(&mut closing) => {
                    _ = timeout(LAST_WORDS_MAX, last_words(follower, &reader, out)).await;
                    return;
                }
                () = out.closed() => return,
                () = tokio::time::sleep_until(heartbeat) => {
                    heartbeat = Instant::now() + HEARTBEAT;
                    break Bytes::from_static(b":\n\n");
                }
                record = follower.next() => record,
            };
            match record {
                Ok(record) => {
                    if let Some(text) = told(&record, &reader) {
                        heartbeat = Instant::now() + HEARTBEAT;
                        break text;
                    }
                }
                // It comes again, and is told from where on.
                Err(NotFollowing::Forgotten(_)) => return,
                Err(error) => {
                    tracing::warn!(%error, "events are held up");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
    }
}

async fn is_closing(closing: &mut watch::Receiver<bool>) {
    _ = closing.wait_for(|closing| *closing).await;
}

/// Tells what happened until the process stopped.
async fn last_words(mut follower: Follower, reader: &Reader, out: mpsc::Sender<Bytes>) {
    if follower.finish().await.is_err() {
        return;
    }
    while let Ok(Some(record)) = follower.next_read().await {
        if let Some(text) = told(&record, reader)
            && out.send(text).await.is_err()
        {
            return;
        }
    }
}

/// An event as it is sent. `None` for what is no news to this reader.
fn told(record: &Record, reader: &Reader) -> Option<Bytes> {
    let event = event(record, reader)?;
    let (seq, name) = (record.seq, record.change.name());
    Some(Bytes::from(format!("id: {seq}\nevent: {name}\ndata: {event}\n\n")))
}

/// An event. Callers are told what happens to the money; who was told of it is the operator's.
pub(crate) fn event(record: &Record, reader: &Reader) -> Option<Value> {
    let operator = matches!(reader, Reader::Operator);
    if record.change == Change::HandedOver && !operator {
        return None;
    }
    let mut told = Map::new();
    told.insert("id".into(), record.seq.into());
    told.insert("event".into(), record.change.name().into());
    told.insert("at".into(), record.at.0.into());
    told.insert("settlement".into(), id_of(&record.key).into());
    told.insert("network".into(), record.network.as_str().into());
    told.insert("payer".into(), record.payer.clone().into());
    told.insert("amount".into(), record.amount.to_string().into());
    if let Some(transaction) = record.change.transaction() {
        told.insert("transaction".into(), transaction.into());
    }
    match &record.change {
        Change::Settled { block, .. } => _ = told.insert("block".into(), (*block).into()),
        Change::Failed { reason, .. } | Change::Reverted { reason, .. } => {
            _ = told.insert("reason".into(), reason.clone().into())
        }
        _ => {}
    }
    if operator {
        for_operators(record, &mut told);
    }
    Some(Value::Object(told))
}

fn for_operators(record: &Record, told: &mut Map<String, Value>) {
    told.insert("enteredBy".into(), record.entered_by.clone().into());
    let delivery = match record.delivery {
        Delivery::Waiting => "waiting",
        Delivery::Owed => "owed",
        Delivery::Delivered => "delivered",
    };
    told.insert("delivery".into(), delivery.into());
    match &record.change {
        Change::Signed(sent) | Change::Replaced(sent) => {
            told.insert("signer".into(), sent.signer.clone().into());
            told.insert("nonce".into(), sent.nonce.into());
        }
        Change::Settled { fee, .. } | Change::Failed { fee, .. } | Change::Reverted { fee, .. } => {
            told.insert("fee".into(), fee.to_string().into());
        }
        _ => {}
    }
}
