//! One signer and its nonces, as the worker hands them out.

use std::collections::VecDeque;

use pay402_core::error::Unavailable;
use tokio::time::Instant;

use crate::desk::{Desk, LaneHealth};
use crate::gaps;

/// One signer and its nonces.
pub(crate) struct Lane {
    pub(crate) index: usize,
    /// The next nonce; `None` while it has to be asked for.
    pub(crate) next: Option<u64>,
    /// Nonces below `next` that were handed out and taken back unused, ascending.
    spare: VecDeque<u64>,
    rest_until: Option<Instant>,
    /// How many refusals in a row were accounted for in `rest_until`.
    seen: u32,
}

impl Lane {
    /// The lane of the signer with this number, whose nonces are not known yet.
    pub(crate) const fn new(index: usize) -> Self {
        Self { index, next: None, spare: VecDeque::new(), rest_until: None, seen: 0 }
    }

    /// Knows no nonce any more: the next is learnt from chain and journal.
    pub(crate) fn forget(&mut self) {
        self.next = None;
        self.spare.clear();
    }

    /// The next nonce, missing ones first.
    pub(crate) fn hand_out(&mut self) -> Option<u64> {
        if let Some(spare) = self.spare.pop_front() {
            return Some(spare);
        }
        let nonce = self.next?;
        self.next = nonce.checked_add(1);
        Some(nonce)
    }

    /// Takes back nonces that nothing was recorded for: the last ones that were handed out.
    pub(crate) fn take_back(&mut self, nonces: &[u64]) {
        // Forgotten meanwhile: the next is learnt from chain and journal.
        if self.next.is_none() {
            return;
        }
        for nonce in nonces.iter().rev() {
            if self.next == nonce.checked_add(1) {
                self.next = Some(*nonce);
            } else {
                self.spare.push_front(*nonce);
            }
        }
    }

    /// Whether the signer rests after refusals (it may be out of gas).
    pub(crate) fn rests(&mut self, desk: &Desk) -> bool {
        let rejections = desk.lanes[self.index].rejections();
        let now = Instant::now();
        if rejections == 0 {
            self.rest_until = None;
        } else if rejections != self.seen {
            self.rest_until = Some(now + LaneHealth::rest(rejections));
        }
        self.seen = rejections;
        self.rest_until.is_some_and(|until| now < until)
    }

    /// Learns where to go on: behind everything that the chain consumed and the journal recorded.
    ///
    /// When the chain is behind the journal and nobody holds the bytes in between, nothing is given out:
    /// it would wait in vain until they come back or are cancelled (see [`gaps`]).
    pub(crate) async fn learn_nonces(&mut self, desk: &Desk) -> Result<(), Unavailable> {
        let signer = &desk.lanes[self.index].signer;
        let standing = gaps::standing(desk, signer).await?;
        if let Some(first) = standing.missing.first() {
            let count = standing.missing.len();
            tracing::warn!(network = %desk.id, signer, first, count, "nonce gap");
            let problem = "the chain misses settled transactions of this signer";
            return Err(Unavailable::new("signer", problem));
        }
        self.next = Some(standing.next.max(desk.lanes[self.index].begins()));
        Ok(())
    }
}
