//! Transactions of which all has expired before they were mined: cancelled on the embedded EVM, with the books
//! held against the chain to the wei.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::consensus::Transaction as _;
use alloy::eips::Encodable2718 as _;
use alloy::primitives::{B256, Bytes, U256, keccak256};
use alloy::providers::Provider as _;
use alloy::rpc::types::Transaction;
use pay402_core::journal::{Entry, Journal as _, Outcome, Stage};
use pay402_core::network::Network;
use pay402_core::time::{Clock as _, ManualClock, UnixTime};
use pay402_core::{Amount, NetworkId, Payment, PaymentKey, Refusal};
use pay402_devchain::genesis::{DEV_ACCOUNTS, USDC_ADDRESS, dev_signer};
use pay402_devchain::{Config, Devchain, Mining, ReorgTransactions};
use pay402_evm::network::pack::PackSettings;
use pay402_evm::network::sight::FINALITY_MARGIN_S;
use pay402_evm::{AssetTable, EvmNetwork, Rpc, Settings};
use pay402_facilitator::api::{Access, router};
use pay402_facilitator::failpoint::{Failpoint, Failpoints};
use pay402_facilitator::{Engine, Options};
use pay402_store::SqliteJournal;

use crate::audit;
use crate::bed::{LONG, SHORT, done, options, pending, refused, settle, until};
use crate::evm::{CHAIN_ID, PRICE, balance, payee, payment_for};

/// When the chain begins.
const START: u64 = 1_795_000_000;
/// Sends transactions: one lane, so that everything waits for everything before it.
const SIGNER: usize = 0;
/// How long payments are good that expire here, and one that does not, in seconds.
const BRIEF_S: u64 = 30;
const LONG_S: u64 = 3_000;
/// In wei: what the first offer does not reach, and what a higher one does.
const DEAR: u64 = 50_000_000_000;
/// In wei: more than the operator pays for anything.
const TOO_DEAR: u64 = 300_000_000_000;
/// In wei: what every offer reaches.
const CHEAP: u64 = 1_000_000_000;

/// One chain that makes blocks when it is told to, one journal, one clock.
struct Site {
    chain: Devchain,
    clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(UnixTime(START)));
        let ticking = Arc::clone(&clock);
        let chain = Devchain::start(Config {
            chain_id: CHAIN_ID,
            clock: Arc::new(move || ticking.now().0),
            ..Config::default()
        });
        chain.set_mining(Mining::Manual);
        Self { chain, clock, folder: tempfile::tempdir().unwrap() }
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("journal.db")
    }

    /// An engine that packs what comes within so long.
    async fn start_packing(&self, options: Options, wait: Option<Duration>) -> Engine {
        let packing = PackSettings { wait, ..PackSettings::default() };
        let network = EvmNetwork::new(
            NetworkId::eip155(CHAIN_ID),
            Rpc::over(&NetworkId::eip155(CHAIN_ID), &self.chain.rpc_client()),
            vec![dev_signer(SIGNER)],
            AssetTable::defaults(),
            Arc::clone(&self.clock) as _,
            Settings { packing, ..Settings::default() },
        );
        let networks: Vec<Arc<dyn Network>> = vec![Arc::new(network.unwrap())];
        let journal = Arc::new(SqliteJournal::open(self.journal()).unwrap());
        Engine::start(networks, journal, Arc::clone(&self.clock) as _, options).await.unwrap()
    }

    async fn start(&self, options: Options) -> Engine {
        self.start_packing(options, None).await
    }

    /// Ends an engine as a crash would. Its lease has run out.
    fn crash(&self, engine: Engine) {
        engine.crash();
        drop(engine);
        self.pass(4);
    }

    fn pass(&self, seconds: u64) {
        self.clock.set(self.clock.now().plus_s(seconds));
    }

    /// Has the next block ask for so much, and makes it.
    fn block_at(&self, wei: u64) {
        self.chain.set_next_base_fee(wei);
        self.chain.mine(1);
    }

    /// Lets the end of brief payments go by for good, in blocks that ask for so much.
    fn expire_at(&self, wei: u64) {
        self.pass(BRIEF_S + FINALITY_MARGIN_S);
        self.block_at(wei);
    }

    async fn payment(&self, payer: usize, number: u64, seconds: u64) -> Payment {
        payment_for(payer, number, self.clock.now(), seconds).await
    }

    /// Presents payments at once, and waits until all are in the node's pool.
    async fn present(&self, engine: &Engine, payments: &[&Payment]) {
        let mut asked = Vec::new();
        for payment in payments {
            let (engine, payment) = (engine.clone(), (*payment).clone());
            asked.push(tokio::spawn(async move { settle(&engine, payment, SHORT).await }));
        }
        for one in asked {
            pending(one.await.unwrap());
        }
        until("all are sent", || async {
            let mut sent = 0;
            for payment in payments {
                let stage = self.entry(payment).await.stage;
                sent += usize::from(matches!(stage, Stage::Sent(_)));
            }
            sent == payments.len()
        })
        .await;
    }

    async fn pool(&self) -> Vec<Transaction> {
        let mut pool = Vec::new();
        for hash in self.chain.pending_transactions() {
            let found = self.chain.provider().get_transaction_by_hash(hash).await.unwrap();
            pool.extend(found);
        }
        pool
    }

    /// The hash of the transaction that waits with this nonce, and whether it cancels.
    async fn waiting(&self, nonce: u64) -> Option<(B256, bool)> {
        let pool = self.pool().await;
        let found = pool.into_iter().find(|it| it.inner.nonce() == nonce)?;
        Some((*found.inner.tx_hash(), found.inner.to() == Some(DEV_ACCOUNTS[SIGNER])))
    }

    /// Waits until what has this nonce is cancelled, and gives the cancellation.
    async fn cancelled(&self, nonce: u64) -> B256 {
        let is_cancelled =
            || async { self.waiting(nonce).await.is_some_and(|(_, cancels)| cancels) };
        until("it is cancelled", is_cancelled).await;
        self.waiting(nonce).await.unwrap().0
    }

    async fn entry(&self, payment: &Payment) -> Entry {
        let journal = SqliteJournal::look(self.journal()).unwrap();
        journal.find(&key(payment)).await.unwrap().unwrap()
    }

    /// How it failed, and the fee in the books; once it did.
    async fn failed(&self, payment: &Payment) -> (String, U256) {
        let is_final = || async { matches!(self.entry(payment).await.stage, Stage::Final(_)) };
        until("it is over", is_final).await;
        match self.entry(payment).await.stage {
            Stage::Final(Outcome::Failed { reason, fee, .. }) => (reason, fee.to_u256()),
            other => panic!("{other:?}"),
        }
    }

    /// What a transaction cost, and its gas.
    async fn cost(&self, hash: B256) -> (U256, u64) {
        let receipt = self.chain.provider().get_transaction_receipt(hash).await.unwrap().unwrap();
        let price = receipt.effective_gas_price;
        (U256::from(price) * U256::from(receipt.gas_used), receipt.gas_used)
    }

    async fn is_used(&self, payment: &Payment) -> bool {
        let authorization = &payment.presented().payload["authorization"];
        let word = |field: &str| authorization[field].as_str().unwrap().to_owned();
        let payer: alloy::primitives::Address = word("from").parse().unwrap();
        let nonce: B256 = word("nonce").parse().unwrap();
        let selector = &keccak256("authorizationState(address,bytes32)")[..4];
        let data = [selector, payer.into_word().as_slice(), nonce.as_slice()].concat();
        let call = serde_json::json!([{"to": USDC_ADDRESS, "data": Bytes::from(data)}, "latest"]);
        let used = self.chain.provider().raw_request::<_, U256>("eth_call".into(), call).await;
        !used.unwrap().is_zero()
    }

    async fn nonces(&self) -> u64 {
        self.chain.provider().get_transaction_count(DEV_ACCOUNTS[SIGNER]).await.unwrap()
    }

    async fn proven(&self) {
        audit::proven(&self.chain, &self.journal()).await;
    }
}

fn key(payment: &Payment) -> PaymentKey {
    let authorization = &payment.presented().payload["authorization"];
    let text = |field: &str| authorization[field].as_str().unwrap().to_lowercase();
    let token = USDC_ADDRESS.to_string().to_lowercase();
    PaymentKey::new(&NetworkId::eip155(CHAIN_ID), &token, &text("from"), &text("nonce"))
}

fn hurried() -> Options {
    Options {
        replace_first: Duration::from_millis(30),
        replace_max: Duration::from_millis(60),
        lease: Duration::from_secs(3),
        watch_every: Duration::from_millis(5),
        ..options()
    }
}

fn expired() -> String {
    Refusal::ValidBefore.code().to_owned()
}

#[tokio::test]
async fn what_expires_while_fees_are_too_dear_is_cancelled_and_the_lane_goes_on() {
    let site = Site::new();
    let engine = site.start(hurried()).await;
    let brief = site.payment(2, 1, BRIEF_S).await;
    let lasting = site.payment(3, 2, LONG_S).await;
    site.present(&engine, &[&brief]).await;
    site.present(&engine, &[&lasting]).await;
    let (first, _) = site.waiting(0).await.unwrap();
    site.block_at(TOO_DEAR);
    until("more is offered", || async { site.waiting(0).await.unwrap().0 != first }).await;
    // As far as payments go, and no further.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (most, cancels) = site.waiting(0).await.unwrap();
    let offered = site.chain.provider().get_transaction_by_hash(most).await.unwrap().unwrap();
    assert_eq!((offered.inner.max_fee_per_gas(), cancels), (177_777_777_777, false));
    // Past its end by our clock, and not yet for good by the chain's.
    site.pass(BRIEF_S + 1);
    site.block_at(TOO_DEAR);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(site.waiting(0).await, Some((most, false)), "made dearer to fail");
    site.pass(FINALITY_MARGIN_S);
    site.block_at(TOO_DEAR);
    let cancellation = site.cancelled(0).await;
    let found = site.chain.provider().get_transaction_by_hash(cancellation).await.unwrap();
    let found = found.unwrap().inner;
    assert_eq!((found.gas_limit(), found.value(), found.input().len()), (21_000, U256::ZERO, 0));
    assert_eq!(found.max_fee_per_gas(), 200_000_000_000, "the operator's bound");
    site.block_at(CHEAP);
    let (cost, gas) = site.cost(cancellation).await;
    assert_eq!(gas, 21_000);
    assert_eq!(site.failed(&brief).await, (expired(), cost));
    refused(settle(&engine, brief.clone(), LONG).await, Refusal::ValidBefore);
    done(&settle(&engine, lasting, LONG).await);
    assert!(!site.is_used(&brief).await);
    assert_eq!(balance(&site.chain, payee()).await, U256::from(PRICE));
    assert_eq!(site.nonces().await, 2);
    site.proven().await;
    let figures = crate::metrics::scrape(&router(engine, Access::Open)).await;
    let name = "x402_transactions_cancelled_total{network=\"eip155:84532\"}";
    assert_eq!(figures.get(name), Some(&1.0));
}

/// What offers enough by the bounds of payments, and waits for another reason, is replaced as soon as little time
/// is left.
#[tokio::test]
async fn a_deadline_has_fees_looked_at_sooner() {
    let site = Site::new();
    let usual = Options { replace_first: LONG, lease: Duration::from_secs(3), ..options() };
    let engine = site.start(usual).await;
    let brief = site.payment(2, 1, 10).await;
    site.present(&engine, &[&brief]).await;
    let (first, _) = site.waiting(0).await.unwrap();
    let begun = Instant::now();
    site.block_at(DEAR);
    until("more is offered", || async { site.waiting(0).await.unwrap().0 != first }).await;
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    let (last, _) = site.waiting(0).await.unwrap();
    let offered = site.chain.provider().get_transaction_by_hash(last).await.unwrap().unwrap();
    let more = u128::from(DEAR) * 3;
    assert!(offered.inner.max_fee_per_gas() > more, "no more room in the last stretch");
    site.chain.mine(1);
    assert_eq!(done(&settle(&engine, brief, LONG).await), last.to_string());
    site.proven().await;
}

/// Where what was to be cancelled is mined before the cancellation, that decides.
#[tokio::test]
async fn a_crash_around_a_cancellation_consumes_the_nonce_once_by_whichever_is_mined() {
    let points = [
        Failpoint::AfterCancelBeforeJournal,
        Failpoint::AfterCancelJournalBeforeSend,
        Failpoint::AfterCancelSendBeforeSent,
    ];
    let cases = points.into_iter().flat_map(|point| [(point, true), (point, false)]);
    futures_util::future::join_all(cases.map(|(point, first)| cancel_and_crash(point, first)))
        .await;
}

async fn cancel_and_crash(point: Failpoint, the_first_is_mined: bool) {
    let site = Site::new();
    let (failpoints, reached) = Failpoints::hold_at(point);
    let engine = site.start(Options { failpoints, ..hurried() }).await;
    let brief = site.payment(2, 1, BRIEF_S).await;
    site.present(&engine, &[&brief]).await;
    let (first, _) = site.waiting(0).await.unwrap();
    let found = site.chain.provider().get_transaction_by_hash(first).await.unwrap().unwrap();
    site.expire_at(TOO_DEAR);
    let held = tokio::time::timeout(LONG, reached.notified()).await;
    assert!(held.is_ok(), "no scenario reaches {point}");
    site.crash(engine);
    let was_sent = site.waiting(0).await.unwrap().1;
    assert_eq!(was_sent, point == Failpoint::AfterCancelSendBeforeSent, "{point}");
    let first_is_mined = the_first_is_mined && !was_sent;
    if first_is_mined {
        site.block_at(CHEAP);
    }
    let engine = site.start(hurried()).await;
    if !first_is_mined {
        let cancellation = site.cancelled(0).await;
        // The node has forgotten all of it, and takes what it is given now.
        assert!(site.chain.drop_transaction(cancellation));
        until("it is sent again", || async { site.waiting(0).await.is_some() }).await;
        assert_eq!(site.waiting(0).await, Some((cancellation, true)), "other bytes");
        site.block_at(CHEAP);
    }
    let (reason, fee) = site.failed(&brief).await;
    if first_is_mined {
        assert_eq!(reason, Refusal::TransactionReverted.code(), "{point}");
        assert_eq!(fee, site.cost(*found.inner.tx_hash()).await.0, "{point}");
    } else {
        assert_eq!(reason, expired(), "{point}");
        assert!(fee <= U256::from(21_000) * U256::from(200_000_000_000_u64), "{point}: {fee}");
    }
    assert!(!site.is_used(&brief).await, "{point}");
    assert_eq!(site.nonces().await, 1, "{point}");
    site.proven().await;
    drop(engine);
}

#[tokio::test]
async fn a_cancellation_that_is_undone_is_sent_again_with_the_same_bytes() {
    let site = Site::new();
    let engine = site.start(hurried()).await;
    let brief = site.payment(2, 1, BRIEF_S).await;
    site.present(&engine, &[&brief]).await;
    site.expire_at(TOO_DEAR);
    let cancellation = site.cancelled(0).await;
    site.block_at(CHEAP);
    site.failed(&brief).await;
    let before = site.entry(&brief).await.watch.unwrap().block;
    site.chain.reorg(1, ReorgTransactions::Drop);
    until("it is sent again", || async { site.waiting(0).await.is_some() }).await;
    assert_eq!(site.waiting(0).await, Some((cancellation, true)));
    site.block_at(CHEAP);
    until("it rests on the new block", || async {
        site.entry(&brief).await.watch.is_some_and(|watch| watch.block != before)
    })
    .await;
    assert_eq!(site.failed(&brief).await, (expired(), site.cost(cancellation).await.0));
    site.proven().await;
    drop(engine);
}

/// The chain takes the blocks back in which the payment expired, and somebody has kept the first bytes.
#[tokio::test]
async fn what_was_cancelled_may_settle_where_time_is_undone() {
    let site = Site::new();
    let engine = site.start(hurried()).await;
    let brief = site.payment(2, 1, BRIEF_S).await;
    site.present(&engine, &[&brief]).await;
    let (first, _) = site.waiting(0).await.unwrap();
    let found = site.chain.provider().get_transaction_by_hash(first).await.unwrap().unwrap();
    let in_time = site.clock.now();
    site.expire_at(TOO_DEAR);
    site.cancelled(0).await;
    site.block_at(CHEAP);
    site.failed(&brief).await;
    site.clock.set(in_time);
    site.chain.reorg(2, ReorgTransactions::Drop);
    for hash in site.chain.pending_transactions() {
        site.chain.drop_transaction(hash);
    }
    let raw = found.inner.encoded_2718();
    _ = site.chain.provider().send_raw_transaction(&raw).await.unwrap();
    site.block_at(CHEAP);
    until("it is settled after all", || async {
        matches!(site.entry(&brief).await.stage, Stage::Final(Outcome::Settled { .. }))
    })
    .await;
    assert_eq!(done(&settle(&engine, brief.clone(), LONG).await), first.to_string());
    assert_eq!(balance(&site.chain, payee()).await, U256::from(PRICE));
    site.proven().await;
}

/// How long payments wait for one another here.
const PACK_WAIT: Duration = Duration::from_millis(400);
/// How often it is tried to have several in one transaction: one that is due alone leaves at once.
const TRIES: usize = 8;

/// Payments by several, of which every other one is brief, or all are, that wait to be mined; with the
/// transactions that carry them.
struct Waiting {
    site: Site,
    engine: Engine,
    payments: Vec<Payment>,
    by: Vec<B256>,
}

impl Waiting {
    /// The pack that carries brief ones, and others unless all are brief.
    async fn packed(options: impl Fn() -> Options, all_are_brief: bool) -> (Self, B256) {
        for _ in 0..TRIES {
            let waiting = Self::present(options(), all_are_brief).await;
            let places = 0..waiting.payments.len();
            let of = |brief: bool| {
                let places = places.clone().filter(move |place| (place % 2 == 0) == brief);
                places.map(|place| waiting.by[place]).collect::<Vec<_>>()
            };
            let (even, odd) = (of(true), of(false));
            if let Some(pack) = even.into_iter().find(|hash| odd.contains(hash)) {
                return (waiting, pack);
            }
        }
        panic!("nothing is packed");
    }

    async fn present(options: Options, all_are_brief: bool) -> Self {
        let site = Site::new();
        let engine = site.start_packing(options, Some(PACK_WAIT)).await;
        let mut payments = Vec::new();
        for payer in 2..8 {
            let seconds = if all_are_brief || payer % 2 == 0 { BRIEF_S } else { LONG_S };
            payments.push(site.payment(payer, u64::try_from(payer).unwrap(), seconds).await);
        }
        site.present(&engine, &payments.iter().collect::<Vec<_>>()).await;
        let mut by = Vec::new();
        for payment in &payments {
            let Stage::Sent(signed) = site.entry(payment).await.stage else { panic!() };
            by.push(signed.sent.transaction.parse().unwrap());
        }
        Self { site, engine, payments, by }
    }

    async fn nothing_is_open(&self) {
        let journal = SqliteJournal::look(self.site.journal()).unwrap();
        until("nothing is open", || async {
            journal.unfinished(&NetworkId::eip155(CHAIN_ID), 9).await.unwrap().is_empty()
        })
        .await;
    }
}

async fn nonce_of(site: &Site, hash: B256) -> u64 {
    let found = site.chain.provider().get_transaction_by_hash(hash).await.unwrap();
    found.unwrap().inner.nonce()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_of_which_all_has_expired_is_cancelled_and_its_cost_is_shared() {
    let (waiting, pack) = Waiting::packed(hurried, true).await;
    let site = &waiting.site;
    let nonce = nonce_of(site, pack).await;
    site.expire_at(TOO_DEAR);
    let mut last = nonce;
    for hash in &waiting.by {
        last = last.max(nonce_of(site, *hash).await);
    }
    for nonce in 0..=last {
        site.cancelled(nonce).await;
    }
    let cancellation = site.cancelled(nonce).await;
    site.block_at(CHEAP);
    let (mut booked, mut shares) = (U256::ZERO, 0);
    for (payment, by) in waiting.payments.iter().zip(&waiting.by) {
        let (reason, fee) = site.failed(payment).await;
        assert_eq!(reason, expired());
        assert!(!site.is_used(payment).await);
        if *by == pack {
            booked += fee;
            shares += 1;
        }
    }
    let (cost, gas) = site.cost(cancellation).await;
    assert!(shares > 1);
    assert_eq!((booked, gas), (cost, 21_000));
    assert_eq!(balance(&site.chain, payee()).await, U256::ZERO);
    waiting.nothing_is_open().await;
    site.proven().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_in_which_one_is_alive_is_replaced_and_not_cancelled() {
    let points = [
        None,
        Some(Failpoint::AfterPackReplaceBeforeJournal),
        Some(Failpoint::AfterPackReplaceJournalBeforeSend),
        Some(Failpoint::AfterPackReplaceSendBeforeSent),
    ];
    for point in points {
        replace_a_pack(point).await;
    }
}

async fn replace_a_pack(point: Option<Failpoint>) {
    let held = std::sync::Mutex::new(None);
    let hold = || {
        let (failpoints, reached) = point.map(Failpoints::hold_at).unzip();
        *held.lock().unwrap() = reached;
        Options { failpoints: failpoints.unwrap_or_default(), ..hurried() }
    };
    let (mut waiting, pack) = Waiting::packed(hold, false).await;
    let nonce = nonce_of(&waiting.site, pack).await;
    // Some are over. Nothing is cancelled for that, and more is offered when blocks ask for it.
    waiting.site.expire_at(DEAR);
    let reached = held.lock().unwrap().take();
    if let Some(reached) = reached {
        let reached = tokio::time::timeout(LONG, reached.notified()).await;
        assert!(reached.is_ok(), "no scenario reaches {point:?}");
        waiting.site.crash(waiting.engine);
        waiting.engine = waiting.site.start_packing(hurried(), Some(PACK_WAIT)).await;
    }
    let site = &waiting.site;
    let is_replaced = || async {
        let found = site.waiting(nonce).await;
        found.is_some_and(|(hash, cancels)| {
            assert!(!cancels, "a payment that is alive is cancelled");
            hash != pack
        })
    };
    until("it is replaced", is_replaced).await;
    let (now, _) = site.waiting(nonce).await.unwrap();
    site.block_at(CHEAP);
    let mut paid = 0;
    for (place, payment) in waiting.payments.iter().enumerate() {
        if place % 2 == 0 {
            assert_ne!(site.failed(payment).await.1, U256::ZERO, "{point:?}: it costs nothing");
            assert!(!site.is_used(payment).await);
            continue;
        }
        paid += PRICE;
        let hash = done(&settle(&waiting.engine, payment.clone(), LONG).await);
        assert!(waiting.by[place] != pack || hash == now.to_string(), "{point:?}");
    }
    waiting.nothing_is_open().await;
    assert_eq!(balance(&site.chain, payee()).await, U256::from(paid));
    site.proven().await;
}

/// A node counts the nonce before it shows the receipt: the cancellation is booked all the same.
#[tokio::test]
async fn a_cancellation_whose_receipt_comes_late_is_booked() {
    let bed = crate::bed::Bed::new();
    let engine = bed.start_with(hurried()).await;
    bed.chain.state().automine = false;
    pending(settle(&engine, crate::chain::payment("1"), SHORT).await);
    bed.chain.state().time = crate::chain::EXPIRES;
    bed.clock.set(UnixTime(crate::chain::EXPIRES));
    until("it is cancelled", || async {
        bed.chain.state().handed.iter().any(|tx| tx.authorizations.is_empty())
    })
    .await;
    {
        let mut state = bed.chain.state();
        state.hides_ours = 3;
        state.mine();
    }
    refused(settle(&engine, crate::chain::payment("1"), LONG).await, Refusal::ValidBefore);
    let standing = engine.status(&crate::chain::key("1")).await.unwrap().unwrap();
    assert_eq!(standing.fee, Amount::from(bed.chain.state().spent));
}

/// What is left of an offer at the bound of an earlier version cannot be outbid: it is seen through.
#[tokio::test]
async fn what_cannot_be_outbid_is_seen_through() {
    let bed = crate::bed::Bed::new();
    let engine = bed.start_with(hurried()).await;
    {
        let mut state = bed.chain.state();
        (state.automine, state.cannot_be_outbid) = (false, true);
    }
    pending(settle(&engine, crate::chain::payment("1"), SHORT).await);
    bed.chain.state().time = crate::chain::EXPIRES;
    bed.clock.set(UnixTime(crate::chain::EXPIRES));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(bed.chain.state().handed.iter().all(|tx| !tx.authorizations.is_empty()));
    bed.chain.state().mine();
    let told = settle(&engine, crate::chain::payment("1"), LONG).await;
    refused(told, Refusal::TransactionReverted);
    let standing = engine.status(&crate::chain::key("1")).await.unwrap().unwrap();
    assert_eq!(standing.fee, Amount::from(bed.chain.state().spent));
}
