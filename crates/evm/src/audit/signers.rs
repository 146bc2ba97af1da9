//! The accounts that send: every nonce that the chain consumed, and what their balances lost.

use std::collections::{BTreeMap, HashMap, HashSet};

use alloy::primitives::{Address, B256, U256};
use pay402_core::Amount;
use pay402_core::books::Booked;
use pay402_core::error::Unavailable;
use pay402_core::journal::Forgotten;

use super::judge::Mined;
use super::reader::{Reader, Sent};
use super::witness::is_setup;
use super::{Balances, Finding, What, hash, is_approval};
use crate::address::checksummed;

/// Most transactions of one signer that are looked for because they are not in the books.
pub const LOOKUPS_MAX: usize = 32;

/// How a signer's balance compares with what its transactions account for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Balance {
    /// It was not to be compared.
    LeftOut,
    /// It cannot be told.
    Unknown,
    /// What its transactions took, it lost, but for what it received meanwhile: the difference, in wei.
    Compared {
        /// What it received.
        received: Amount,
    },
    /// It lost so much more, in wei, that no transaction of it accounts for.
    Contradicted {
        /// What is missing.
        lost: Amount,
    },
}

/// An account that sends transactions of the books.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignerAudit {
    /// Its address.
    pub address: String,
    /// The nonce from which on all are accounted for.
    pub first_nonce: u64,
    /// The next one that the chain has not consumed; `None` where the node does not say.
    pub next_nonce: Option<u64>,
    /// Its transactions that are mined and in the books, from that nonce on.
    pub transactions: u64,
    /// What those cost, and what they sent along, in wei.
    pub cost: Amount,
    /// How its balance compares with that.
    pub balance: Balance,
}

/// What came of all signers.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) signers: Vec<SignerAudit>,
    pub(super) violations: Vec<Finding>,
    pub(super) unknown: Vec<Finding>,
    /// Entries one of whose transactions may be mined and is not shown.
    pub(super) unseen: HashSet<usize>,
    /// What put `Packer` on the chain: in no book, and no surprise.
    pub(super) setups: Vec<Mined>,
}

/// One account's transactions, by their nonces.
#[derive(Debug)]
pub(super) struct Lane {
    address: Address,
    /// The nonce from which on all are accounted for.
    begin: u64,
    /// Whether what comes before is forgotten.
    is_cut: bool,
    /// By nonce: what was signed, and for which entries.
    signed: BTreeMap<u64, Vec<(B256, usize)>>,
    next: Result<u64, String>,
    balance: Option<Result<U256, String>>,
}

/// The accounts that sign for the books at our cost, and those that `signers` name, each from that nonce on, or from
/// behind what is forgotten.
pub(super) fn lanes(
    books: &[Booked],
    signers: &BTreeMap<Address, u64>,
    forgotten: &Forgotten,
) -> Vec<Lane> {
    let cuts = forgotten.nonces.iter().filter_map(|(signer, nonce)| {
        Some((signer.parse::<Address>().ok()?, nonce.saturating_add(1)))
    });
    let cuts: BTreeMap<Address, u64> = cuts.collect();
    let lane = |address: Address| {
        let begin = signers.get(&address).copied().unwrap_or_default();
        let cut = cuts.get(&address).copied().unwrap_or_default();
        Lane {
            address,
            begin: begin.max(cut),
            is_cut: cut > begin,
            signed: BTreeMap::new(),
            next: Err("it was not asked".to_owned()),
            balance: None,
        }
    };
    let mut lanes: BTreeMap<Address, Lane> =
        signers.keys().chain(cuts.keys()).map(|address| (*address, lane(*address))).collect();
    for (index, booked) in books.iter().enumerate().filter(|(_, it)| !is_approval(&it.key)) {
        for sent in &booked.signed {
            let read = (sent.signer.parse(), hash(&sent.transaction));
            let (Ok(address), Some(hash)) = read else { continue };
            let lane = lanes.entry(address).or_insert_with(|| lane(address));
            lane.signed.entry(sent.nonce).or_default().push((hash, index));
        }
    }
    lanes.into_values().collect()
}

/// What became of a nonce that went to no transaction of the books.
enum Lost {
    /// It went to this one, which cost so much.
    To(Box<Mined>),
    /// It went to what put `Packer` on the chain.
    Setup(Box<Mined>),
    /// It is not known to what, for this reason.
    Unknown(String),
}

impl Lane {
    /// Looks at what only a node with the state of that block can tell.
    pub(super) async fn look(
        &mut self,
        reader: &Reader,
        head: u64,
        balances: Balances,
    ) -> Result<(), Unavailable> {
        self.next = reader.count(self.address, head).await?;
        if balances == Balances::Compared {
            if self.is_cut {
                self.begin_with_a_block(reader, head).await?;
            }
            self.balance = Some(reader.balance(self.address, head).await?);
        }
        Ok(())
    }

    /// Moves the beginning up to where a block begins: what a balance was is known between blocks.
    async fn begin_with_a_block(&mut self, reader: &Reader, head: u64) -> Result<(), Unavailable> {
        if self.next.as_ref().is_ok_and(|next| self.begin < *next)
            && let Ok(block) = reader.block_of((self.address, self.begin), (0, head)).await?
            && let Ok(before) = reader.count(self.address, block.saturating_sub(1)).await?
            && before < self.begin
            && let Ok(after) = reader.count(self.address, block).await?
        {
            self.begin = self.begin.max(after);
        }
        Ok(())
    }

    /// From which nonce on it is accounted for, where what comes before is forgotten.
    pub(super) fn begins_late(&self) -> Option<(Address, u64)> {
        self.is_cut.then_some((self.address, self.begin))
    }

    /// Accounts for every nonce up to the head, and for the balance.
    pub(super) async fn tally(
        &self,
        reader: &Reader,
        (books, mined): (&[Booked], &HashMap<B256, Mined>),
        head: u64,
        tally: &mut Tally,
    ) -> Result<(), Unavailable> {
        let next = match &self.next {
            Ok(next) => *next,
            Err(why) => {
                let mut audit = self.audit(None, &BTreeMap::new());
                let why = format!("its nonce at block {head} is not shown: {why}");
                tally.doubt(What::Nonce, &audit.address, why);
                if self.balance.is_some() {
                    audit.balance = Balance::Unknown;
                }
                tally.signers.push(audit);
                return Ok(());
            }
        };
        let ours = self.mined_by(mined, next);
        let mut audit = self.audit(Some(next), &ours);
        let strays = self.account_for(reader, (books, &ours), (next, head), tally).await?;
        audit.balance = match &self.balance {
            None => Balance::LeftOut,
            Some(after) => {
                let spent = strays.map(|strays| strays.saturating_add(audit.cost.to_u256()));
                let before = self.before(reader, (next, head)).await?;
                compare(tally, &audit.address, (before, after), spent)
            }
        };
        tally.signers.push(audit);
        Ok(())
    }

    fn audit(&self, next: Option<u64>, ours: &BTreeMap<u64, &Mined>) -> SignerAudit {
        let cost = ours.values().fold(U256::ZERO, |sum, it| sum.saturating_add(it.cost()));
        SignerAudit {
            address: checksummed(&self.address),
            first_nonce: self.begin,
            next_nonce: next,
            transactions: ours.len() as u64,
            cost: Amount::new(cost),
            balance: Balance::LeftOut,
        }
    }

    /// Its transactions that are in the chain up to the head, by the nonces that the chain says.
    fn mined_by<'a>(&self, mined: &'a HashMap<B256, Mined>, next: u64) -> BTreeMap<u64, &'a Mined> {
        let signed = self.signed.values().flatten();
        let found = signed.filter_map(|(hash, _)| mined.get(hash));
        let ours = found.filter(|it| it.is_canonical && it.from == self.address);
        let nonces = self.begin..next;
        ours.filter(|it| nonces.contains(&it.nonce)).map(|it| (it.nonce, it)).collect()
    }

    /// Looks for what consumed the nonces that went to no transaction of the books. Gives what that cost, in
    /// wei; `None` where it is not known of all.
    async fn account_for(
        &self,
        reader: &Reader,
        (books, ours): (&[Booked], &BTreeMap<u64, &Mined>),
        (next, head): (u64, u64),
        tally: &mut Tally,
    ) -> Result<Option<U256>, Unavailable> {
        let mut missing = (self.begin..next).filter(|nonce| !ours.contains_key(nonce));
        let mut cost = Some(U256::ZERO);
        for nonce in missing.by_ref().take(LOOKUPS_MAX) {
            let lost = self.find(reader, nonce, span(ours, nonce, head)).await?;
            cost = match &lost {
                Lost::To(it) | Lost::Setup(it) => cost.map(|cost| cost.saturating_add(it.cost())),
                Lost::Unknown(_) => None,
            };
            self.note(tally, books, nonce, lost);
        }
        let Some(first) = missing.next() else { return Ok(cost) };
        let (mut last, mut unbooked) = (first, false);
        for nonce in std::iter::once(first).chain(missing) {
            let signed = self.signed.get(&nonce).map_or(&[][..], Vec::as_slice);
            tally.unseen.extend(signed.iter().map(|(_, entry)| *entry));
            unbooked |= signed.is_empty();
            last = nonce;
        }
        let subject = checksummed(&self.address);
        let message =
            format!("nonces between {first} and {last} are missing too; they were not looked for");
        match unbooked {
            true => tally.contradict(What::Nonce, &subject, message),
            false => tally.doubt(What::Nonce, &subject, message),
        }
        Ok(None)
    }

    /// What it held before the first transaction that is accounted for; otherwise why that is not known.
    async fn before(
        &self,
        reader: &Reader,
        (next, head): (u64, u64),
    ) -> Result<Result<U256, String>, Unavailable> {
        let low = match self.begin {
            0 => 0,
            begin if begin >= next => head,
            begin => match reader.block_of((self.address, begin), (0, head)).await? {
                Ok(block) => block.saturating_sub(1),
                Err(why) => return Ok(Err(why)),
            },
        };
        match reader.count(self.address, low).await? {
            Ok(count) if count == self.begin.min(next) => reader.balance(self.address, low).await,
            Ok(_) => Ok(Err(format!("others of its transactions are in block {}", low + 1))),
            Err(why) => Ok(Err(why)),
        }
    }

    async fn find(
        &self,
        reader: &Reader,
        nonce: u64,
        span: (u64, u64),
    ) -> Result<Lost, Unavailable> {
        let sent = match reader.find_nonce((self.address, nonce), span).await? {
            Ok(sent) => sent,
            Err(why) => return Ok(Lost::Unknown(why)),
        };
        let found = reader.mined(&[sent.hash]).await?.pop().flatten();
        let Some((receipt, sent)) = found else {
            return Ok(Lost::Unknown(format!("the receipt of {} is not shown", sent.hash)));
        };
        let is_setup = is_setup(&sent);
        let it = Box::new(stray(&sent, &receipt));
        Ok(if is_setup { Lost::Setup(it) } else { Lost::To(it) })
    }

    /// Tells of a nonce that went to no transaction of the books.
    fn note(&self, tally: &mut Tally, books: &[Booked], nonce: u64, lost: Lost) {
        let subject = checksummed(&self.address);
        let signed = self.signed.get(&nonce).map_or(&[][..], Vec::as_slice);
        match lost {
            Lost::Setup(it) => tally.setups.push(*it),
            Lost::To(it) if signed.iter().any(|(hash, _)| *hash == it.hash) => {
                let message = format!("{} with nonce {nonce} is shown at times only", it.hash);
                tally.doubt(What::Nonce, &subject, message);
                tally.unseen.extend(signed.iter().map(|(_, entry)| *entry));
            }
            Lost::To(it) => {
                let to = it.to.map_or_else(|| "a new contract".to_owned(), |to| to.to_string());
                let message = format!(
                    "an unbooked transaction has nonce {nonce}: {}, to {to}, which cost {} wei",
                    it.hash,
                    it.cost()
                );
                tally.contradict(What::Nonce, &subject, message);
            }
            Lost::Unknown(why) if signed.is_empty() => {
                let message = format!(
                    "an unbooked transaction has nonce {nonce}; which one is not known: {why}"
                );
                tally.contradict(What::Nonce, &subject, message);
            }
            Lost::Unknown(why) => {
                let of = &books[signed[0].1].key;
                let message = format!(
                    "nonce {nonce} is consumed, and the node shows no transaction with it that was \
                     signed for {of}: {why}"
                );
                tally.doubt(What::Nonce, &subject, message);
                tally.unseen.extend(signed.iter().map(|(_, entry)| *entry));
            }
        }
    }
}

/// Compares what a balance lost with what was spent.
fn compare(
    tally: &mut Tally,
    signer: &str,
    (before, after): (Result<U256, String>, &Result<U256, String>),
    spent: Option<U256>,
) -> Balance {
    let (before, after, spent) = match (&before, after, spent) {
        (Ok(before), Ok(after), Some(spent)) => (*before, *after, spent),
        (Err(why), ..) | (_, Err(why), _) => {
            tally.doubt(What::Balance, signer, format!("what it held is not shown: {why}"));
            return Balance::Unknown;
        }
        (Ok(_), Ok(_), None) => {
            let message = "what it spent is not known, as some of its transactions are not";
            tally.doubt(What::Balance, signer, message);
            return Balance::Unknown;
        }
    };
    match after.saturating_add(spent).checked_sub(before) {
        Some(received) => Balance::Compared { received: Amount::new(received) },
        None => {
            let lost = before.saturating_sub(after).saturating_sub(spent);
            let message = format!("it lost {lost} wei that no transaction of it accounts for");
            tally.contradict(What::Balance, signer, message);
            Balance::Contradicted { lost: Amount::new(lost) }
        }
    }
}

impl Tally {
    fn contradict(&mut self, what: What, subject: &str, message: impl Into<String>) {
        let (subject, message) = (subject.to_owned(), message.into());
        self.violations.push(Finding { what, subject, message });
    }

    fn doubt(&mut self, what: What, subject: &str, message: impl Into<String>) {
        let (subject, message) = (subject.to_owned(), message.into());
        self.unknown.push(Finding { what, subject, message });
    }

    /// What was told of a head that is not in the chain any more is not known.
    pub(super) fn doubt_all(&mut self, head: u64) {
        self.unknown.append(&mut self.violations);
        let message = "it was undone while the audit ran: signers are not compared; run it again";
        self.doubt(What::Nonce, &format!("block {head}"), message);
    }
}

/// Blocks between which the transaction with this nonce is: after the first, up to the last.
fn span(ours: &BTreeMap<u64, &Mined>, nonce: u64, head: u64) -> (u64, u64) {
    let before = ours.range(..nonce).next_back().map(|(_, it)| it.block.saturating_sub(1));
    let after = ours.range(nonce..).next().map(|(_, it)| it.block);
    (before.unwrap_or(0), after.unwrap_or(head))
}

/// A transaction of a signer that is not in the books.
fn stray(sent: &Sent, receipt: &crate::rpc::Receipt) -> Mined {
    Mined { is_canonical: true, ..sent.mined(receipt) }
}
