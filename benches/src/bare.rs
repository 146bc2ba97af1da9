//! What subjects are held against: the least that axum can be asked to do.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::Result;

/// What is sold, and what the bare route gives away.
pub(crate) async fn data() -> axum::Json<Value> {
    axum::Json(json!({"station": "harbour", "temperature": 14}))
}

/// Serves `/data` for nothing and `/echo`, which reads JSON and writes it back.
///
/// # Errors
/// When no port can be had.
pub(crate) async fn serve() -> Result<SocketAddr> {
    let echo = async |axum::Json(value): axum::Json<Value>| axum::Json(value);
    start(Router::new().route("/data", get(data)).route("/echo", post(echo))).await
}

/// Serves `app` on a free port of the loopback interface, as long as the runtime lives.
///
/// # Errors
/// When no port can be had.
pub(crate) async fn start(app: Router) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        // Ends with the runtime; what it answered is checked by the caller.
        let _ = axum::serve(listener, app).await;
    });
    Ok(address)
}
