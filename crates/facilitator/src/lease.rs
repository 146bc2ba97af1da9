//! The lease: one process at a time settles on a network.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pay402_core::error::Misconfigured;
use pay402_core::journal::{Holder, JournalError, Lease, Leased};

use crate::desk::Desk;
use crate::failpoint::Failpoint;
use crate::run::Run;

/// How often a lease that another process holds is asked for.
pub(crate) const ASK_AGAIN: Duration = Duration::from_millis(250);
/// Renewals that may fail before the lease would run out.
const RENEWALS_PER_LEASE: u32 = 3;

/// Takes the lease of the desk's network, waiting for a predecessor's to run out once.
///
/// # Errors
/// When another process keeps it, or the journal cannot be used.
pub(crate) async fn acquire(desk: &Desk, holder: &Holder) -> Result<Lease, Misconfigured> {
    let patience = desk.options.lease + Duration::from_secs(2);
    let asking = async {
        loop {
            let asked = ask(desk, holder).await;
            let asked = asked.map_err(|error| Misconfigured::new("journal", error.to_string()))?;
            if let Leased::Granted(lease) = asked {
                return Ok(lease);
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    tokio::time::timeout(patience, asking).await.unwrap_or_else(|_| {
        let problem = format!(
            "another running process settles on {} with this journal; stop it, or give this one \
             a journal and signers of its own",
            desk.id
        );
        Err(Misconfigured::new("journal", problem))
    })
}

/// Asks once.
///
/// # Errors
/// When the journal does not answer.
pub(crate) async fn ask(desk: &Desk, holder: &Holder) -> Result<Leased, JournalError> {
    desk.journal.lease(&desk.id, holder, desk.clock.now(), desk.options.lease).await
}

/// Renews the lease until it is lost. A journal that does not answer is no loss: what is written
/// is checked against the lease anyway.
pub(crate) async fn keep(desk: Arc<Desk>, holder: Holder, lease: Lease) {
    let every = desk.options.lease / RENEWALS_PER_LEASE;
    loop {
        tokio::time::sleep(every).await;
        let answer = ask(&desk, &holder).await;
        desk.options.failpoints.pass(Failpoint::AfterRenewalBeforeHeard).await;
        desk.journal_down.store(answer.is_err(), Ordering::Relaxed);
        match answer {
            Ok(Leased::Granted(renewed)) if renewed == lease => {}
            Ok(_) => {
                tracing::error!(network = %desk.id, "lease lost; settling stops");
                desk.turn(Run::LeaseLost);
                return;
            }
            Err(error) => tracing::warn!(network = %desk.id, %error, "lease not renewed"),
        }
    }
}

/// Lets the lease run out now, for a successor.
pub(crate) async fn release(desk: &Desk, lease: &Lease) {
    if let Err(error) = desk.journal.release(lease).await {
        tracing::warn!(network = %desk.id, %error, "lease not released; it runs out by itself");
    }
}
