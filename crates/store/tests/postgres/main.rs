//! The journal in PostgreSQL, on real servers. Needs their programs: `cargo xtask setup` installs
//! them. The modules are called `postgres_…` so that these tests can be left out by that name.

#![cfg(all(feature = "postgres", unix))]
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(unreachable_pub)] // modules of one test program

#[allow(dead_code, reason = "other tests and benches use the rest")]
mod cluster;
mod postgres_database;
mod postgres_history;
mod postgres_processes;
mod postgres_server;
mod postgres_tls;
#[allow(dead_code, reason = "SQLite's tests use the rest")]
#[path = "../sqlite/samples.rs"]
mod samples;

mod postgres_conformance {
    use crate::cluster::Cluster;
    use pay402_store::PgJournal;

    /// A journal in a database of its own.
    fn fresh() -> PgJournal {
        let url = Cluster::shared().database().url();
        let opening = PgJournal::open(&url, None);
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(opening)).unwrap()
    }

    mod journal {
        pay402_core::journal_conformance!(super::fresh);
    }

    mod history {
        pay402_core::history_conformance!(super::fresh);
    }

    mod books {
        pay402_core::books_conformance!(super::fresh);
    }

    mod watch {
        pay402_core::watch_conformance!(super::fresh);
    }

    mod forget {
        pay402_core::forget_conformance!(super::fresh);
    }
}
