//! What became of transactions, looked up together: while many are on their way, their receipts come in
//! one batch, and a transaction is looked up again only when there is a new block.
//!
//! **Invariant:** within a batch the signers' counts are asked before the receipts, so that a transaction
//! that raised a count has its receipt in the same batch. A look is told only what was asked after it
//! began.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, U64};
use pay402_core::error::Unavailable;

use super::together::{Batch, Together};
use crate::rpc::{Answer, Block, Call, Receipt, Rpc};

/// How long a transaction is not looked up again in the same block. A node may show a block before the
/// receipts in it.
const SAME_BLOCK: Duration = Duration::from_secs(1);
/// Questions in one request to the node; nodes take a hundred at least.
const CALLS_MAX: usize = 100;
/// Transactions that are remembered to have been looked up.
const REMEMBERED_MAX: usize = 16_384;

/// What a look showed.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) head: Block,
    /// How many transactions of the signer are mined; `None` where there was no new block to ask about.
    pub(super) count: Option<u64>,
    /// The receipt of the one that is mined.
    pub(super) receipt: Option<Receipt>,
}

/// The lookout of one network.
pub(crate) struct Lookout {
    together: Together<Looks>,
    /// In which block a transaction was not mined, and when that was seen.
    not_mined: Mutex<HashMap<B256, (B256, Instant)>>,
    rpc: Rpc,
}

struct Looks {
    rpc: Rpc,
}

enum Look {
    Head,
    Transactions { signer: Address, hashes: Vec<B256> },
}

impl Lookout {
    pub(super) fn new(rpc: Rpc) -> Self {
        let together = Together::new(Looks { rpc: rpc.clone() });
        Self { together, not_mined: Mutex::default(), rpc }
    }

    /// Looks up transactions of `signer`, of which one is mined at most. The newest comes first.
    ///
    /// # Errors
    /// When the node does not answer.
    pub(super) async fn look(
        &self,
        signer: Address,
        hashes: Vec<B256>,
    ) -> Result<Seen, Unavailable> {
        let newest = hashes.first().copied();
        let known = newest.and_then(|hash| self.lock().get(&hash).copied());
        if let Some((block, at)) = known
            && at.elapsed() < SAME_BLOCK
        {
            let seen = self.ask(Look::Head).await?;
            if seen.head.hash == block {
                return Ok(seen);
            }
        }
        let seen = self.ask(Look::Transactions { signer, hashes }).await?;
        if let Some(hash) = newest {
            self.remember(hash, &seen);
        }
        Ok(seen)
    }

    /// Has a transaction looked up again also in the same block: it was not mined, and another has its nonce.
    pub(super) fn forget(&self, newest: B256) {
        self.lock().remove(&newest);
    }

    fn remember(&self, hash: B256, seen: &Seen) {
        let mut not_mined = self.lock();
        if seen.receipt.is_some() {
            not_mined.remove(&hash);
            return;
        }
        if not_mined.len() >= REMEMBERED_MAX {
            not_mined.retain(|_, (_, at)| at.elapsed() < SAME_BLOCK);
        }
        if not_mined.len() < REMEMBERED_MAX {
            not_mined.insert(hash, (seen.head.hash, Instant::now()));
        }
    }

    async fn ask(&self, look: Look) -> Result<Seen, Unavailable> {
        let given_up = || Err(self.rpc.unavailable("too many looks are waiting"));
        self.together.ask(look).await.unwrap_or_else(given_up)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<B256, (B256, Instant)>> {
        self.not_mined.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch for Looks {
    type Question = Look;
    type Answer = Result<Seen, Unavailable>;

    const AT_A_TIME: usize = 2;
    const PACE: Duration = Duration::ZERO;
    const GATHERS: Duration = Duration::ZERO;
    const SIZE_MAX: usize = 64;
    const WAITING_MAX: usize = 16_384;

    async fn ask(&self, looks: Vec<Look>) -> Vec<Self::Answer> {
        match self.ask_for(&looks).await {
            Ok(seen) => seen,
            Err(error) => looks.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

impl Looks {
    async fn ask_for(&self, looks: &[Look]) -> Result<Vec<Result<Seen, Unavailable>>, Unavailable> {
        let rpc = &self.rpc;
        let signers: BTreeSet<Address> = looks.iter().filter_map(Look::signer).collect();
        let mut calls = vec![Call::head()];
        calls.extend(signers.iter().copied().map(Call::mined_nonces));
        calls.extend(looks.iter().flat_map(Look::hashes).copied().map(Call::receipt));
        let mut answers = Vec::with_capacity(calls.len());
        while !calls.is_empty() {
            let later = calls.split_off(calls.len().min(CALLS_MAX));
            answers.extend(rpc.ask_many(calls).await?);
            calls = later;
        }
        let mut answers = answers.into_iter();
        let head: Block = rpc.read(answers.next().expect("one answer per call"))?;
        let mut counts = HashMap::with_capacity(signers.len());
        for signer in signers {
            let count: U64 = rpc.read(answers.next().expect("one answer per call"))?;
            counts.insert(signer, count.to::<u64>());
        }
        let read = |look: &Look| {
            let receipts = look.hashes().len();
            let receipt = first_of(rpc, answers.by_ref().take(receipts))?;
            let count = look.signer().and_then(|signer| counts.get(&signer).copied());
            Ok(Seen { head, count, receipt })
        };
        Ok(looks.iter().map(read).collect())
    }
}

impl Look {
    const fn signer(&self) -> Option<Address> {
        match self {
            Self::Head => None,
            Self::Transactions { signer, .. } => Some(*signer),
        }
    }

    fn hashes(&self) -> &[B256] {
        match self {
            Self::Head => &[],
            Self::Transactions { hashes, .. } => hashes,
        }
    }
}

/// The receipt among these answers: of transactions with one nonce one is mined at most. All answers are
/// taken.
pub(super) fn first_of(
    rpc: &Rpc,
    answers: impl Iterator<Item = Answer>,
) -> Result<Option<Receipt>, Unavailable> {
    let mut found = Ok(None);
    for answer in answers {
        match (&found, rpc.read(answer)) {
            (Ok(None), read) => found = read,
            (_, Err(error)) => found = Err(error),
            (_, Ok::<Option<Receipt>, _>(_)) => {}
        }
    }
    found
}
