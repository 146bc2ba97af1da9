//! The comparison itself, of what was read from both sides: no question is asked here.

use std::collections::{BTreeMap, HashMap, HashSet};

use alloy::primitives::{Address, B256, U256};
use pay402_core::books::Booked;
use pay402_core::history::Sent;
use pay402_core::journal::Outcome;
use pay402_core::{Amount, PaymentKey};

use super::reader::InBlock;
use super::{Finding, Standing, What, hash, is_approval, is_payment};
use crate::address::canonical;

/// Most transactions that one finding names.
const NAMED_MAX: usize = 3;

/// A transaction that is in a block.
#[derive(Clone, Debug)]
pub(super) struct Mined {
    pub(super) hash: B256,
    pub(super) from: Address,
    pub(super) to: Option<Address>,
    pub(super) nonce: u64,
    pub(super) block: u64,
    pub(super) block_hash: B256,
    /// The block's, in seconds since the Unix epoch.
    pub(super) time: u64,
    /// Whether the block is in the chain.
    pub(super) is_canonical: bool,
    /// Whether it was signed for an entry of the books, at our cost.
    pub(super) is_ours: bool,
    /// What it cost its sender, in wei.
    pub(super) fee: U256,
    /// What it moved of the network's own coin, in wei.
    pub(super) moved: U256,
    /// What it did to entries of the books, by their places.
    pub(super) proofs: Vec<(usize, Proof)>,
    /// Payments in its call that are not in the books.
    pub(super) strangers: Vec<PaymentKey>,
}

impl Mined {
    /// What it took from its sender, in wei.
    pub(super) fn cost(&self) -> U256 {
        self.fee.saturating_add(self.moved)
    }
}

/// What a transaction did to an entry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Proof {
    /// Just what is charged moved, from the payer to this payee.
    Made { token: Address, payee: Address, identified: Identified },
    /// It did not.
    Missing,
    /// The entry is an errand, of which nothing is charged.
    Errand,
}

/// Whether a payment on the chain is the one that was entered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Identified {
    /// It is.
    Same,
    /// It has the same nonce, and is another one.
    Another,
    /// It cannot be told, for this reason.
    Unknown(&'static str),
}

/// What is known beside the transactions.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Entries one of whose transactions may be mined and is not shown.
    pub(super) unseen: HashSet<usize>,
    /// Entries that were closed by a block that is not in the chain any more.
    pub(super) undone: HashSet<usize>,
    /// Of transactions that are not shown: whether the block that the books name has them.
    pub(super) in_blocks: HashMap<B256, InBlock>,
    /// Of signers whose older entries are forgotten in part: from which nonce on the books have all.
    pub(super) begins: HashMap<Address, u64>,
}

impl Facts {
    /// Whether entries may be missing that a transaction carried.
    fn is_older(&self, it: &Mined) -> bool {
        self.begins.get(&it.from).is_some_and(|begin| it.nonce < *begin)
    }
}

/// What came of the comparison.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) open: u64,
    pub(super) settled: u64,
    pub(super) uncharged: u64,
    pub(super) failed: u64,
    pub(super) errands: u64,
    pub(super) charged: BTreeMap<String, Amount>,
    /// Entries whose fees were not compared, as they are older than the signers are accounted for.
    pub(super) older: u64,
    /// In wei, of those that could be compared.
    pub(super) booked: U256,
    pub(super) spent: U256,
    pub(super) violations: Vec<Finding>,
    pub(super) unknown: Vec<Finding>,
    /// How each entry stands, by its place; `None` of one that is open.
    pub(super) standings: Vec<Option<Standing>>,
    /// How what each transaction cost stands.
    pub(super) costs: HashMap<B256, Option<Standing>>,
}

impl Judged {
    fn contradict(&mut self, what: What, subject: impl ToString, message: impl Into<String>) {
        let (subject, message) = (subject.to_string(), message.into());
        self.violations.push(Finding { what, subject, message });
    }

    fn doubt(&mut self, what: What, subject: impl ToString, message: impl Into<String>) {
        let (subject, message) = (subject.to_string(), message.into());
        self.unknown.push(Finding { what, subject, message });
    }

    fn worsen(&mut self, index: usize, standing: Standing) {
        if let Some(known) = &mut self.standings[index] {
            *known = (*known).max(standing);
        }
    }
}

/// Compares the books with what is mined.
pub(super) fn judge(books: &[Booked], mined: &HashMap<B256, Mined>, facts: &Facts) -> Judged {
    let open = |booked: &Booked| booked.outcome.is_some().then_some(Standing::Proven);
    let mut judged = Judged { standings: books.iter().map(open).collect(), ..Judged::default() };
    for (index, booked) in books.iter().enumerate() {
        judge_entry(&mut judged, (index, booked), mined, facts);
    }
    judge_uses(&mut judged, books, mined, facts);
    judge_costs(&mut judged, books, mined, facts);
    judged
}

/// Whether an entry ended as the chain shows it, its cost aside.
fn judge_entry(
    judged: &mut Judged,
    (index, booked): (usize, &Booked),
    mined: &HashMap<B256, Mined>,
    facts: &Facts,
) {
    let key = &booked.key;
    let is_read =
        |sent: &&Sent| hash(&sent.transaction).is_some() && sent.signer.parse::<Address>().is_ok();
    for sent in booked.signed.iter().filter(|sent| !is_read(sent)) {
        let Sent { transaction, signer, .. } = sent;
        let message = format!("{transaction:?} by {signer:?} is no transaction");
        judged.contradict(What::Record, key, message);
        judged.worsen(index, Standing::Contradicted);
    }
    if facts.undone.contains(&index) {
        judged.doubt(What::Transfer, key, "the block that closed it was undone; look again later");
        return judged.worsen(index, Standing::Unknown);
    }
    let (transaction, block) = match &booked.outcome {
        None => return,
        Some(Outcome::Failed { .. } | Outcome::Reverted { .. }) => {
            judged.failed += 1;
            return;
        }
        Some(Outcome::Settled { transaction, block, .. }) => (transaction, *block),
    };
    let is_payment = is_payment(key);
    let (standing, message) = match hash(transaction) {
        None if transaction.is_empty() && booked.amount.is_zero() => {
            judged.uncharged += u64::from(is_payment);
            judged.errands += u64::from(!is_payment);
            return;
        }
        None => (Standing::Contradicted, "it is settled by no transaction".to_owned()),
        Some(hash) => match mined.get(&hash) {
            Some(it) => shown_by(index, it, block),
            None => not_shown(transaction, block, facts.in_blocks.get(&hash).copied()),
        },
    };
    match standing {
        Standing::Contradicted => judged.contradict(What::Transfer, key, message),
        Standing::Unknown => judged.doubt(What::Transfer, key, message),
        Standing::Proven if is_payment => {
            judged.settled += 1;
            let token = hash(transaction).and_then(|hash| mined.get(&hash));
            if let Some(token) = token.and_then(|it| token_of(index, it)) {
                let sum = judged.charged.entry(canonical(&token)).or_default();
                *sum = sum.checked_add(booked.amount).unwrap_or(Amount::MAX);
            }
        }
        Standing::Proven => judged.errands += 1,
    }
    judged.worsen(index, standing);
}

/// How a settlement stands whose transaction is mined, and why.
fn shown_by(index: usize, it: &Mined, block: u64) -> (Standing, String) {
    let hash = it.hash;
    if !it.is_canonical {
        let message = format!("the node shows {hash} in a block that is not in its chain");
        return (Standing::Unknown, message);
    }
    if it.block != block {
        let message = format!("{hash} is in block {}, and in the books in {block}", it.block);
        return (Standing::Contradicted, message);
    }
    match it.proofs.iter().find(|(of, _)| *of == index).map(|(_, proof)| proof) {
        Some(Proof::Errand | Proof::Made { identified: Identified::Same, .. }) => {
            (Standing::Proven, String::new())
        }
        Some(Proof::Made { payee, identified: Identified::Another, .. }) => {
            let message = format!("{hash} made another payment with its nonce, to {payee}");
            (Standing::Contradicted, message)
        }
        Some(Proof::Made { payee, identified: Identified::Unknown(why), .. }) => {
            let message = format!(
                "{hash} moved it to {payee}; whether that is who was to have it is not known: {why}"
            );
            (Standing::Unknown, message)
        }
        Some(Proof::Missing) | None => {
            (Standing::Contradicted, format!("{hash} did not move what is charged"))
        }
    }
}

/// How a settlement stands whose transaction the node does not show, and why.
fn not_shown(transaction: &str, block: u64, in_block: Option<InBlock>) -> (Standing, String) {
    match in_block {
        Some(InBlock::No) => {
            (Standing::Contradicted, format!("{transaction} is not in block {block}"))
        }
        Some(InBlock::Yes) => {
            (Standing::Unknown, format!("the node does not show the receipt of {transaction}"))
        }
        Some(InBlock::Unknown) | None => {
            let message = format!("the node shows neither {transaction} nor block {block}");
            (Standing::Unknown, message)
        }
    }
}

fn token_of(index: usize, it: &Mined) -> Option<Address> {
    it.proofs.iter().find_map(|(of, proof)| match proof {
        Proof::Made { token, .. } if *of == index => Some(*token),
        _ => None,
    })
}

/// What our transactions moved stands in the books as settled by them.
fn judge_uses(judged: &mut Judged, books: &[Booked], mined: &HashMap<B256, Mined>, facts: &Facts) {
    let mut ours: Vec<&Mined> = mined.values().filter(|it| it.is_ours && it.is_canonical).collect();
    ours.sort_unstable_by_key(|it| (it.block, it.hash));
    for it in ours {
        let strangers = if facts.is_older(it) { &[][..] } else { &it.strangers };
        for key in strangers {
            let message = format!("{} carries it, and it is not in the books", it.hash);
            judged.contradict(What::Use, key, message);
        }
        for (index, proof) in &it.proofs {
            let Proof::Made { payee, .. } = proof else { continue };
            let booked = &books[*index];
            let is_open = booked.outcome.is_none();
            if !is_open && settled_by(booked) != Some(it.hash) {
                let message = format!(
                    "{} moved what is charged to {payee}, and the books do not have it settled by that",
                    it.hash
                );
                judged.contradict(What::Use, &booked.key, message);
                judged.worsen(*index, Standing::Contradicted);
            }
        }
    }
}

/// What entries have in common that share transactions.
#[derive(Debug, Default)]
struct Component {
    entries: Vec<usize>,
    transactions: Vec<B256>,
    booked: U256,
    spent: U256,
    is_open: bool,
    is_older: bool,
    is_unknown: bool,
}

/// What was booked is what was spent, of entries that share transactions together.
fn judge_costs(judged: &mut Judged, books: &[Booked], mined: &HashMap<B256, Mined>, facts: &Facts) {
    for component in components(books, mined, facts) {
        let Component { entries, transactions, booked, spent, is_open, is_older, is_unknown } =
            component;
        if is_older && !is_open {
            judged.older += entries.len() as u64;
            let costs = transactions.into_iter().map(|hash| (hash, Some(Standing::Unknown)));
            judged.costs.extend(costs);
            continue;
        }
        let subject = &books[entries[0]].key;
        let standing = match () {
            () if is_open => {
                judged.open += entries.len() as u64;
                None
            }
            () if is_unknown => {
                let message = "a transaction of it may be mined, and the node does not show it; what it \
                               cost is not known";
                judged.doubt(What::Fee, subject, message);
                Some(Standing::Unknown)
            }
            () => {
                judged.booked = judged.booked.saturating_add(booked);
                judged.spent = judged.spent.saturating_add(spent);
                if booked != spent {
                    let message = mismatch(&entries, &transactions, booked, spent);
                    judged.contradict(What::Fee, subject, message);
                }
                Some(if booked == spent { Standing::Proven } else { Standing::Contradicted })
            }
        };
        for index in entries {
            match standing {
                Some(standing) => judged.worsen(index, standing),
                None => judged.standings[index] = None,
            }
        }
        judged.costs.extend(transactions.into_iter().map(|hash| (hash, standing)));
    }
}

fn mismatch(entries: &[usize], transactions: &[B256], booked: U256, spent: U256) -> String {
    let named: Vec<String> = transactions.iter().take(NAMED_MAX).map(B256::to_string).collect();
    let more = transactions.len().saturating_sub(named.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let by = match named.is_empty() {
        true => "no transaction of it is mined".to_owned(),
        false => format!("{}{more} cost {spent}", named.join(", ")),
    };
    let of = match entries.len() {
        1 => String::new(),
        count => format!(" of {count} entries that share transactions"),
    };
    format!("the fees{of} in the books are {booked} wei, and {by}")
}

/// Entries that share transactions of ours, put together, in the order of the first of each.
fn components(books: &[Booked], mined: &HashMap<B256, Mined>, facts: &Facts) -> Vec<Component> {
    let mut groups = Groups::of(books.len());
    let mut first: HashMap<B256, usize> = HashMap::new();
    let mut is_unknown = facts.unseen.clone();
    is_unknown.extend(&facts.undone);
    for (index, booked) in books.iter().enumerate().filter(|(_, it)| !is_approval(&it.key)) {
        let signed = booked.signed.iter().filter_map(|sent| hash(&sent.transaction));
        let found = |hash| mined.get(&hash);
        // One that replaced its own while it was closed is signed for the others of its pack alone, and carried it all
        // the same: it bears its share.
        let by = settled_by(booked).and_then(found).filter(|it| it.is_ours);
        for it in signed.filter_map(found).chain(by) {
            if !it.is_canonical {
                is_unknown.insert(index);
            }
            let with = *first.entry(it.hash).or_insert(index);
            groups.join(with, index);
        }
    }
    let mut found: BTreeMap<usize, Component> = BTreeMap::new();
    for (index, booked) in books.iter().enumerate() {
        let component = found.entry(groups.first_of(index)).or_default();
        component.entries.push(index);
        component.is_open |= booked.outcome.is_none();
        component.is_unknown |= is_unknown.contains(&index);
        let fee = booked.outcome.as_ref().map_or(U256::ZERO, |outcome| fee_of(outcome).to_u256());
        component.booked = component.booked.saturating_add(fee);
    }
    let mut shared: Vec<_> = first.into_iter().collect();
    shared.sort_unstable();
    for (hash, index) in shared {
        let component = found.entry(groups.first_of(index)).or_default();
        component.transactions.push(hash);
        component.is_older |= facts.is_older(&mined[&hash]);
        component.spent = component.spent.saturating_add(mined[&hash].cost());
    }
    found.into_values().collect()
}

/// The transaction that settled an entry.
pub(super) fn settled_by(booked: &Booked) -> Option<B256> {
    match &booked.outcome {
        Some(Outcome::Settled { transaction, .. }) => hash(transaction),
        Some(Outcome::Failed { .. } | Outcome::Reverted { .. }) | None => None,
    }
}

/// What an entry cost, as it is booked, in wei.
pub(super) const fn fee_of(outcome: &Outcome) -> Amount {
    match outcome {
        Outcome::Settled { fee, .. }
        | Outcome::Failed { fee, .. }
        | Outcome::Reverted { fee, .. } => *fee,
    }
}

/// Disjoint groups of numbers, each known by its lowest.
struct Groups(Vec<usize>);

impl Groups {
    fn of(count: usize) -> Self {
        Self((0..count).collect())
    }

    fn first_of(&mut self, mut number: usize) -> usize {
        while self.0[number] != number {
            // Shortens the way for those who come after.
            self.0[number] = self.0[self.0[number]];
            number = self.0[number];
        }
        number
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.first_of(one), self.first_of(other));
        self.0[one.max(other)] = one.min(other);
    }
}

#[cfg(test)]
mod tests {
    use pay402_core::Digest;
    use pay402_core::time::UnixTime;

    use super::*;

    fn name(hash: u8) -> String {
        B256::repeat_byte(hash).to_string()
    }

    /// An entry that failed and cost so much, with what was signed for it.
    fn entry(name: &str, fee: u64, hashes: &[u8]) -> Booked {
        let signer = Address::repeat_byte(1).to_checksum(None);
        let signed = hashes.iter().map(|hash| Sent {
            transaction: self::name(*hash),
            signer: signer.clone(),
            nonce: u64::from(*hash),
        });
        Booked {
            seq: 1,
            key: PaymentKey::from_stored(&format!("eip155:1/{name}")),
            fingerprint: Digest([0; 32]),
            payer: "0xpayer".into(),
            amount: Amount::from(5),
            entered_at: UnixTime(0),
            outcome: Some(Outcome::Failed {
                reason: "valid_before".into(),
                message: String::new(),
                transaction: None,
                fee: Amount::from(fee),
            }),
            watched: None,
            signed: signed.collect(),
        }
    }

    fn open(booked: Booked) -> Booked {
        Booked { outcome: None, ..booked }
    }

    fn mined(hash: u8, fee: u64) -> Mined {
        Mined {
            hash: B256::repeat_byte(hash),
            from: Address::repeat_byte(1),
            to: None,
            nonce: u64::from(hash),
            block: 7,
            block_hash: B256::ZERO,
            time: 0,
            is_canonical: true,
            is_ours: true,
            fee: U256::from(fee),
            moved: U256::ZERO,
            proofs: Vec::new(),
            strangers: Vec::new(),
        }
    }

    fn judged(books: &[Booked], all: impl IntoIterator<Item = Mined>, facts: Facts) -> Judged {
        let all = all.into_iter().map(|it| (it.hash, it)).collect();
        judge(books, &all, &facts)
    }

    fn whats(findings: &[Finding]) -> Vec<What> {
        findings.iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn groups_are_joined_through_what_they_share() {
        let mut groups = Groups::of(6);
        for (one, other) in [(4, 5), (2, 1), (5, 2)] {
            groups.join(one, other);
        }
        let first: Vec<usize> = (0..6).map(|number| groups.first_of(number)).collect();
        assert_eq!(first, [0, 1, 1, 3, 1, 1]);
        groups.join(3, 3);
        assert_eq!(groups.first_of(3), 3);
    }

    /// Two in a pack; one of them left out and sent alone, in another pack with a third.
    #[test]
    fn entries_that_share_transactions_are_summed_together() {
        let all = || [mined(1, 101), mined(2, 60), mined(3, 9)];
        let books = |fees: [u64; 4]| {
            vec![
                entry("0xa/one", fees[0], &[1]),
                entry("0xa/two", fees[1], &[1, 2]),
                entry("0xa/three", fees[2], &[2]),
                entry("0xa/apart", fees[3], &[9, 3]),
            ]
        };
        let right = judged(&books([51, 80, 30, 9]), all(), Facts::default());
        assert_eq!((right.violations, right.unknown), (vec![], vec![]));
        assert_eq!((right.booked, right.spent), (U256::from(170), U256::from(170)));
        // Whose share is whose is not compared, and their sum is.
        let shifted = judged(&books([50, 81, 30, 9]), all(), Facts::default());
        assert_eq!(shifted.violations, []);
        for wrong in [[52, 80, 30, 9], [51, 80, 29, 9], [51, 80, 30, 8], [51, 80, 31, 8]] {
            let judged = judged(&books(wrong), all(), Facts::default());
            let apart = wrong[3] != 9;
            let together = wrong[0] + wrong[1] + wrong[2] != 161;
            let count = usize::from(apart) + usize::from(together);
            assert_eq!(whats(&judged.violations), vec![What::Fee; count], "{wrong:?}");
            let standing = |wrong| if wrong { Standing::Contradicted } else { Standing::Proven };
            let expected = [together, together, together, apart].map(|it| Some(standing(it)));
            assert_eq!(judged.standings, expected, "{wrong:?}");
        }
    }

    /// A pack of two, of which one was closed by what a node made up while the other was sent again for more.
    #[test]
    fn who_is_settled_by_what_was_signed_for_others_shares_its_cost() {
        let settled = |fee: u64| {
            let outcome =
                Outcome::Settled { transaction: name(2), block: 7, fee: Amount::from(fee) };
            Booked { outcome: Some(outcome), ..entry("0xa/one", 0, &[1]) }
        };
        let fees = |books: [Booked; 2], ours: bool| {
            let it = Mined { is_ours: ours, ..mined(2, 100) };
            let judged = judged(&books, [it], Facts::default());
            judged.violations.iter().filter(|it| it.what == What::Fee).count()
        };
        assert_eq!(fees([settled(50), entry("0xa/two", 50, &[1, 2])], true), 0);
        assert_eq!(fees([settled(49), entry("0xa/two", 50, &[1, 2])], true), 1);
        // Somebody else's costs us nothing.
        assert_eq!(fees([settled(0), entry("0xa/two", 100, &[1, 2])], false), 0);
    }

    #[test]
    fn what_an_advance_sent_is_a_cost() {
        let it = Mined { moved: U256::from(1_000), ..mined(1, 21) };
        let books = [entry("advance/0xpayer/once", 1_021, &[1])];
        assert_eq!(judged(&books, [it.clone()], Facts::default()).violations, []);
        let books = [entry("advance/0xpayer/once", 21, &[1])];
        let judged = judged(&books, [it], Facts::default());
        assert_eq!(whats(&judged.violations), [What::Fee]);
    }

    #[test]
    fn a_payers_own_transaction_costs_us_nothing() {
        let it = Mined { is_ours: false, ..mined(1, 21) };
        let books = [entry("approve/0xpayer/0x01", 0, &[1])];
        assert_eq!(judged(&books, [it.clone()], Facts::default()).violations, []);
        let books = [entry("approve/0xpayer/0x01", 21, &[1])];
        assert_eq!(whats(&judged(&books, [it], Facts::default()).violations), [What::Fee]);
    }

    #[test]
    fn what_shares_with_something_open_is_open() {
        let books =
            [entry("0xa/one", 1, &[1]), open(entry("0xa/two", 0, &[1])), entry("0xa/x", 7, &[2])];
        let judged = judged(&books, [mined(1, 100), mined(2, 7)], Facts::default());
        assert_eq!((judged.open, judged.violations), (2, vec![]));
        assert_eq!(judged.standings, [None, None, Some(Standing::Proven)]);
        assert_eq!((judged.booked, judged.spent), (U256::from(7), U256::from(7)));
    }

    #[test]
    fn what_may_have_cost_more_is_unknown() {
        let books = [entry("0xa/one", 50, &[1]), entry("0xa/two", 51, &[1, 2])];
        let unseen = Facts { unseen: HashSet::from([1]), ..Facts::default() };
        let undone = Facts { undone: HashSet::from([0]), ..Facts::default() };
        for (facts, all) in [
            (unseen, [mined(1, 90)]),
            (undone, [mined(1, 90)]),
            (Facts::default(), [Mined { is_canonical: false, ..mined(1, 101) }]),
        ] {
            let judged = judged(&books, all, facts);
            assert_eq!(judged.violations, []);
            assert!(whats(&judged.unknown).contains(&What::Fee), "{:?}", judged.unknown);
            assert_eq!(judged.standings, [Some(Standing::Unknown); 2]);
            assert_eq!(judged.spent, U256::ZERO, "it counts as proven");
        }
    }

    #[test]
    fn a_settlement_without_its_transaction_is_wrong_only_if_its_block_is_there() {
        let outcome = |transaction: String| {
            Some(Outcome::Settled { transaction, block: 7, fee: Amount::ZERO })
        };
        let books = [Booked { outcome: outcome(name(1)), ..entry("0xa/one", 0, &[]) }];
        for (seen, standing) in [
            (InBlock::No, Standing::Contradicted),
            (InBlock::Yes, Standing::Unknown),
            (InBlock::Unknown, Standing::Unknown),
        ] {
            let in_blocks = HashMap::from([(B256::repeat_byte(1), seen)]);
            let judged = judged(&books, [], Facts { in_blocks, ..Facts::default() });
            assert_eq!((judged.standings, judged.settled), (vec![Some(standing)], 0), "{seen:?}");
        }
        // Nothing settles what was charged.
        let books = [Booked { outcome: outcome(String::new()), ..entry("0xa/one", 0, &[]) }];
        assert_eq!(whats(&judged(&books, [], Facts::default()).violations), [What::Transfer]);
        let books = [Booked { amount: Amount::ZERO, ..books[0].clone() }];
        let nothing = judged(&books, [], Facts::default());
        assert_eq!((nothing.uncharged, nothing.violations), (1, vec![]));
    }
}
