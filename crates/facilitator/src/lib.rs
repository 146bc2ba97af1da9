//! The facilitator: verifies payments and settles them, without ever holding the money.
//!
//! [`Engine`] is the settlement engine over the ports of `pay402-core`: a [`Journal`] that
//! remembers, a [`Network`] per chain that knows how to check, sign and send. [`api`] is the same
//! engine over HTTP. What lives elsewhere: cryptography and chain calls (the network families),
//! SQL (the store), configuration files and keys (the command line).
//!
//! **Invariants**, each kept in one place:
//! - nothing is sent before its bytes are in the journal (`worker`);
//! - the journal has one writer per network, the holder of its lease (`scribe`);
//! - whoever gets a lease sits down at a fresh desk, and who lost one follows (`post`);
//! - at most one caller is told of a success (`settle`, `waiters`);
//! - an entry whose transaction was signed is closed only when its signer's nonce is consumed, so
//!   a signer's lane never has a gap that nobody holds the bytes for (`follow`);
//! - what is sent beside payments has an entry of its own and takes the same road (`errand`);
//! - what a block closed is watched until that block is buried, and opened again when it is undone
//!   (`watch`);
//! - a claim is forgotten only when the chain refuses its payment for good (`forget`);
//! - a journal that was restored from a copy is noticed: no nonce that was used since is used again, and no
//!   success that may have been told since is told again (`restored`);
//! - what the journal stores is sealed (`seal`);
//! - nothing new is accepted while every signer has too little to pay gas with (`funds`), or while the
//!   chain stands still (`pulse`);
//! - a payer's money is promised once, however many payments of it are verified (`exposure`);
//! - a payer whose settlements keep failing at our cost is refused for a while (`strikes`);
//! - what failures cost is bounded by the hour, of a payer, of a caller and of a network (`losses`);
//! - what settling costs in gas is bounded by the hour, of callers that have a budget (`budgets`);
//! - a signer has so many transactions waiting to be mined, and no more (`berths`).
//!
//! [`Journal`]: pay402_core::journal::Journal
//! [`Network`]: pay402_core::network::Network

pub mod api;
mod berths;
mod budgets;
mod desk;
mod engine;
mod errand;
mod exposure;
pub mod failpoint;
mod feed;
mod follow;
mod forget;
mod funds;
mod gaps;
mod heads;
mod lane;
mod lease;
mod losses;
mod metrics;
pub mod options;
mod post;
mod pulse;
mod recover;
mod replace;
mod restored;
mod review;
mod run;
mod scribe;
mod seal;
mod settle;
mod standing;
mod strikes;
mod trace;
mod waiters;
mod watch;
pub mod webhooks;
mod window;
mod worker;

pub use engine::{Engine, NetworkHealth};
pub use metrics::{NodeStanding, RpcCounts, RpcOutcome, SpanCounts};
pub use options::{LossBounds, Options};
pub use standing::Standing;
pub use trace::TARGET as TRACE_TARGET;
