//! Whether the process lives, and whether it is fit to be sent payments.
//!
//! Anybody may ask, so both cost next to nothing: the journal is looked at once a second at most,
//! however many ask.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pay402_core::NetworkId;
use pay402_core::error::Unavailable;
use pay402_core::journal::Backlog;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Api;
use super::answer::{json_answer, retry_later};
use crate::{Engine, funds};

/// How old what is told of the journal may be.
const FRESH: Duration = Duration::from_secs(1);
/// How long the journal may take to answer before it counts as down. Below what probes wait.
const PATIENCE: Duration = Duration::from_millis(800);

/// One look at the journal.
#[derive(Clone)]
pub(super) struct Look {
    at: Instant,
    pub(super) backlogs: Vec<(NetworkId, Result<Backlog, Unavailable>)>,
}

/// The newest look at the journal. Those who ask meanwhile wait for the same one.
pub(super) async fn look(api: &Api, engine: &Engine) -> Look {
    // Held across the look, which is bounded in time.
    let mut last = api.0.look.lock().await;
    if let Some(look) = last.as_ref().filter(|look| look.at.elapsed() < FRESH) {
        return look.clone();
    }
    let posts = engine.posts();
    let networks = posts.iter().map(|post| &post.idle.id);
    let asked = networks.map(|id| async { (id.clone(), engine.backlog(id, PATIENCE).await) });
    let backlogs = futures_util::future::join_all(asked).await;
    let look = Look { at: Instant::now(), backlogs };
    *last = Some(look.clone());
    look
}

pub(super) async fn livez() -> Response {
    json_answer(StatusCode::OK, &json!({"status": "alive"}))
}

pub(super) async fn readyz(State(api): State<Api>) -> Response {
    let problems = problems(&api).await;
    if problems.is_empty() {
        json_answer(StatusCode::OK, &json!({"status": "ready"}))
    } else {
        retry_later(&json!({"status": "not_ready", "problems": problems}))
    }
}

/// Everything that keeps this process from being ready.
async fn problems(api: &Api) -> Vec<Value> {
    let Some(engine) = api.engine() else {
        let message = "the networks are being checked and their leases taken";
        return vec![json!({"part": "start", "message": message})];
    };
    if api.0.retired.load(Ordering::Relaxed) {
        return vec![json!({"part": "process", "message": "it is stopping"})];
    }
    let mut problems = Vec::new();
    for (network, backlog) in look(api, engine).await.backlogs {
        if backlog.is_err() {
            let message = "the journal does not answer";
            problems
                .push(json!({"network": network.as_str(), "part": "journal", "message": message}));
        }
    }
    for health in engine.health() {
        let network = health.network.as_str();
        let told = problems.iter().any(|problem: &Value| problem["network"] == network);
        let (part, message) = match health.status {
            "ok" | "following" => continue,
            "journal_down" if told => continue,
            "journal_down" => ("journal", "the lease cannot be renewed in the journal"),
            "lease_lost" => ("lease", "another process settles here now"),
            "leaderless" => (
                "lease",
                "no process is known that leads here and can be reached: one takes over soon, or the \
                 one that leads needs the setting advertise",
            ),
            _ => ("process", "it is stopping"),
        };
        problems.push(json!({"network": network, "part": part, "message": message}));
    }
    for crew in engine.posts().iter().filter_map(|post| post.crew()) {
        if let Err(error) = funds::check(&crew.desk) {
            let network = crew.desk.id.as_str();
            let message = error.problem;
            problems.push(json!({"network": network, "part": "funds", "message": message}));
        }
        if let Err(error) = crew.desk.check_breaker() {
            let network = crew.desk.id.as_str();
            let message = error.problem;
            problems.push(json!({"network": network, "part": "breaker", "message": message}));
        }
    }
    problems
}
