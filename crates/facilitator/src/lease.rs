//! The lease: one process at a time settles on a network.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pay402_core::error::Misconfigured;
use pay402_core::journal::Lease;

use crate::desk::{Desk, Run};

/// How often a lease that another process holds is asked for.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// Renewals that may fail before the lease would run out.
const RENEWALS_PER_LEASE: u32 = 3;

/// Takes the lease of the desk's network, waiting for a predecessor's to run out: once, or, as a
/// standby, as long as it takes.
///
/// # Errors
/// When another process keeps it, or the journal cannot be used.
pub(crate) async fn acquire(desk: &Desk) -> Result<Lease, Misconfigured> {
    if desk.options.standby {
        return asked_for(desk).await;
    }
    let patience = desk.options.lease + Duration::from_secs(2);
    tokio::time::timeout(patience, asked_for(desk)).await.unwrap_or_else(|_| {
        let problem = format!(
            "another running process settles on {} with this journal; stop it, or give this one \
             a journal and signers of its own",
            desk.id
        );
        Err(Misconfigured::new("journal", problem))
    })
}

async fn asked_for(desk: &Desk) -> Result<Lease, Misconfigured> {
    let mut waits = false;
    loop {
        match ask(desk).await {
            Ok(Some(lease)) => return Ok(lease),
            Ok(None) if !waits => {
                tracing::info!(network = %desk.id, "another process holds the lease; waiting");
                waits = true;
            }
            Ok(None) => {}
            // Who stands by through a night stands by through a restart of the journal's server.
            Err(problem) if waits && desk.options.standby => {
                tracing::warn!(network = %desk.id, problem, "the journal did not answer; waiting");
            }
            Err(problem) => return Err(Misconfigured::new("journal", problem)),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn ask(desk: &Desk) -> Result<Option<Lease>, String> {
    let now = desk.clock.now();
    let until = now.plus_s(desk.options.lease.as_secs());
    let lease = desk.journal.lease(&desk.id, &desk.options.holder, now, until).await;
    lease.map_err(|error| error.to_string())
}

/// Renews the lease until it is lost. A journal that does not answer is no loss: what is written
/// is checked against the lease anyway.
pub(crate) async fn keep(desk: Arc<Desk>, lease: Lease) {
    let every = desk.options.lease / RENEWALS_PER_LEASE;
    loop {
        tokio::time::sleep(every).await;
        let answer = ask(&desk).await;
        desk.journal_down.store(answer.is_err(), Ordering::Relaxed);
        match answer {
            Ok(Some(renewed)) if renewed == lease => {}
            Ok(_) => {
                tracing::error!(network = %desk.id, "lease lost; settling stops");
                desk.turn(Run::LeaseLost);
                return;
            }
            Err(problem) => tracing::warn!(network = %desk.id, problem, "lease not renewed"),
        }
    }
}

/// Lets the lease run out now, for a successor.
pub(crate) async fn release(desk: &Desk) {
    let now = desk.clock.now();
    if let Err(error) = desk.journal.lease(&desk.id, &desk.options.holder, now, now).await {
        tracing::warn!(network = %desk.id, %error, "lease not released; it runs out by itself");
    }
}
