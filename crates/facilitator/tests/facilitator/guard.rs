//! What settling a payment may cost, beside what it pays.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alloy::consensus::Transaction as _;
use alloy::primitives::U256;
use alloy::providers::Provider as _;
use pay402_core::facilitator::Verdict;
use pay402_core::time::{Clock as _, SystemClock, UnixTime};
use pay402_core::{Amount, NetworkId, Payment, Refusal, Refused};
use pay402_devchain::genesis::{DEV_ACCOUNTS, PACKER_ADDRESS, USDC_ADDRESS};
use pay402_devchain::{Devchain, Mining};
use pay402_evm::network::pack::PackSettings;
use pay402_evm::{Guard, Rate, Rpc, RpcEnd, RpcWatch, Settings, Stale};
use pay402_facilitator::{Engine, Options};

use crate::bed::{Bed, LONG, SHORT, done, options, pending, refused, settle, until};
use crate::chain::EXPIRES;
use crate::evm::{
    CHAIN_ID, PRICE, SIGNERS, balance, chain, payee, payment, payment_by, start_served,
};

/// In wei: gas that eats a payment up.
const DEAR: u64 = 50_000_000_000;
/// In wei: what half of a payment is worth where a coin is worth ten dollars.
const HALF: u64 = 500_000_000_000_000;
const DAY_S: u64 = 24 * 60 * 60;

/// Who pay at once.
const PAYERS: usize = 5;

/// A transaction that is not mined.
#[derive(Clone, Copy, Debug)]
struct Offer {
    is_pack: bool,
    /// What it may cost, in wei.
    cost: u128,
}

/// Counts the questions to the node.
#[derive(Default)]
struct Counter(AtomicUsize);

impl RpcWatch for Counter {
    fn ended(&self, _method: &'static str, _end: RpcEnd) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Guarded {
    chain: Devchain,
    engine: Engine,
    asked: Arc<Counter>,
    _folder: tempfile::TempDir,
}

impl Guarded {
    async fn start(guard: Guard, options: Options, packing: PackSettings) -> Self {
        let (chain, folder) = (chain(), tempfile::tempdir().unwrap());
        let journal: PathBuf = folder.path().join("journal.db");
        let asked = Arc::new(Counter::default());
        let rpc = Rpc::over(&NetworkId::eip155(CHAIN_ID), &chain.rpc_client());
        let rpc = rpc.watched(Arc::clone(&asked) as _);
        let settings = Settings { guard, packing, ..Settings::default() };
        let engine = start_served(rpc, &journal, options, settings).await;
        Self { chain, engine, asked, _folder: folder }
    }

    async fn alone(guard: Guard) -> Self {
        let packing = PackSettings { wait: None, ..PackSettings::default() };
        Self::start(guard, options(), packing).await
    }

    fn asked(&self) -> usize {
        self.asked.0.load(Ordering::SeqCst)
    }

    async fn verify(&self, payment: &Payment) -> Result<(), Refused> {
        match self.engine.verify_for(None, payment).await.unwrap() {
            Verdict::Valid { .. } => Ok(()),
            Verdict::Invalid(refused) => Err(refused),
        }
    }

    /// Has blocks ask for so much, from the next one on.
    async fn gas_costs(&self, wei: u64) {
        self.chain.set_next_base_fee(wei);
        self.chain.mine(1);
        // Fees are believed for half a second.
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    }

    /// Presents payments of so many payers while nothing is mined, and gives the transactions that carry them.
    async fn pooled(&self, payers: usize) -> Vec<Offer> {
        self.chain.set_mining(Mining::Manual);
        let mut asked = Vec::new();
        for payer in 2..2 + payers {
            let payment = payment_by(payer, u64::try_from(payer).unwrap()).await;
            let engine = self.engine.clone();
            asked.push(tokio::spawn(async move { settle(&engine, payment, SHORT).await }));
        }
        for one in asked {
            pending(one.await.unwrap());
        }
        // Until what waits for others is signed as well.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let mut offers = Vec::new();
        for hash in self.chain.pending_transactions() {
            let found = self.chain.provider().get_transaction_by_hash(hash).await.unwrap().unwrap();
            let gas = u128::from(found.inner.gas_limit());
            let cost = gas * found.inner.max_fee_per_gas();
            offers.push(Offer { is_pack: found.inner.to() == Some(PACKER_ADDRESS), cost });
        }
        offers
    }

    async fn sent(&self) -> u64 {
        let mut all = 0;
        for signer in SIGNERS {
            let provider = self.chain.provider();
            all += provider.get_transaction_count(DEV_ACCOUNTS[signer]).await.unwrap();
        }
        all
    }
}

/// A coin is worth ten dollars, as of so many days ago; half of a payment may be spent on its gas.
fn half(days_ago: u64) -> Guard {
    let at = SystemClock.now().minus_s(days_ago * DAY_S);
    let rate = Rate { token: USDC_ADDRESS, per_coin: U256::from(10_000_000), at };
    Guard { cost_percent_max: Some(50), rates: vec![rate], ..Guard::default() }
}

#[tokio::test]
async fn what_would_cost_too_much_is_refused_until_gas_is_cheap_again() {
    let guarded = Guarded::alone(half(0)).await;
    let (first, second) = (payment(1).await, payment(2).await);
    guarded.verify(&first).await.unwrap();
    done(&settle(&guarded.engine, first, LONG).await);
    guarded.gas_costs(DEAR).await;
    let told = guarded.verify(&second).await.unwrap_err();
    assert!(told.reason.is(Refusal::SettlementTooCostly), "{told}");
    for figure in ["settling 0.01 USDC", "wei of gas (", "10 USDC for the network's coin on 20"] {
        assert!(told.message.contains(figure), "{told}");
    }
    assert!(told.message.contains(&format!("{HALF} wei is the most")), "{told}");
    assert!(told.payer.is_some());
    let settled = settle(&guarded.engine, second.clone(), LONG).await;
    refused(settled, Refusal::SettlementTooCostly);
    assert_eq!(guarded.sent().await, 1, "it was sent");
    guarded.gas_costs(1_000_000_000).await;
    done(&settle(&guarded.engine, second, LONG).await);
    assert_eq!(balance(&guarded.chain, payee()).await, U256::from(2 * PRICE));
}

#[tokio::test]
async fn an_old_rate_lets_nothing_through_unless_it_is_said_to() {
    let guarded = Guarded::alone(half(8)).await;
    let paid = payment(1).await;
    let told = guarded.verify(&paid).await.unwrap_err();
    assert!(told.reason.is(Refusal::SettlementTooCostly), "{told}");
    for setting in ["network.rate[0]", "network.guard.rate_age_max_h"] {
        assert!(told.message.contains(setting), "{told}");
    }
    refused(settle(&guarded.engine, paid.clone(), LONG).await, Refusal::SettlementTooCostly);
    let guarded = Guarded::alone(Guard { stale: Stale::Use, ..half(8) }).await;
    done(&settle(&guarded.engine, paid, LONG).await);
}

#[tokio::test]
async fn dust_is_refused_before_the_chain_is_asked() {
    let least = vec![(USDC_ADDRESS, U256::from(PRICE + 1))];
    let guarded = Guarded::alone(Guard { least, ..Guard::default() }).await;
    let (paid, asked) = (payment(1).await, guarded.asked());
    let told = guarded.verify(&paid).await.unwrap_err();
    assert!(told.reason.is(Refusal::AmountTooSmall), "{told}");
    assert!(told.message.contains("0.010001"), "{told}");
    refused(settle(&guarded.engine, paid.clone(), LONG).await, Refusal::AmountTooSmall);
    assert_eq!(guarded.asked(), asked, "the chain was asked");
    let least = vec![(USDC_ADDRESS, U256::from(PRICE))];
    let guarded = Guarded::alone(Guard { least, ..Guard::default() }).await;
    done(&settle(&guarded.engine, paid, LONG).await);
}

#[tokio::test]
async fn no_offer_may_cost_more_than_the_payment_may_replacements_included() {
    let hurried = Options { replace_first: std::time::Duration::from_millis(30), ..options() };
    let packing = PackSettings { wait: None, ..PackSettings::default() };
    let guarded = Guarded::start(half(0), hurried, packing).await;
    let chain = &guarded.chain;
    chain.set_mining(Mining::Manual);
    let paid = payment(1).await;
    pending(settle(&guarded.engine, paid.clone(), SHORT).await);
    let waiting = || chain.pending_transactions().first().copied();
    until("it is sent", || async { waiting().is_some() }).await;
    let first = waiting();
    chain.set_next_base_fee(DEAR);
    chain.mine(1);
    until("it is replaced", || async { waiting() != first }).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let most = waiting().unwrap();
    let offered = chain.provider().get_transaction_by_hash(most).await.unwrap().unwrap();
    let gas = u128::from(offered.inner.gas_limit());
    let cost = gas * offered.inner.max_fee_per_gas();
    assert!(cost <= u128::from(HALF), "{cost} wei");
    assert!(cost + gas > u128::from(HALF), "{cost} wei is less than it may be");
    // On its way, it is not called too costly.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    guarded.verify(&paid).await.unwrap();
    chain.set_next_base_fee(1_000_000_000);
    chain.mine(1);
    assert_eq!(done(&settle(&guarded.engine, paid, LONG).await), most.to_string());
}

#[tokio::test]
async fn a_bound_in_wei_needs_no_rate() {
    let guard = Guard { cost_wei_max: Some(u128::from(HALF)), ..Guard::default() };
    let guarded = Guarded::alone(guard).await;
    done(&settle(&guarded.engine, payment(1).await, LONG).await);
    guarded.gas_costs(DEAR).await;
    let told = guarded.verify(&payment(2).await).await.unwrap_err();
    assert!(told.reason.is(Refusal::SettlementTooCostly), "{told}");
    assert!(!told.message.contains("on 20"), "{told}");
}

#[tokio::test]
async fn who_may_not_bear_a_share_of_a_pack_goes_alone() {
    let packing = PackSettings {
        wait: Some(std::time::Duration::from_millis(300)),
        ..PackSettings::default()
    };
    let alone = Guarded::alone(Guard::default()).await;
    let offers = alone.pooled(1).await;
    let [Offer { cost: most, .. }] = offers[..] else { panic!("{offers:?}") };
    let wide = Guarded::start(Guard::default(), options(), packing).await;
    assert!(wide.pooled(PAYERS).await.iter().any(|offer| offer.is_pack), "nothing is packed");
    // Enough for the next block, and too little for all that a pack offers for the blocks after it.
    let bound = most / 4 * 3;
    let guard = Guard { cost_wei_max: Some(bound), ..Guard::default() };
    let tight = Guarded::start(guard, options(), packing).await;
    let offers = tight.pooled(PAYERS).await;
    assert_eq!(offers.len(), PAYERS, "{offers:?}");
    for offer in offers {
        assert!(!offer.is_pack && offer.cost <= bound, "{offer:?} of {bound}");
    }
    tight.chain.set_mining(Mining::Instant);
    tight.chain.mine(1);
    let paid = U256::from(PRICE * u64::try_from(PAYERS).unwrap());
    until("all are settled", || async { balance(&tight.chain, payee()).await == paid }).await;
}

#[tokio::test]
async fn what_has_expired_is_cancelled_whatever_it_was_to_cost() {
    let bed = Bed::new();
    let (first, max) = (std::time::Duration::from_millis(20), std::time::Duration::from_millis(40));
    let hurried = Options { replace_first: first, replace_max: max, ..options() };
    let engine = bed.start_with(hurried).await;
    {
        let mut state = bed.chain.state();
        state.automine = false;
        state.cost_max = [(crate::chain::key("1"), 9_000)].into();
    }
    pending(settle(&engine, crate::chain::payment("1"), SHORT).await);
    let bound = || bed.chain.state().replacement_bound;
    until("a replacement is asked for", || async { bound().is_some() }).await;
    assert_eq!(bound(), Some(Some(Amount::from(9_000_u64))));
    bed.clock.set(UnixTime(EXPIRES));
    tokio::time::sleep(first * 2).await;
    let asked = bed.chain.state().replacements;
    tokio::time::sleep(max * 4).await;
    assert_eq!(bed.chain.state().replacements, asked, "more is offered for what can only fail");
    bed.chain.state().time = EXPIRES;
    let is_cancelled =
        || async { bed.chain.state().handed.iter().any(|tx| tx.authorizations.is_empty()) };
    until("it is cancelled", is_cancelled).await;
    bed.chain.state().mine();
    refused(settle(&engine, crate::chain::payment("1"), LONG).await, Refusal::ValidBefore);
    let standing = engine.status(&crate::chain::key("1")).await.unwrap().unwrap();
    assert_eq!(standing.fee, Amount::from(bed.chain.state().spent));
    assert!(standing.fee > Amount::from(9_000_u64), "the guard held it back");
}
