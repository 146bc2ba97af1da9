//! SQLite behind the storage ports of pay402-core: [`SqliteJournal`], [`SqliteGrants`] and
//! [`SqliteLedger`]; with the feature `postgres` the journal in PostgreSQL too, as `PgJournal`, whose
//! module says what differs. All SQL of the project is here; what the rules of a port are stands in
//! the port's module, and its conformance suite runs here. Of the stores in SQLite:
//!
//! - One file per store, each marked with the kind of store it is, opened by any number of
//!   processes of one machine. The directory must be on a local disk.
//! - **Durable before visible:** an answer leaves only after the commit that holds its change
//!   returned, with `synchronous=FULL`. What is queued shares one commit.
//! - **Fail closed:** a commit that failed stops the store for good; everything is
//!   [`Unavailable`](pay402_core::error::Unavailable) from then on, until the process is started
//!   anew.
//! - A caller that goes away after its command was queued does not take the command back.

mod books;
mod column;
mod costs;
mod database;
mod entry;
mod forget;
mod grants;
mod history;
mod journal;
mod ledger;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "seed")]
mod seed;
mod writer;

pub use grants::{PRUNE_ROWS_MAX, SqliteGrants};
pub use journal::SqliteJournal;
pub use ledger::SqliteLedger;
#[cfg(feature = "postgres")]
pub use postgres::{PgJournal, SKEW_S_MAX};
#[cfg(feature = "seed")]
pub use seed::{Seed, seed};
pub use writer::{BATCH_COMMANDS_MAX, QUEUE_COMMANDS_MAX};
