//! An audit of a facilitator's books against the chain: by logs, receipts, nonces and balances, and never by
//! what a facilitator remembers.
//!
//! Every behaviour derives from these rules, stated here once:
//!
//! - **The books are read after the head.** What is signed is in the journal before it is sent, so whatever
//!   is mined up to a head that was read before stands in the books that are read after it.
//! - **A settled payment is proven by its transfer**, by the same rule by which it was settled
//!   ([`status`](crate::network::status)). That it is the very payment that was entered, its payee included,
//!   is told by the fingerprint in the books. It covers the longest time of the terms too, which is on no
//!   chain: all up to [`TIMEOUT_S_MAX`] are tried.
//! - **What was booked is what was spent**, to the wei. Entries that share transactions are compared
//!   together, once all of them are final: an entry books its share of the fee of each transaction of ours
//!   that carried it, and an advance what was sent beside.
//! - **Every nonce is accounted for**: each of a signer's that the chain consumed went to a transaction in the
//!   books, or to the one that puts `Packer` on the chain; from its first on, unless it is said that it was
//!   used elsewhere before.
//! - **What is forgotten is said, and trusted by nobody.** Where entries were deleted after their time, a signer is
//!   accounted for from behind the highest nonce of one. What is left of before is proven by its transfers; its
//!   fees are not compared, since others may have borne a share of them.
//! - **Unknown is a verdict.** What the node does not show is said to be unknown, and never counts as proven.
//!
//! Nothing is written or sent, and no key is needed.

mod carried;
mod judge;
mod movement;
mod reader;
mod signers;
mod witness;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use alloy::primitives::{Address, B256};
use futures_util::stream::{self, StreamExt as _};
use pay402_core::books::Booked;
use pay402_core::error::Unavailable;
use pay402_core::journal::{Forgotten, Outcome};
use pay402_core::network::BlockId;
use pay402_core::{Amount, NetworkId, PaymentKey};

use self::judge::{Facts, Judged, Mined};
pub use self::movement::{Kind, Movement};
use self::reader::Reader;
pub use self::reader::{QUESTIONS_MAX, TRIES_MAX};
use self::signers::Tally;
pub use self::signers::{Balance, LOOKUPS_MAX, SignerAudit};
pub use self::witness::{SEARCHES_MAX, TIMEOUT_S_MAX};
use crate::assets::AssetTable;
use crate::rpc::{Block, Rpc};

/// Looks at transactions that are on their way at a time.
const AT_A_TIME: usize = 4;

/// What an entry, a transaction or the whole turned out to be.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Standing {
    /// The chain shows it as the books have it.
    Proven,
    /// The node does not show enough to tell.
    Unknown,
    /// The chain shows otherwise.
    Contradicted,
}

impl Standing {
    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Unknown => "unknown",
            Self::Contradicted => "contradicted",
        }
    }
}

/// What was compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum What {
    /// Fees in the books, and what transactions cost.
    Fee,
    /// A settlement, and the transfer in the logs.
    Transfer,
    /// What our transactions moved, and whether the books have it as settled.
    Use,
    /// A signer's nonces, and the transactions in the books.
    Nonce,
    /// What a signer's balance lost, and what its transactions account for.
    Balance,
    /// A record that cannot be read, or contradicts itself.
    Record,
}

impl What {
    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fee => "fee",
            Self::Transfer => "transfer",
            Self::Use => "use",
            Self::Nonce => "nonce",
            Self::Balance => "balance",
            Self::Record => "record",
        }
    }
}

/// Something that is not proven: contradicted, or unknown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// What was compared.
    pub what: What,
    /// Of which payment, transaction or signer.
    pub subject: String,
    /// What was found, for people.
    pub message: String,
}

/// What came of an audit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Audited {
    /// The network.
    pub network: NetworkId,
    /// The block up to which nonces and balances were compared.
    pub head: BlockId,
    /// Entries in the books.
    pub entries: u64,
    /// Entries that are unfinished, or share a transaction with one that is: not compared yet.
    pub open: u64,
    /// Payments whose transfer is proven.
    pub settled: u64,
    /// Payments of which nothing was charged.
    pub uncharged: u64,
    /// Entries that failed or were reverted, errands too.
    pub failed: u64,
    /// Errands that are done. Their cost is compared, and not what they did.
    pub errands: u64,
    /// What was proven to be charged, in atomic units, by the token's address.
    pub charged: BTreeMap<String, Amount>,
    /// Transactions of ours that are mined.
    pub transactions: u64,
    /// What the books say that those cost which could be compared, in wei.
    pub booked: Amount,
    /// What they did cost, in wei.
    pub spent: Amount,
    /// The accounts that sent them.
    pub signers: Vec<SignerAudit>,
    /// Where the chain contradicts the books.
    pub violations: Vec<Finding>,
    /// What the node does not show enough of.
    pub unknown: Vec<Finding>,
    /// What moved, as the books and the chain have it, in the order of blocks.
    pub movements: Vec<Movement>,
    /// What is known of entries that are in the books no more, and was not compared.
    pub forgotten: Forgotten,
    /// Entries whose fees were not compared, as they are older than what the signers are accounted for from.
    pub older: u64,
}

impl Audited {
    /// How the whole stands. What is open is no part of it.
    pub const fn standing(&self) -> Standing {
        match (self.violations.is_empty(), self.unknown.is_empty()) {
            (false, _) => Standing::Contradicted,
            (true, false) => Standing::Unknown,
            (true, true) => Standing::Proven,
        }
    }
}

/// Whether the signers' balances are compared, for which a node has to know old states.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Balances {
    /// They are.
    #[default]
    Compared,
    /// They are not.
    LeftOut,
}

/// What is compared beside the entries themselves.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Whether balances are.
    pub balances: Balances,
    /// Accounts that are accounted for although the books may not have them, each from this nonce on. Those
    /// that the books have are from their first nonce on, unless they are here.
    pub signers: BTreeMap<Address, u64>,
}

/// An audit of one network's books, by one node.
#[derive(Debug)]
pub struct Audit {
    network: NetworkId,
    assets: AssetTable,
    reader: Reader,
    head: Block,
    books: Vec<Booked>,
    forgotten: Forgotten,
}

impl Audit {
    /// Begins an audit by reading the head. The books have to be read after it.
    ///
    /// # Errors
    /// When the node does not answer, or is one of another chain.
    pub async fn begin(
        network: NetworkId,
        rpc: Rpc,
        assets: AssetTable,
    ) -> Result<Self, Unavailable> {
        let chain_id = network.evm_chain_id();
        let no_evm = || Unavailable::new(network.to_string(), "is not an EVM network");
        let reader = Reader { rpc };
        let head = reader.begin(chain_id.ok_or_else(no_evm)?).await?;
        let (books, forgotten) = (Vec::new(), Forgotten::default());
        Ok(Self { network, assets, reader, head, books, forgotten })
    }

    /// Adds entries of the books, in the order of their numbers.
    pub fn add(&mut self, books: impl IntoIterator<Item = Booked>) {
        self.books.extend(books);
    }

    /// Says what the books do not have any more. It has to be read after the books.
    pub fn forget(&mut self, forgotten: Forgotten) {
        self.forgotten = forgotten;
    }

    /// Compares what was added with the chain.
    ///
    /// # Errors
    /// When the node stops answering. What it answers and does not show is no error.
    pub async fn finish(self, scope: &Scope) -> Result<Audited, Unavailable> {
        let Self { reader, books, head, .. } = &self;
        let mut lanes = signers::lanes(books, &scope.signers, &self.forgotten);
        // As long as the node has the state of that block.
        for lane in &mut lanes {
            lane.look(reader, head.number(), scope.balances).await?;
        }
        let mut mined = self.mined().await?;
        let canonical = self.canonical(&mined).await?;
        for it in mined.values_mut() {
            let block = canonical.get(&it.block);
            it.is_canonical = block.is_some_and(|block| block.hash == it.block_hash);
            it.time = block.map_or(0, Block::time);
        }
        let mut tally = Tally::default();
        for lane in &lanes {
            lane.tally(reader, (books, &mined), head.number(), &mut tally).await?;
        }
        if canonical.get(&head.number()).is_none_or(|block| block.hash != head.hash) {
            tally.doubt_all(head.number());
        }
        for it in &mut tally.setups {
            let block = reader.blocks(&[it.block]).await?.pop().flatten();
            it.time = block.map_or(0, |block| block.time());
        }
        let begins = lanes.iter().filter_map(signers::Lane::begins_late).collect();
        let facts = Facts {
            begins,
            unseen: std::mem::take(&mut tally.unseen),
            undone: undone(books, &canonical),
            in_blocks: self.missing(&mined).await?,
        };
        let judged = judge::judge(books, &mined, &facts);
        Ok(self.audited(judged, tally, &mined))
    }

    fn audited(&self, judged: Judged, tally: Tally, mined: &HashMap<B256, Mined>) -> Audited {
        let movements = movement::movements(&self.books, mined, &judged, &tally.setups);
        let Judged { mut violations, mut unknown, older, .. } = judged;
        violations.extend(tally.violations);
        unknown.extend(tally.unknown);
        Audited {
            network: self.network.clone(),
            head: self.head.id(),
            entries: self.books.len() as u64,
            open: judged.open,
            settled: judged.settled,
            uncharged: judged.uncharged,
            failed: judged.failed,
            errands: judged.errands,
            charged: judged.charged,
            transactions: mined.values().filter(|it| it.is_ours).count() as u64,
            booked: Amount::new(judged.booked),
            spent: Amount::new(judged.spent),
            signers: tally.signers,
            violations,
            unknown,
            movements,
            forgotten: self.forgotten.clone(),
            older,
        }
    }

    /// Every transaction of the books that is in a block: of ours, and those that others settled by.
    async fn mined(&self) -> Result<HashMap<B256, Mined>, Unavailable> {
        let (mut ours, mut settling) = (HashSet::new(), HashMap::<B256, Vec<usize>>::new());
        let mut by_key: HashMap<&PaymentKey, usize> = HashMap::with_capacity(self.books.len());
        for (index, booked) in self.books.iter().enumerate() {
            by_key.insert(&booked.key, index);
            if !is_approval(&booked.key) {
                let signed = booked.signed.iter().filter_map(|sent| hash(&sent.transaction));
                ours.extend(signed);
            }
            if let Some(hash) = judge::settled_by(booked) {
                settling.entry(hash).or_default().push(index);
            }
        }
        let wanted: BTreeSet<B256> = ours.iter().chain(settling.keys()).copied().collect();
        let wanted: Vec<B256> = wanted.into_iter().collect();
        let mut witness = witness::Witness::new(&self.network, &self.assets, &self.books, by_key);
        let mut mined = HashMap::with_capacity(wanted.len());
        // So many at a time, so that no more than these receipts are held.
        let asked = stream::iter(
            wanted
                .chunks(QUESTIONS_MAX)
                .map(async |some| self.reader.mined(some).await.map(|found| (some, found))),
        );
        let mut told = asked.buffered(AT_A_TIME);
        while let Some(told) = told.next().await {
            let (some, found) = told?;
            for (hash, found) in some.iter().zip(found) {
                let Some((receipt, sent)) = found else { continue };
                let settled = settling.get(hash).map_or(&[][..], Vec::as_slice);
                let it = witness.look(&receipt, &sent, ours.contains(hash), settled);
                mined.insert(*hash, it);
            }
        }
        Ok(mined)
    }

    /// The blocks of the chain with the numbers of those that transactions are in, or that closed entries.
    async fn canonical(
        &self,
        mined: &HashMap<B256, Mined>,
    ) -> Result<HashMap<u64, Block>, Unavailable> {
        let watched = self.books.iter().filter_map(|booked| booked.watched.as_ref());
        let numbers = mined.values().map(|it| it.block).chain(watched.map(|block| block.number));
        let numbers = numbers.chain([self.head.number()]);
        let numbers: BTreeSet<u64> = numbers.collect();
        let numbers: Vec<u64> = numbers.into_iter().collect();
        let blocks = self.reader.blocks(&numbers).await?;
        let found = numbers.into_iter().zip(blocks);
        Ok(found.filter_map(|(number, block)| Some((number, block?))).collect())
    }

    /// Of transactions that settled entries and are in no block that the node shows: whether the block that
    /// the books name has them.
    async fn missing(
        &self,
        mined: &HashMap<B256, Mined>,
    ) -> Result<HashMap<B256, reader::InBlock>, Unavailable> {
        let wanted = self.books.iter().filter_map(|booked| match &booked.outcome {
            Some(Outcome::Settled { transaction, block, .. }) => Some((hash(transaction)?, *block)),
            _ => None,
        });
        let wanted: Vec<_> = wanted.filter(|(hash, _)| !mined.contains_key(hash)).collect();
        let found = self.reader.in_blocks(&wanted).await?;
        Ok(wanted.into_iter().map(|(hash, _)| hash).zip(found).collect())
    }
}

/// Watched entries whose block is not in the chain any more: the facilitator has not followed yet.
fn undone(books: &[Booked], canonical: &HashMap<u64, Block>) -> HashSet<usize> {
    let is_undone = |booked: &Booked| {
        booked.watched.as_ref().is_some_and(|watched| {
            canonical.get(&watched.number).is_none_or(|block| block.id() != *watched)
        })
    };
    let entries = books.iter().enumerate();
    entries.filter(|(_, booked)| is_undone(booked)).map(|(index, _)| index).collect()
}

/// A transaction's hash, as the journal spells it.
fn hash(text: &str) -> Option<B256> {
    text.parse().ok()
}

/// Whether an entry is a payment. Errands have a word where payments name a contract.
fn is_payment(key: &PaymentKey) -> bool {
    key.asset().starts_with("0x")
}

/// Whether an entry is a payer's own transaction, which costs us nothing.
fn is_approval(key: &PaymentKey) -> bool {
    key.asset() == "approve"
}
