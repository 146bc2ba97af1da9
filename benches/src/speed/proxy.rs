//! A node's front that counts what it is asked, and may let every answer wait.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::Result;

/// What was asked so far.
#[derive(Debug, Default)]
struct Asked {
    requests: AtomicU64,
    calls: AtomicU64,
    delay_us: AtomicU64,
}

#[derive(Clone)]
struct Front {
    node: String,
    http: reqwest::Client,
    asked: Arc<Asked>,
}

/// The running proxy.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    asked: Arc<Asked>,
}

impl Proxy {
    /// Stands before `node`.
    pub(super) async fn start(node: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let asked = Arc::new(Asked::default());
        let front = Front {
            node: format!("http://{node}"),
            http: reqwest::Client::new(),
            asked: Arc::clone(&asked),
        };
        let app = Router::new().route("/", post(pass)).with_state(front);
        tokio::spawn(async move {
            // Ends with the runtime.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, asked })
    }

    /// Requests over HTTP and JSON-RPC calls in them, so far.
    pub(super) fn asked(&self) -> (u64, u64) {
        let Asked { requests, calls, .. } = &*self.asked;
        (requests.load(Ordering::Relaxed), calls.load(Ordering::Relaxed))
    }

    /// Lets every answer wait so long from now on.
    pub(super) fn delay(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.asked.delay_us.store(delay, Ordering::Relaxed);
    }
}

async fn pass(State(front): State<Front>, body: Bytes) -> axum::response::Response {
    let calls = match serde_json::from_slice::<Value>(&body) {
        Ok(Value::Array(calls)) => u64::try_from(calls.len()).unwrap_or(u64::MAX),
        _ => 1,
    };
    front.asked.requests.fetch_add(1, Ordering::Relaxed);
    front.asked.calls.fetch_add(calls, Ordering::Relaxed);
    let delay = front.asked.delay_us.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_micros(delay)).await;
    }
    let asked = front.http.post(&front.node).header(CONTENT_TYPE, "application/json").body(body);
    let answer = async { asked.send().await?.bytes().await };
    match answer.await {
        Ok(bytes) => ([(CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}
