//! One coherence check: what the chain says from block 0 equals what every role has in its books.
//!
//! The chain is read from logs and balances, never from what a role remembers. Token amounts are
//! compared to the atomic unit, gas to the wei.

use std::collections::HashMap;
use std::fmt;

use alloy::primitives::{Address, B256, U256};
use alloy::providers::{DynProvider, Provider as _};
use alloy::rpc::types::Filter;
use alloy::sol;
use alloy::sol_types::{SolCall as _, SolEvent as _};
use pay402_core::asset::AssetId;
use pay402_core::grants::{GrantState, Grants};
use pay402_core::journal::{Delivery, Journal, Outcome, Stage};
use pay402_core::spend::Ledger;
use pay402_core::{Amount, NetworkId, PaymentKey};

sol! {
    event Transfer(address indexed from, address indexed to, uint256 value);
    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
    function balanceOf(address account) external view returns (uint256);
}

/// Blocks whose logs are asked for at once.
const LOGS_BLOCKS: usize = 32;

/// Whose books are compared, and against which token.
#[derive(Debug)]
pub struct Accounts {
    /// The network.
    pub network: NetworkId,
    /// The token that is paid with.
    pub token: Address,
    /// Who pays.
    pub payer: Address,
    /// Who is paid.
    pub payee: Address,
    /// Who sends the transactions.
    pub signer: Address,
}

/// The books of the three roles.
pub struct Books<'a> {
    /// The payer's.
    pub ledger: &'a dyn Ledger,
    /// The resource server's.
    pub grants: &'a dyn Grants,
    /// The facilitator's.
    pub journal: &'a dyn Journal,
}

/// What was compared and found equal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Coherent {
    /// Payments found on the chain, each in all three books.
    pub payments: usize,
    /// What the payer paid, in atomic units: by balances, by logs and by its ledger.
    pub paid: Amount,
    /// What the payee received, in atomic units: by balances and by logs.
    pub received: Amount,
    /// What the signer spent on gas, in wei: by its balance and by the journal.
    pub gas: Amount,
}

/// Books that do not agree.
#[derive(Debug)]
pub struct Incoherent(String);

impl fmt::Display for Incoherent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Incoherent {}

macro_rules! same {
    ($what:expr, $one:expr, $other:expr) => {
        let (one, other) = (&$one, &$other);
        if one != other {
            return Err(Incoherent(format!("{}: {one:?} is not {other:?}", $what)));
        }
    };
}

/// Compares all books with the chain.
///
/// # Errors
/// The first pair of figures that is not equal, or what could not be read.
pub async fn compare(
    chain: &DynProvider,
    accounts: &Accounts,
    books: &Books<'_>,
) -> Result<Coherent, Incoherent> {
    let used = used(chain, accounts).await?;
    let (mut paid, mut gas) = (U256::ZERO, U256::ZERO);
    for (nonce, transaction) in &used {
        let key = payment_key(accounts, *nonce);
        let transaction = format!("{transaction:#x}");
        gas += settled_in_journal(books.journal, &key, &transaction).await?;
        let state = books.grants.state(&key).await.map_err(unreadable)?;
        let Some(GrantState::Delivered { transaction: granted, .. }) = state else {
            return Err(Incoherent(format!("{key} was settled but not delivered: {state:?}")));
        };
        same!(format!("grant of {key}"), granted, transaction);
    }
    for log in transfers(chain, accounts).await? {
        if log.from == accounts.payer {
            same!("payee of a transfer", log.to, accounts.payee);
            paid += log.value;
        }
    }
    let moved = |before: U256, after: U256| before.abs_diff(after);
    let payer = balances(chain, accounts, accounts.payer).await?;
    let payee = balances(chain, accounts, accounts.payee).await?;
    same!("payer's balance and its transfers", moved(payer.0, payer.1), paid);
    same!("payee's balance and the transfers to it", moved(payee.0, payee.1), paid);

    let asset = AssetId::new(accounts.network.clone(), &format!("{:#x}", accounts.token));
    let name = format!("{:#x}", accounts.payer);
    let spent = books.ledger.spent(&name, &asset).await.map_err(unreadable)?;
    same!("posted in the ledger and paid on chain", spent.posted, Amount::new(paid));
    same!("still reserved in the ledger", spent.reserved, Amount::ZERO);

    let wei = |block: u64| chain.get_balance(accounts.signer).number(block);
    let head = chain.get_block_number().await.map_err(unreadable)?;
    let before = wei(0).await.map_err(unreadable)?;
    let after = wei(head).await.map_err(unreadable)?;
    same!("signer's wei and the fees in the journal", moved(before, after), gas);
    Ok(Coherent {
        payments: used.len(),
        paid: Amount::new(paid),
        received: Amount::new(moved(payee.0, payee.1)),
        gas: Amount::new(gas),
    })
}

/// Whose payments are compared where only a facilitator's books are looked at.
#[derive(Debug)]
pub struct Town {
    /// The network.
    pub network: NetworkId,
    /// The token that is paid with.
    pub token: Address,
    /// Who is paid, and by nothing but these payments.
    pub payee: Address,
    /// Who sends the transactions, and nothing else.
    pub signers: Vec<Address>,
}

/// Compares the facilitator's journal with the chain: of `payments`, which are all that were ever
/// presented, just those were settled that the chain shows, by the transaction that it shows; the payee
/// received what the journal says was charged, and the signers spent what it says that they did.
///
/// # Errors
/// The first pair of figures that is not equal, or what could not be read.
pub async fn compare_town(
    chain: &DynProvider,
    town: &Town,
    journal: &dyn Journal,
    payments: &[PaymentKey],
) -> Result<Coherent, Incoherent> {
    let mut used = used_by_all(chain, town).await?;
    let (mut charged, mut gas, mut settled) = (U256::ZERO, U256::ZERO, 0);
    for key in payments {
        let Some(entry) = journal.find(key).await.map_err(unreadable)? else { continue };
        match entry.stage {
            Stage::Final(Outcome::Settled { transaction, fee, .. }) => {
                same!(format!("transaction of {key}"), Some(transaction), used.remove(key));
                charged += entry.new.amount.to_u256();
                gas += fee.to_u256();
                settled += 1;
            }
            Stage::Final(Outcome::Failed { fee, .. }) => gas += fee.to_u256(),
            open => return Err(Incoherent(format!("{key} is not final: {open:?}"))),
        }
    }
    gas += cancellations(town, journal).await?;
    if let Some((key, transaction)) = used.iter().next() {
        let problem = format!("{key} is on the chain, in {transaction}, and not settled");
        return Err(Incoherent(problem));
    }
    let (before, after) = token_balances(chain, town.token, town.payee).await?;
    same!("received by the payee and charged in the journal", after.abs_diff(before), charged);
    let head = chain.get_block_number().await.map_err(unreadable)?;
    let mut spent = U256::ZERO;
    for signer in &town.signers {
        let before = chain.get_balance(*signer).number(0).await.map_err(unreadable)?;
        let after = chain.get_balance(*signer).number(head).await.map_err(unreadable)?;
        spent += before.abs_diff(after);
    }
    same!("signers' wei and the fees in the journal", spent, gas);
    let (paid, received) = (Amount::new(charged), Amount::new(charged));
    Ok(Coherent { payments: settled, paid, received, gas: Amount::new(gas) })
}

/// What nonces cost that were cancelled since nobody held the bytes for them, in wei.
async fn cancellations(town: &Town, journal: &dyn Journal) -> Result<U256, Incoherent> {
    let books = journal.books(&town.network, 0, usize::MAX).await.map_err(unreadable)?;
    let cancelled = books.into_iter().filter(|booked| booked.key.asset() == "cancel");
    Ok(cancelled.fold(U256::ZERO, |sum, booked| match booked.outcome {
        Some(Outcome::Settled { fee, .. } | Outcome::Failed { fee, .. }) => sum + fee.to_u256(),
        Some(Outcome::Reverted { .. }) | None => sum,
    }))
}

/// The transaction of every authorization that the token saw used, by the payment's key.
async fn used_by_all(
    chain: &DynProvider,
    town: &Town,
) -> Result<HashMap<PaymentKey, String>, Incoherent> {
    let head = chain.get_block_number().await.map_err(unreadable)?;
    let signature = AuthorizationUsed::SIGNATURE_HASH;
    let mut used = HashMap::new();
    // A node shows so many logs at a time.
    for from in (0..=head).step_by(LOGS_BLOCKS) {
        let to = from + LOGS_BLOCKS as u64 - 1;
        let filter = Filter::new().address(town.token).event_signature(signature);
        let filter = filter.from_block(from).to_block(to.min(head));
        for log in chain.get_logs(&filter).await.map_err(unreadable)? {
            let seen = AuthorizationUsed::decode_log(&log.inner).map_err(unreadable)?.data;
            let (payer, nonce) = (format!("{:#x}", seen.authorizer), format!("{:#x}", seen.nonce));
            let key = PaymentKey::new(&town.network, &format!("{:#x}", town.token), &payer, &nonce);
            let transaction = log.transaction_hash.ok_or_else(|| unreadable("a log of nothing"))?;
            if used.insert(key.clone(), format!("{transaction:#x}")).is_some() {
                return Err(Incoherent(format!("{key} was used twice")));
            }
        }
    }
    Ok(used)
}

/// The key of a payment, from what the chain says about it.
pub fn payment_key(accounts: &Accounts, nonce: B256) -> PaymentKey {
    PaymentKey::new(
        &accounts.network,
        &format!("{:#x}", accounts.token),
        &format!("{:#x}", accounts.payer),
        &format!("{nonce:#x}"),
    )
}

async fn settled_in_journal(
    journal: &dyn Journal,
    key: &PaymentKey,
    transaction: &str,
) -> Result<U256, Incoherent> {
    let entry = journal.find(key).await.map_err(unreadable)?;
    let Some(entry) = entry else {
        return Err(Incoherent(format!("{key} is on the chain but not in the journal")));
    };
    let Stage::Final(Outcome::Settled { transaction: settled, fee, .. }) = &entry.stage else {
        return Err(Incoherent(format!("{key} is on the chain but not settled in the journal")));
    };
    same!(format!("transaction of {key}"), settled, transaction);
    same!(format!("delivery of {key}"), entry.delivery, Delivery::Delivered);
    Ok(fee.to_u256())
}

/// Nonce and transaction of every authorization of the payer that the token saw used.
async fn used(chain: &DynProvider, accounts: &Accounts) -> Result<Vec<(B256, B256)>, Incoherent> {
    let filter = Filter::new()
        .address(accounts.token)
        .event_signature(AuthorizationUsed::SIGNATURE_HASH)
        .topic1(accounts.payer)
        .from_block(0);
    let logs = chain.get_logs(&filter).await.map_err(unreadable)?;
    logs.iter()
        .map(|log| {
            let nonce = log.topics().get(2).copied();
            nonce
                .zip(log.transaction_hash)
                .ok_or_else(|| Incoherent("a log without nonce or transaction".into()))
        })
        .collect()
}

async fn transfers(chain: &DynProvider, accounts: &Accounts) -> Result<Vec<Transfer>, Incoherent> {
    let filter = Filter::new()
        .address(accounts.token)
        .event_signature(Transfer::SIGNATURE_HASH)
        .from_block(0);
    let logs = chain.get_logs(&filter).await.map_err(unreadable)?;
    logs.iter()
        .map(|log| Transfer::decode_log(&log.inner).map(|log| log.data).map_err(unreadable))
        .collect()
}

/// The token balance of an account at block 0 and at the head.
///
/// # Errors
/// What could not be read.
pub async fn balances(
    chain: &DynProvider,
    accounts: &Accounts,
    account: Address,
) -> Result<(U256, U256), Incoherent> {
    token_balances(chain, accounts.token, account).await
}

async fn token_balances(
    chain: &DynProvider,
    token: Address,
    account: Address,
) -> Result<(U256, U256), Incoherent> {
    let head = chain.get_block_number().await.map_err(unreadable)?;
    let mut found = [U256::ZERO; 2];
    for (balance, block) in found.iter_mut().zip([0, head]) {
        let call = alloy::rpc::types::TransactionRequest::default()
            .to(token)
            .input(balanceOfCall { account }.abi_encode().into());
        let answer = chain.call(call).block(block.into()).await.map_err(unreadable)?;
        *balance = balanceOfCall::abi_decode_returns(&answer).map_err(unreadable)?;
    }
    Ok((found[0], found[1]))
}

fn unreadable(error: impl fmt::Display) -> Incoherent {
    Incoherent(format!("cannot be read: {error}"))
}
