//! Several payments in one transaction: each is told the truth about itself, and what the transaction cost
//! is shared among them to the wei.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use pay402_core::facilitator::Settled;
use pay402_core::network::Packing;
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Refusal};
use pay402_facilitator::failpoint::{Failpoint, Failpoints};
use pay402_facilitator::{Engine, Options};
use tokio::task::JoinHandle;

use crate::bed::{Bed, LONG, SHORT, done, options, pending, refused, settle, stage, until};
use crate::chain::{EXPIRES, NOW, Undone, fee as fee_of, key, payment};

/// Payments of one transaction.
const MANY: usize = 8;

/// A bed whose chain packs all that comes within a wait that is long enough for all of it.
fn bed() -> Bed {
    let bed = Bed::new();
    let wait = Duration::from_millis(100);
    bed.chain.state().packing = Some(Packing { wait, members_max: MANY });
    bed
}

fn settle_all(engine: &Engine, wait: Duration) -> Vec<JoinHandle<Settled>> {
    let settle = |number: usize| {
        let engine = engine.clone();
        tokio::spawn(async move { settle(&engine, payment(&number.to_string()), wait).await })
    };
    (0..MANY).map(settle).collect()
}

/// What all payments cost by the journal; the chain says the same.
async fn audit(bed: &Bed, engine: &Engine) -> u64 {
    let mut fees = Amount::ZERO;
    for number in 0..MANY {
        let standing = engine.status(&key(&number.to_string())).await.unwrap().unwrap();
        fees = fees.checked_add(standing.fee).unwrap();
    }
    let spent = bed.chain.state().spent;
    assert_eq!(fees, Amount::from(spent), "the books are not the chain's");
    spent
}

/// The one that its pack does not make, and that nothing makes later where `again` is not to be.
const ODD: usize = 5;

#[tokio::test]
async fn what_is_due_together_settles_in_one_transaction() {
    let bed = bed();
    let engine = bed.start().await;
    // What finds nothing else due leaves by itself; the rest is packed.
    let asked = settle_all(&engine, LONG);
    let mut transactions = Vec::new();
    for one in asked {
        transactions.push(done(&one.await.unwrap()));
    }
    transactions.sort();
    transactions.dedup();
    assert!(transactions.len() <= MANY / 2, "{transactions:?}");
    assert_eq!(bed.chain.state().hashes().len(), transactions.len());
    assert_eq!(bed.chain.state().transfers, MANY);
    audit(&bed, &engine).await;
}

#[tokio::test]
async fn what_is_due_alone_does_not_wait() {
    let bed = bed();
    let wait = Duration::from_secs(3600);
    bed.chain.state().packing = Some(Packing { wait, members_max: MANY });
    let engine = bed.start().await;
    let began = Instant::now();
    done(&settle(&engine, payment("0"), LONG).await);
    assert!(began.elapsed() < Duration::from_secs(5), "it waited for others");
}

/// Enters all payments of a pack while nothing is mined, so that all are in one transaction.
async fn packed(bed: &Bed, engine: &Engine) {
    bed.chain.state().automine = false;
    for one in settle_all(engine, SHORT) {
        pending(one.await.unwrap());
    }
    until("all are sent", || async {
        // A transaction that took another one's place carries the same.
        let state = bed.chain.state();
        let sent = state.handed.iter().flat_map(|tx| &tx.authorizations);
        sent.collect::<HashSet<_>>().len() >= MANY
    })
    .await;
}

#[tokio::test]
async fn one_that_is_left_out_is_signed_alone_once_and_harms_nobody() {
    for fails_again in [false, true] {
        let bed = bed();
        let engine = bed.start().await;
        bed.chain.state().leave_out.push(key(&ODD.to_string()));
        // Alone it is in no pack.
        packed(&bed, &engine).await;
        let before = bed.chain.state().hashes().len();
        {
            let mut state = bed.chain.state();
            state.mine();
            state.automine = true;
            state.reverts_next = fails_again;
        }
        for number in 0..MANY {
            let told = settle(&engine, payment(&number.to_string()), LONG).await;
            if number == ODD && fails_again {
                refused(told, Refusal::TransactionReverted);
            } else {
                done(&told);
            }
        }
        let odd = key(&ODD.to_string()).to_string();
        let alone = |state: &crate::chain::State| {
            let handed = state.handed.iter().filter(|tx| tx.authorizations == [odd.clone()]);
            handed.map(|tx| tx.hash.clone()).collect::<HashSet<_>>().len()
        };
        assert!(alone(&bed.chain.state()) <= 1, "signed alone again and again");
        assert!(bed.chain.state().hashes().len() <= before + 1, "others were signed anew");
        audit(&bed, &engine).await;
        let transfers = bed.chain.state().transfers;
        assert_eq!(transfers, MANY - usize::from(fails_again));
    }
}

#[tokio::test]
async fn one_that_somebody_else_sends_first_is_settled_by_that() {
    let bed = bed();
    let engine = bed.start().await;
    packed(&bed, &engine).await;
    bed.chain.state().preempt(&key(&ODD.to_string()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_ne!(
        stage(&engine, &ODD.to_string()).await,
        "settled",
        "closed before its pack is mined"
    );
    bed.chain.state().mine();
    for number in 0..MANY {
        let hash = done(&settle(&engine, payment(&number.to_string()), LONG).await);
        assert_eq!(hash == "0xsomebody-else", number == ODD);
    }
    audit(&bed, &engine).await;
}

/// It takes a dozen blocks until a cancellation by the payer is believed. The others do not wait for that.
#[tokio::test]
async fn one_whose_payer_cancels_it_holds_up_nobody() {
    let bed = bed();
    let engine = bed.start().await;
    packed(&bed, &engine).await;
    bed.chain.state().cancelled.push(key(&ODD.to_string()));
    bed.chain.state().mine();
    for number in (0..MANY).filter(|number| *number != ODD) {
        done(&settle(&engine, payment(&number.to_string()), LONG).await);
    }
    assert_eq!(stage(&engine, &ODD.to_string()).await, "sent");
    bed.chain.state().cancelled.clear();
    done(&settle(&engine, payment(&ODD.to_string()), LONG).await);
    audit(&bed, &engine).await;
}

#[tokio::test]
async fn a_displaced_pack_is_signed_anew_one_by_one() {
    let bed = bed();
    let engine = bed.start().await;
    packed(&bed, &engine).await;
    let mut packs = bed.chain.state().hashes();
    {
        let mut state = bed.chain.state();
        for _ in 0..packs.len() {
            state.steal_nonce("0xsigner");
        }
        state.automine = true;
    }
    for number in 0..MANY {
        let hash = done(&settle(&engine, payment(&number.to_string()), LONG).await);
        assert!(!packs.contains(&hash), "a hash twice");
        packs.push(hash);
    }
    assert_eq!(bed.chain.state().transfers, MANY);
    audit(&bed, &engine).await;
}

/// A crash at every edge, with one payment that its pack leaves out.
#[tokio::test]
async fn a_crash_at_any_edge_of_a_pack_settles_each_exactly_once() {
    const POINTS: [Failpoint; 9] = [
        Failpoint::AfterEnter,
        Failpoint::AfterPackSignBeforeJournal,
        Failpoint::AfterSignBeforeJournal,
        Failpoint::AfterPackJournalBeforeSend,
        Failpoint::AfterSendBeforeSent,
        Failpoint::AfterPackProofBeforeClose,
        Failpoint::AfterProofBeforeClose,
        Failpoint::AfterCloseBeforeAnswer,
        Failpoint::AfterPackCloseBeforeAlone,
    ];
    for point in POINTS {
        let bed = bed();
        let (failpoints, reached) = Failpoints::hold_at(point);
        let engine = bed.start_with(Options { failpoints, ..options() }).await;
        bed.chain.state().leave_out.push(key(&ODD.to_string()));
        let asked = settle_all(&engine, LONG);
        let waited = tokio::time::timeout(LONG, reached.notified()).await;
        assert!(waited.is_ok(), "no scenario reaches {point}");
        tokio::time::sleep(Duration::from_millis(5)).await;
        engine.crash();
        drop(engine);
        let mut told = 0;
        for one in asked {
            told += usize::from(matches!(one.await.unwrap(), Settled::Done(_)));
        }
        bed.clock.set(UnixTime(NOW + 60));
        let engine = bed.start().await;
        for number in 0..MANY {
            match settle(&engine, payment(&number.to_string()), LONG).await {
                Settled::Done(_) => told += 1,
                other => _ = refused(other, Refusal::DuplicateSettlement),
            }
        }
        assert!(told <= MANY, "{point}: {told} successes");
        assert_eq!(bed.chain.state().transfers, MANY, "{point}");
        let mut carried: Vec<Vec<String>> =
            bed.chain.state().handed.iter().map(|tx| tx.authorizations.clone()).collect();
        carried.sort();
        carried.dedup();
        for number in 0..MANY {
            let key = key(&number.to_string()).to_string();
            let packs = carried.iter().filter(|keys| keys.len() > 1 && keys.contains(&key));
            assert!(packs.count() <= 1, "{point}: {number} is in two packs");
        }
        audit(&bed, &engine).await;
    }
}

/// A block that a pack is in is undone when all has expired, and one of its payments had gone on by itself: its
/// share of the pack is on its account, so that the others are not cancelled but seen through.
#[tokio::test]
async fn a_pack_that_one_has_left_is_not_cancelled() {
    let bed = bed();
    let quick = Duration::from_millis(5);
    let engine = bed
        .start_with(Options {
            watch_every: quick,
            replace_first: quick,
            replace_max: quick,
            ..options()
        })
        .await;
    bed.chain.state().leave_out.push(key(&ODD.to_string()));
    packed(&bed, &engine).await;
    bed.chain.state().mine();
    let odd = key(&ODD.to_string()).to_string();
    until("one goes on by itself", || async {
        bed.chain.state().handed.iter().any(|tx| tx.authorizations == [odd.clone()])
    })
    .await;
    bed.chain.state().mine();
    for number in 0..MANY {
        let settled = || async { stage(&engine, &number.to_string()).await == "settled" };
        until("it is settled", settled).await;
    }
    let nonce_of_pack = {
        let mut state = bed.chain.state();
        state.time = EXPIRES;
        bed.clock.set(UnixTime(EXPIRES));
        let depth = usize::try_from(state.height()).unwrap();
        state.undo(depth, Undone::Lost);
        (0..depth).for_each(|_| state.mine());
        let pack = state.handed.iter().find(|tx| tx.authorizations.contains(&odd)).unwrap();
        assert!(pack.authorizations.len() > 1);
        state.handed.retain(|tx| tx.authorizations.contains(&odd) && tx.authorizations.len() > 1);
        state.handed[0].nonce
    };
    let cancels = |of_pack: bool| {
        let state = bed.chain.state();
        let mut empty = state.handed.iter().filter(|tx| tx.authorizations.is_empty());
        empty.any(|tx| (tx.nonce == nonce_of_pack) == of_pack)
    };
    until("what is by itself is cancelled", || async { cancels(false) }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!cancels(true), "the shares of the others do not add up");
    bed.chain.state().automine = true;
    bed.chain.state().mine();
    for number in 0..MANY {
        let failed = || async { stage(&engine, &number.to_string()).await == "failed" };
        until("it is over", failed).await;
    }
    audit(&bed, &engine).await;
}

/// The entry that has the bytes is final, and the process dies: the others end by what the chain shows. Where
/// a reorganisation took the transaction out the bytes are kept, and carry all of them out again.
#[tokio::test]
async fn what_lost_its_bytes_ends_all_the_same() {
    for reorganised in [false, true] {
        let bed = bed();
        let engine = bed.start().await;
        packed(&bed, &engine).await;
        let hidden: Vec<_> = {
            let mut state = bed.chain.state();
            // Of every transaction all but the first payment.
            let handed = state.handed.clone();
            let others = handed.iter().flat_map(|tx| tx.authorizations.iter().skip(1));
            others
                .map(|key| pay402_core::PaymentKey::from_stored(key))
                .inspect(|key| state.hidden.push(key.clone()))
                .collect()
        };
        bed.chain.state().mine();
        until("those with the bytes are final", || async {
            let mut settled = 0;
            for number in 0..MANY {
                settled += usize::from(stage(&engine, &number.to_string()).await == "settled");
            }
            settled + hidden.iter().collect::<HashSet<_>>().len() == MANY
        })
        .await;
        let old = bed.chain.state().hashes();
        engine.crash();
        drop(engine);
        {
            let mut state = bed.chain.state();
            state.hidden.clear();
            state.automine = true;
            if reorganised {
                state.forget();
            }
        }
        bed.clock.set(UnixTime(NOW + 60));
        let patience = Duration::from_millis(50);
        let gaps = Options { gap_patience: patience, gap_every: patience, ..options() };
        let engine = bed.start_with(gaps).await;
        for key in &hidden {
            until("it is settled", || async {
                engine.status(key).await.unwrap().unwrap().stage == "settled"
            })
            .await;
        }
        let new = bed.chain.state().hashes().into_iter().filter(|hash| !old.contains(hash)).count();
        assert_eq!(new, 0, "reorganised: {reorganised}");
    }
}

/// The entry that has the bytes is final, its block is undone, and all has expired: the transaction may be mined
/// again and cost the others their shares.
#[tokio::test]
async fn what_lost_its_bytes_and_expired_waits_for_what_becomes_of_them() {
    let bed = bed();
    let engine = bed.start().await;
    packed(&bed, &engine).await;
    let hidden: Vec<_> = {
        let mut state = bed.chain.state();
        let pack = state.handed.iter().find(|tx| tx.authorizations.len() > 1).unwrap();
        let others = pack.authorizations.iter().skip(1);
        let others =
            others.map(|key| pay402_core::PaymentKey::from_stored(key)).collect::<Vec<_>>();
        state.hidden = others.clone();
        state.mine();
        others
    };
    let all: Vec<_> = (0..MANY).map(|number| key(&number.to_string())).collect();
    let stage_of = async |engine: &Engine, key| engine.status(key).await.unwrap().unwrap().stage;
    for key in all.iter().filter(|key| !hidden.contains(key)) {
        until("the others are final", || async { stage_of(&engine, key).await == "settled" }).await;
    }
    engine.crash();
    drop(engine);
    {
        let mut state = bed.chain.state();
        state.hidden.clear();
        state.time = EXPIRES;
        state.undo(1, Undone::Returned);
    }
    bed.clock.set(UnixTime(EXPIRES));
    let engine =
        bed.start_with(Options { watch_every: Duration::from_millis(20), ..options() }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for key in &hidden {
        assert_eq!(stage_of(&engine, key).await, "sent", "closed before its nonce is consumed");
    }
    bed.chain.state().mine();
    for key in &all {
        until("it is over", || async { stage_of(&engine, key).await == "failed" }).await;
    }
    audit(&bed, &engine).await;
}

/// On the embedded EVM, through the contract itself.
mod evm {
    use std::collections::BTreeSet;

    use alloy::consensus::Transaction as _;
    use alloy::primitives::{Address, Bytes, U256};
    use alloy::providers::Provider as _;
    use pay402_core::journal::{Journal, Outcome, Stage};
    use pay402_core::{NetworkId, Payment};
    use pay402_devchain::genesis::{
        DEV_ACCOUNTS, PACKER_ADDRESS, USDC_ADDRESS, WALLET_1271, usdc_balance_slot,
    };
    use pay402_devchain::{Devchain, Mining, zoo};
    use pay402_evm::network::pack::PackSettings;
    use pay402_facilitator::failpoint::{Failpoint, Failpoints};
    use pay402_store::SqliteJournal;

    use super::*;
    use crate::evm::{PRICE, SIGNERS, balance, chain, payee, payment_by, start_packing};

    /// Who pays, twice each.
    const PAYERS: std::ops::Range<usize> = 2..8;

    fn packing() -> PackSettings {
        PackSettings { wait: Some(Duration::from_millis(300)), ..PackSettings::default() }
    }

    async fn payments() -> Vec<Payment> {
        let mut payments = Vec::new();
        for number in 0..12_u64 {
            let payer = PAYERS.start + usize::try_from(number).unwrap() % PAYERS.len();
            payments.push(payment_by(payer, number).await);
        }
        payments
    }

    struct House {
        chain: Devchain,
        engine: Engine,
        journal: std::path::PathBuf,
        before: U256,
        _folder: tempfile::TempDir,
    }

    async fn signers_wei(chain: &Devchain) -> U256 {
        let mut wei = U256::ZERO;
        for signer in SIGNERS {
            wei += chain.provider().get_balance(DEV_ACCOUNTS[signer]).await.unwrap();
        }
        wei
    }

    fn engine_options() -> Options {
        Options { lease: Duration::from_secs(3), ..options() }
    }

    impl House {
        async fn new(options: Options) -> Self {
            let chain = chain();
            let before = signers_wei(&chain).await;
            let folder = tempfile::tempdir().unwrap();
            let journal = folder.path().join("journal.db");
            let engine = start_packing(&chain, &journal, options, packing()).await;
            Self { chain, engine, journal, before, _folder: folder }
        }

        /// Presents all while nothing is mined, and gives the transactions that carry them.
        async fn pool(&self, payments: &[Payment]) -> Vec<alloy::rpc::types::Transaction> {
            self.chain.set_mining(Mining::Manual);
            let asked: Vec<_> = payments
                .iter()
                .map(|payment| {
                    let (engine, payment) = (self.engine.clone(), payment.clone());
                    tokio::spawn(async move { settle(&engine, payment, SHORT).await })
                })
                .collect();
            for one in asked {
                pending(one.await.unwrap());
            }
            let all = format!("{} are signed", payments.len());
            let key = NetworkId::eip155(84_532);
            let journal = SqliteJournal::open(&self.journal).unwrap();
            until(&all, || async {
                let open = journal.unfinished(&key, 100).await.unwrap();
                open.len() == payments.len()
                    && open
                        .iter()
                        .all(|entry| matches!(entry.stage, Stage::Signed(_) | Stage::Sent(_)))
            })
            .await;
            let mut carried = Vec::new();
            let mut hashes = BTreeSet::new();
            for entry in journal.unfinished(&key, 100).await.unwrap() {
                let (Stage::Signed(signed) | Stage::Sent(signed)) = entry.stage else { panic!() };
                hashes.insert(signed.sent.transaction);
            }
            for hash in hashes {
                let hash = hash.parse().unwrap();
                until("it is in the pool", || async {
                    self.chain.provider().get_transaction_by_hash(hash).await.unwrap().is_some()
                })
                .await;
                let found = self.chain.provider().get_transaction_by_hash(hash).await.unwrap();
                carried.push(found.unwrap());
            }
            carried
        }

        fn mine(&self) {
            self.chain.mine(1);
            self.chain.set_mining(Mining::Instant);
        }

        /// The fees in the journal are what the signers spent, and what settled is what was paid.
        async fn audit(&self, payments: &[Payment], settled: u64) {
            let journal = SqliteJournal::open(&self.journal).unwrap();
            let mut fees = U256::ZERO;
            for payment in payments {
                let (key, _) = self.keyed(payment);
                let entry = journal.find(&key).await.unwrap().unwrap();
                match entry.stage {
                    Stage::Final(Outcome::Settled { fee, .. } | Outcome::Failed { fee, .. }) => {
                        fees += fee.to_u256();
                    }
                    other => panic!("{key}: {other:?}"),
                }
            }
            let spent = self.before - signers_wei(&self.chain).await;
            assert_eq!(spent, fees, "the signers' wei and the fees in the journal");
            assert_eq!(balance(&self.chain, payee()).await, U256::from(PRICE * settled));
        }

        fn keyed(&self, payment: &Payment) -> (pay402_core::PaymentKey, Address) {
            let authorization = &payment.presented().payload["authorization"];
            let text = |field: &str| authorization[field].as_str().unwrap().to_lowercase();
            let token = USDC_ADDRESS.to_string().to_lowercase();
            let key = pay402_core::PaymentKey::new(
                &NetworkId::eip155(84_532),
                &token,
                &text("from"),
                &text("nonce"),
            );
            (key, text("from").parse().unwrap())
        }
    }

    fn packs(carried: &[alloy::rpc::types::Transaction]) -> usize {
        carried.iter().filter(|tx| tx.inner.to() == Some(PACKER_ADDRESS)).count()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_payments_are_one_transaction_of_the_contract() {
        let house = House::new(engine_options()).await;
        let payments = payments().await;
        let carried = house.pool(&payments).await;
        assert!(packs(&carried) >= 1 && carried.len() <= 6, "{} transactions", carried.len());
        house.mine();
        for payment in &payments {
            done(&settle(&house.engine, payment.clone(), LONG).await);
            let again = settle(&house.engine, payment.clone(), LONG).await;
            refused(again, Refusal::DuplicateSettlement);
        }
        house.audit(&payments, 12).await;
    }

    /// What becomes of a payer after its payment was packed.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    enum Turn {
        /// Its money is gone.
        Poor,
        /// It runs code that wastes all gas that it is given.
        Burner,
        /// It runs code that takes its own key's signatures.
        Wallet,
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_payer_that_turns_bad_before_inclusion_harms_itself_alone() {
        for turn in [Turn::Poor, Turn::Burner, Turn::Wallet] {
            let house = House::new(engine_options()).await;
            let burner = deploy(&house.chain, zoo::GAS_WALLET.creation(&[])).await;
            let nobody = [0_u8; 32];
            let wallet = deploy(&house.chain, WALLET_1271.creation(&nobody)).await;
            let before = signers_wei(&house.chain).await;
            let house = House { before, ..house };
            let payments = payments().await;
            let carried = house.pool(&payments).await;
            assert!(packs(&carried) >= 1, "{turn:?}");
            // Whoever pays last in the biggest pack.
            let odd = DEV_ACCOUNTS[PAYERS.end - 1];
            let code = |to: Address| Bytes::from([&[0xef, 0x01, 0x00], to.as_slice()].concat());
            match turn {
                Turn::Poor => {
                    house.chain.set_storage(USDC_ADDRESS, usdc_balance_slot(odd), U256::ZERO);
                }
                Turn::Burner => {
                    house.chain.set_code(odd, code(burner));
                    for slot in 0..3_u64 {
                        house.chain.set_storage(odd, U256::from(slot), U256::MAX);
                    }
                }
                Turn::Wallet => house.chain.set_code(odd, code(wallet)),
            }
            house.mine();
            let mut settled = 0;
            for payment in &payments {
                let told = settle(&house.engine, payment.clone(), LONG).await;
                let (_, from) = house.keyed(payment);
                if from == odd && turn != Turn::Wallet {
                    refused(told, Refusal::TransactionReverted);
                } else {
                    done(&told);
                    settled += 1;
                }
            }
            assert_eq!(settled, if turn == Turn::Wallet { 12 } else { 10 }, "{turn:?}");
            house.audit(&payments, settled).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_payer_with_code_and_a_chain_without_the_contract_are_not_packed() {
        let chain = chain();
        chain.set_code(PACKER_ADDRESS, Bytes::from_static(&[0x00]));
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal.db");
        let before = signers_wei(&chain).await;
        let engine = start_packing(&chain, &journal, engine_options(), packing()).await;
        let house = House { chain, engine, journal, before, _folder: folder };
        let payments = payments().await;
        let carried = house.pool(&payments).await;
        assert_eq!((packs(&carried), carried.len()), (0, 12), "by a contract that is another");
        house.mine();
        for payment in &payments {
            done(&settle(&house.engine, payment.clone(), LONG).await);
        }
        house.audit(&payments, 12).await;
    }

    /// A pack whose fees do not suffice is replaced as a whole, also across a crash.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_replacement_covers_every_payment_of_a_pack() {
        for point in [
            None,
            Some(Failpoint::AfterReplaceBeforeJournal),
            Some(Failpoint::AfterReplaceJournalBeforeSend),
        ] {
            let hurried =
                || Options { replace_first: Duration::from_millis(100), ..engine_options() };
            let (failpoints, reached) = match point {
                Some(point) => {
                    let (failpoints, reached) = Failpoints::hold_at(point);
                    (failpoints, Some(reached))
                }
                None => (Failpoints::default(), None),
            };
            let mut house = House::new(Options { failpoints, ..hurried() }).await;
            let payments = payments().await;
            assert!(packs(&house.pool(&payments).await) >= 1);
            house.chain.set_next_base_fee(50_000_000_000);
            house.chain.mine(1);
            if let Some(reached) = reached {
                assert!(tokio::time::timeout(LONG, reached.notified()).await.is_ok());
                house.engine.crash();
                house.engine =
                    start_packing(&house.chain, &house.journal, hurried(), packing()).await;
            }
            let finished = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    house.chain.mine(1);
                    let journal = SqliteJournal::open(&house.journal).unwrap();
                    let open = journal.unfinished(&NetworkId::eip155(84_532), 100).await.unwrap();
                    if open.is_empty() {
                        return;
                    }
                }
            };
            assert!(tokio::time::timeout(LONG, finished).await.is_ok(), "{point:?}");
            for payment in &payments {
                match settle(&house.engine, payment.clone(), LONG).await {
                    Settled::Done(_) => {}
                    other => _ = refused(other, Refusal::DuplicateSettlement),
                }
            }
            house.audit(&payments, 12).await;
        }
    }

    async fn deploy(chain: &Devchain, creation: Bytes) -> Address {
        use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
        use alloy::eips::Encodable2718 as _;
        use alloy::primitives::TxKind;
        use alloy::signers::SignerSync as _;
        const ANYONE: usize = 9;
        let nonce = chain.provider().get_transaction_count(DEV_ACCOUNTS[ANYONE]).await.unwrap();
        let transaction = TxEip1559 {
            chain_id: 84_532,
            nonce,
            gas_limit: 3_000_000,
            max_fee_per_gas: 20_000_000_000,
            to: TxKind::Create,
            input: creation,
            ..TxEip1559::default()
        };
        let key = pay402_devchain::genesis::dev_signer(ANYONE);
        let signature = key.sign_hash_sync(&transaction.signature_hash()).unwrap();
        let raw = TxEnvelope::from(transaction.into_signed(signature)).encoded_2718();
        let sent = chain.provider().send_raw_transaction(&raw).await.unwrap();
        sent.get_receipt().await.unwrap().contract_address.unwrap()
    }
}

#[tokio::test]
async fn what_a_pack_cost_is_not_spent_again() {
    let bed = bed();
    let engine = bed.start().await;
    let odd = key(&ODD.to_string());
    let bound = |number: usize| 50_000 - 1_000 * u64::try_from(number).unwrap();
    {
        let mut state = bed.chain.state();
        state.leave_out.push(odd.clone());
        state.cost_max = (0..MANY).map(|it| (key(&it.to_string()), bound(it))).collect();
    }
    packed(&bed, &engine).await;
    let (told, packs) = {
        let mut state = bed.chain.state();
        let packs: Vec<Vec<String>> =
            state.handed.iter().map(|tx| tx.authorizations.clone()).collect();
        state.mine();
        state.automine = true;
        (std::mem::take(&mut state.bounds), packs)
    };
    // Each of a transaction bears the same: what the one may cost that may cost the least.
    for pack in &packs {
        let may_cost = |it: &String| {
            let number = (0..MANY).find(|number| key(&number.to_string()).as_str() == it);
            bound(number.unwrap())
        };
        let least = pack.iter().map(may_cost).min().unwrap();
        let wanted = Amount::from(least * u64::try_from(pack.len()).unwrap());
        assert!(told.contains(&Some(wanted)), "{wanted} of {told:?}");
    }
    done(&settle(&engine, payment(&ODD.to_string()), LONG).await);
    let with_it = packs.iter().find(|pack| pack.iter().any(|it| it == odd.as_str())).unwrap();
    assert!(with_it.len() > 1, "it was in no pack");
    // By itself it may cost what is left of its own.
    let alone = bed.chain.state().bounds.clone();
    let [Some(left)] = alone[..] else { panic!("{alone:?}") };
    let left = u64::try_from(left.to_u256()).unwrap();
    let share = fee_of(with_it.len()) / u64::try_from(with_it.len()).unwrap();
    let most = bound(ODD) - share;
    assert!((most - 1..=most).contains(&left), "{left} after {share}");
    audit(&bed, &engine).await;
}
