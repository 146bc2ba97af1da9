//! Watches what the signers have to pay gas with.
//!
//! **Invariant:** nothing new is accepted once every signer is below its floor; what was accepted before
//! is still settled, out of what the floor is for.

use std::sync::Arc;

use pay402_core::error::Unavailable;

use crate::desk::Desk;

/// Looks from time to time, and marks the lanes of signers that have too little. A node that does not
/// answer changes nothing.
pub(crate) async fn watch(desk: Arc<Desk>) {
    loop {
        tokio::time::sleep(desk.options.funds_every).await;
        if let Err(error) = look(&desk).await {
            tracing::warn!(network = %desk.id, %error, "the signers' funds are unknown");
        }
    }
}

/// Looks once.
///
/// # Errors
/// When the node does not answer.
pub(crate) async fn look(desk: &Desk) -> Result<(), Unavailable> {
    for funds in desk.in_time(desk.network.funds()).await?? {
        let Some(lane) = desk.lane_of(&funds.signer) else { continue };
        let (signer, wei, floor) = (&funds.signer, &funds.wei, &funds.floor);
        lane.has(*wei);
        match (lane.mark(funds.are_low()), funds.are_low()) {
            (false, true) => {
                tracing::error!(network = %desk.id, signer, %wei, %floor, "too little for gas; \
                    send the signer some of the network's own coin");
            }
            (true, false) => {
                tracing::info!(network = %desk.id, signer, %wei, "enough for gas again")
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses new work when every signer has too little.
///
/// # Errors
/// When that is so.
pub(crate) fn check(desk: &Desk) -> Result<(), Unavailable> {
    if desk.lanes.iter().all(|lane| lane.is_low()) {
        let problem = "every signer has too little of the network's own coin to pay gas with";
        return Err(Unavailable::new(format!("settling on {}", desk.id), problem));
    }
    Ok(())
}
