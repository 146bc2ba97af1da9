//! A receiver of webhooks, which counts the events that it was sent.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::time::Instant;

use crate::Result;
use crate::replicas::HOOK_SECRET;

/// Longest until all events have come after the last payment is settled.
const COMING_MAX: Duration = Duration::from_secs(20);

/// The ids of settlements that were told.
type Heard = Arc<Mutex<HashSet<String>>>;

/// See the module.
pub(super) struct Receiver {
    url: String,
    heard: Heard,
    task: tokio::task::JoinHandle<()>,
}

impl Receiver {
    pub(super) async fn start() -> Result<Self> {
        let heard = Heard::default();
        let router = Router::new().route("/", post(take)).with_state(Arc::clone(&heard));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/", listener.local_addr()?);
        let task = tokio::spawn(async move {
            _ = axum::serve(listener, router).await;
        });
        Ok(Self { url, heard, task })
    }

    /// The lines of a configuration that has events sent here.
    pub(super) fn lines(&self) -> String {
        let url = &self.url;
        format!(
            "dangerous_private_webhooks = true\n\
             webhook = {{ url = \"{url}\", secret_env = \"{HOOK_SECRET}\" }}\n"
        )
    }

    /// Waits until so many settlements have been told. Gives how many were.
    pub(super) async fn all_of(&self, settled: u64) -> Result<u64> {
        let begun = Instant::now();
        loop {
            let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).len();
            let heard = u64::try_from(heard)?;
            if heard >= settled {
                return Ok(heard);
            }
            if begun.elapsed() > COMING_MAX {
                return Err(format!("{settled} settled, and events of {heard} came").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(State(heard): State<Heard>, _: HeaderMap, body: String) -> StatusCode {
    let Ok(event) = serde_json::from_str::<Value>(&body) else { return StatusCode::BAD_REQUEST };
    if event["type"] == "settlement.settled"
        && let Some(id) = event["data"]["settlement"].as_str()
    {
        heard.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
    }
    StatusCode::NO_CONTENT
}
