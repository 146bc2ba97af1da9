//! The x402 resource server: sells HTTP resources, paid after the handler and delivered after
//! settlement.
//!
//! - [`ResourceServer`] holds what all routes share and is checked at start.
//! - [`Route`] says what one route costs; [`ResourceServer::gate`] makes its [`Gate`].
//! - [`Gate`] decides: serve, refuse, or answer again. It knows no framework.
//! - A metered route is sold at a ceiling, of which its handler charges what was used: a [`Charge`].
//! - [`PaymentLayer`] puts a gate in front of any tower service or axum route.
//! - [`RemoteFacilitator`] settles through a facilitator behind HTTP; [`MemoryGrants`] keeps
//!   claims in memory. Both are ports of `pay402-core` and can be anything else.
//!
//! **Invariant:** content leaves only with a proven settlement, and one payment is granted to one
//! request. Whatever cannot be told refuses.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use axum::Router;
//! use axum::routing::get;
//! use pay402_core::scheme::ServerScheme;
//! use pay402_server::{MemoryGrants, RemoteFacilitator, ResourceServer, Route};
//!
//! # async fn serve(exact: Arc<dyn ServerScheme>) -> Result<(), Box<dyn std::error::Error>> {
//! let facilitator = RemoteFacilitator::new("https://facilitator.example.com")?;
//! let server = ResourceServer::builder(Arc::new(facilitator), Arc::new(MemoryGrants::default()))
//!     .scheme(exact) // such as the `exact` scheme of pay402-evm
//!     .public_url("https://api.example.com")
//!     .start()
//!     .await?;
//!
//! let weather = Route::new("$0.01", "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC")
//!     .on("eip155:8453")
//!     .description("The weather of today")
//!     .mime_type("application/json");
//!
//! let app: Router = Router::new()
//!     .route("/weather", get(|| async { r#"{"sky":"clear"}"# }).layer(server.layer(weather)?))
//!     .route("/health", get(|| async { "ok" }));
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:4021").await?;
//! axum::serve(listener, app).await?;
//! # Ok(())
//! # }
//! ```

pub mod answer;
pub mod body;
pub mod charge;
pub mod disposal;
pub mod future;
pub mod gate;
pub mod layer;
pub mod memory;
pub mod place;
pub mod remote;
mod reply;
pub mod route;
pub mod seal;
pub mod server;
pub mod service;
pub mod settle;
pub mod ticket;

pub use answer::Answer;
pub use charge::Charge;
pub use disposal::Disposal;
pub use gate::{Admission, Gate};
pub use layer::PaymentLayer;
pub use memory::MemoryGrants;
pub use place::RequestMeta;
pub use remote::RemoteFacilitator;
pub use route::Route;
pub use server::ResourceServer;
pub use service::PaymentService;
pub use ticket::{PaidBy, Ticket};
