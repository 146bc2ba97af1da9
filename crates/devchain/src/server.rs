//! The chain on a port: JSON-RPC over HTTP (`POST /`) and WebSocket (`GET /`), with subscriptions on the latter.
//!
//! The invariant kept: bodies, messages and subscriptions of a connection are bounded, and a connection that cannot
//! keep up is closed.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use alloy::primitives::U64;
use alloy::rpc::types::Filter;
use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::chain::Event;
use crate::error::RpcError;
use crate::handle::Devchain;
use crate::rpc::filters::{Kind, event_logs};
use crate::rpc::params::{Params, Quantity};
use crate::rpc::{self, Answer, BODY_LIMIT, Request, convert, result};

/// Most subscriptions of one connection.
pub const SUBSCRIPTION_LIMIT: usize = 256;

/// A port being served. It closes when this is dropped, and every connection with it.
#[derive(Debug)]
pub struct Serving {
    local_addr: SocketAddr,
    /// Every connection holds the other end and finishes when this one is gone.
    open: watch::Sender<()>,
    task: JoinHandle<()>,
}

/// What every connection gets.
#[derive(Clone)]
struct Port {
    chain: Devchain,
    closing: watch::Receiver<()>,
}

impl Serving {
    /// Where the chain listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The address for HTTP clients.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.local_addr)
    }

    /// The address for WebSocket clients.
    pub fn ws_url(&self) -> String {
        format!("ws://{}", self.local_addr)
    }

    /// Stops listening, lets requests that run finish, and returns when the port is free.
    pub async fn shutdown(self) {
        drop(self.open);
        // It ends by itself; a panic in it would have been reported where it happened.
        let _ = self.task.await;
    }
}

impl Devchain {
    /// Serves JSON-RPC over HTTP and WebSocket on `addr`; port 0 picks one.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn serve(&self, addr: SocketAddr) -> io::Result<Serving> {
        let listener = TcpListener::bind(addr).await?;
        let local_addr = listener.local_addr()?;
        let (open, closing) = watch::channel(());
        let port = Port { chain: self.clone(), closing: closing.clone() };
        let app = Router::new()
            .route("/", post(http).get(websocket))
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .with_state(port);
        let task = tokio::spawn(async move {
            let served = axum::serve(listener, app).with_graceful_shutdown(closed(closing));
            if let Err(error) = served.await {
                tracing::error!(%error, "the chain's port failed");
            }
        });
        Ok(Serving { local_addr, open, task })
    }
}

async fn closed(mut closing: watch::Receiver<()>) {
    // Nothing is ever sent: the only change is the end of the sender.
    let _ = closing.changed().await;
}

async fn http(State(port): State<Port>, body: Bytes) -> Response {
    let body = String::from_utf8_lossy(&body);
    let answer = rpc::answer_body(&body, |request| {
        rpc::answer(&port.chain, &request.method, request.params)
    });
    ([(CONTENT_TYPE, "application/json")], answer.unwrap_or_default()).into_response()
}

async fn websocket(State(port): State<Port>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(BODY_LIMIT).on_upgrade(|socket| async move {
        let session = Session::new(port.chain);
        tokio::select! {
            () = session.run(socket) => {}
            () = closed(port.closing) => {}
        }
    })
}

/// One WebSocket connection.
struct Session {
    chain: Devchain,
    subscriptions: BTreeMap<u64, Kind>,
    last_id: u64,
    /// Next event to report.
    position: u64,
}

#[derive(Serialize)]
struct Notification {
    jsonrpc: &'static str,
    method: &'static str,
    params: Payload,
}

#[derive(Serialize)]
struct Payload {
    subscription: U64,
    result: Box<RawValue>,
}

impl Session {
    fn new(chain: Devchain) -> Self {
        let position = chain.lock().event_end();
        Self { chain, subscriptions: BTreeMap::new(), last_id: 0, position }
    }

    async fn run(mut self, mut socket: WebSocket) {
        let mut events = self.chain.events();
        loop {
            tokio::select! {
                message = socket.recv() => {
                    let Some(Ok(message)) = message else { return };
                    let text = match &message {
                        Message::Text(text) => text.as_str(),
                        Message::Binary(bytes) => match std::str::from_utf8(bytes) {
                            Ok(text) => text,
                            Err(_) => return,
                        },
                        Message::Close(_) => return,
                        Message::Ping(_) | Message::Pong(_) => continue,
                    };
                    let answer = rpc::answer_body(text, |request| self.answer(request));
                    if let Some(answer) = answer
                        && socket.send(Message::text(answer)).await.is_err()
                    {
                        return;
                    }
                }
                changed = events.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
            // After an answer too: a transaction sent on this connection may have made a block.
            let Some(notifications) = self.notifications() else {
                tracing::debug!("closing a subscriber that fell behind");
                return;
            };
            for notification in notifications {
                if socket.send(Message::text(notification)).await.is_err() {
                    return;
                }
            }
        }
    }

    fn answer(&mut self, request: &Request<'_>) -> Answer {
        match request.method.as_str() {
            "eth_subscribe" => self.subscribe(&Params::parse(request.params)?),
            "eth_unsubscribe" => {
                let Quantity(id) = Params::parse(request.params)?.required(0, "subscription")?;
                let known = u64::try_from(id).ok().and_then(|id| self.subscriptions.remove(&id));
                result(known.is_some())
            }
            method => rpc::answer(&self.chain, method, request.params),
        }
    }

    fn subscribe(&mut self, params: &Params<'_>) -> Answer {
        if self.subscriptions.len() >= SUBSCRIPTION_LIMIT {
            return Err(RpcError::limit("too many subscriptions on this connection"));
        }
        let kind = match params.required::<String>(0, "kind")?.as_str() {
            "newHeads" => Kind::Blocks,
            "newPendingTransactions" => Kind::Transactions,
            "logs" => {
                let filter: Option<Filter> = params.optional(1, "filter")?;
                Kind::Logs(Box::new(filter.unwrap_or_default()))
            }
            other => {
                return Err(RpcError::params(format!(
                    "no \"{other}\" subscription in eth namespace"
                )));
            }
        };
        if self.subscriptions.is_empty() {
            self.position = self.chain.lock().event_end();
        }
        self.last_id += 1;
        self.subscriptions.insert(self.last_id, kind);
        result(U64::from(self.last_id))
    }

    /// What happened since the last time, for every subscription; nothing if that is no longer known.
    fn notifications(&mut self) -> Option<Vec<String>> {
        if self.subscriptions.is_empty() {
            return Some(Vec::new());
        }
        let (events, end) = {
            let chain = self.chain.lock();
            (chain.events_since(self.position)?, chain.event_end())
        };
        self.position = end;
        let mut out = Vec::new();
        for event in &events {
            for (id, kind) in &self.subscriptions {
                out.extend(reports(event, kind).into_iter().flatten().filter_map(|result| {
                    let params = Payload { subscription: U64::from(*id), result };
                    let method = "eth_subscription";
                    serde_json::to_string(&Notification { jsonrpc: "2.0", method, params }).ok()
                }));
            }
        }
        Some(out)
    }
}

/// What `event` is to a subscription of `kind`.
fn reports(event: &Event, kind: &Kind) -> serde_json::Result<Vec<Box<RawValue>>> {
    match (kind, event) {
        (Kind::Blocks, Event::Added(block)) => Ok(vec![to_raw_value(&convert::header(block))?]),
        (Kind::Transactions, Event::Pending(hash)) => Ok(vec![to_raw_value(hash)?]),
        (Kind::Logs(filter), event) => event_logs(event, filter).iter().map(to_raw_value).collect(),
        _ => Ok(Vec::new()),
    }
}
