//! Transactions and plans, as their bytes say.

use pay402_core::Digest;
use pay402_core::network::{SecretBytes, SignedTransaction};

/// One payment of a transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Item {
    pub(super) key: String,
    pub(super) payer: String,
    pub(super) amount: u64,
    pub(super) expires: u64,
}

/// A signed transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Tx {
    pub(super) signer: String,
    pub(super) nonce: u64,
    /// What it offers for its gas.
    pub(super) level: u64,
    pub(super) items: Vec<Item>,
    pub(super) hash: String,
}

impl Tx {
    pub(super) fn read(raw: &SecretBytes) -> Self {
        let text = std::str::from_utf8(raw.expose()).expect("bytes of ours");
        let lines: Vec<&str> = text.lines().collect();
        let number = |index: usize| lines[index].parse().expect("a number of ours");
        // A cancellation carries nothing out.
        let items = lines[3..].chunks(4).filter(|lines| lines.len() == 4).map(item).collect();
        let (signer, hash) = (lines[0].to_owned(), hash_of(raw.expose()));
        Self { signer, nonce: number(1), level: number(2), items, hash }
    }

    /// What it costs.
    pub(super) fn fee(&self) -> u64 {
        fee(self.items.len(), self.level)
    }
}

fn item(lines: &[&str]) -> Item {
    let number = |index: usize| lines[index].parse().expect("a number of ours");
    Item { key: lines[0].into(), payer: lines[1].into(), amount: number(2), expires: number(3) }
}

pub(super) fn plan_of(plan: &SecretBytes) -> Item {
    let text = std::str::from_utf8(plan.expose()).expect("a plan of ours");
    item(&text.lines().collect::<Vec<_>>())
}

/// The signer and the nonce of a plan that only consumes it.
pub(super) fn cancelled(plan: &SecretBytes) -> Option<(String, u64)> {
    let text = std::str::from_utf8(plan.expose()).expect("a plan of ours");
    let (signer, nonce) = text.strip_prefix("cancel ")?.trim_end().split_once(' ')?;
    Some((signer.to_owned(), nonce.parse().expect("a number of ours")))
}

/// Whether a payment is left out of every pack: it needs more gas than it gets there.
pub(super) fn is_unlucky(item: &Item) -> bool {
    Digest::of(&[item.key.as_bytes(), &item.expires.to_be_bytes()]).0[0] < 32
}

pub(super) fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("a small pack")
}

/// Odd, so that shares differ.
fn fee(items: usize, level: u64) -> u64 {
    let items = items as u64;
    let gas = if items == 1 { 21_000 } else { 10_001 + 5_003 * items };
    gas * (level + 1)
}

pub(super) fn hash_of(bytes: &[u8]) -> String {
    let hex: String = Digest::of(&[bytes]).0[..16].iter().map(|b| format!("{b:02x}")).collect();
    format!("0x{hex}")
}

pub(super) fn signed(raw: String) -> SignedTransaction {
    let transaction = hash_of(raw.as_bytes());
    SignedTransaction { transaction, raw: SecretBytes::new(raw.into_bytes()) }
}
