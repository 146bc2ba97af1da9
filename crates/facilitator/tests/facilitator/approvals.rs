//! Payments that wait for an approval of Permit2, and for the gas of it, on the embedded EVM.

use std::sync::Arc;
use std::time::Duration;

use alloy::consensus::{SignableTransaction as _, TxEip1559};
use alloy::eips::Encodable2718 as _;
use alloy::primitives::{Address, B256, U256};
use alloy::providers::Provider as _;
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall as _;
use pay402_core::facilitator::{Facilitator as _, Settled, Verdict};
use pay402_core::network::Network;
use pay402_core::scheme::{ServerScheme as _, Tariff};
use pay402_core::time::{Clock as _, ManualClock, UnixTime};
use pay402_core::{NetworkId, Payment, Presented, Refusal, Requirements, WireVersion};
use pay402_devchain::genesis::{
    DEV_ACCOUNTS, NO_USDC_INDEX, PERMIT2, USDC_ADDRESS, dev_signer, usdc_balance_slot,
};
use pay402_devchain::{Config, Devchain};
use pay402_evm::audit::{Kind, Movement};
use pay402_evm::contracts::Erc20;
use pay402_evm::exact::Permit2Payload;
use pay402_evm::signature::SignatureBytes;
use pay402_evm::typed_data::PermitTransfer;
use pay402_evm::{
    AssetTable, EvmNetwork, ExactServer, Rpc, Settings, Sponsoring, TransferMethod, UptoServer,
};
use pay402_facilitator::failpoint::{Failpoint, Failpoints};
use pay402_facilitator::{Engine, Options};
use pay402_store::SqliteJournal;
use serde_json::{Map, json};

use crate::agent as account;
use crate::audit::proven;
use crate::bed::{LONG, SHORT, done, options, pending, refused, settle, until};

const CHAIN_ID: u64 = 84_532;
/// Sends transactions.
const SIGNER: usize = 0;
/// When the chain begins.
const START: u64 = 1_795_000_000;
/// What one payment costs, in atomic units.
const PRICE: u64 = 10_000;
const GAS: u64 = 70_000;
/// In wei.
const FEE: u128 = 4_000_000_000;
const COST: u128 = 280_000_000_000_000;

/// One chain, one journal, one clock, and engines that come and go.
struct House {
    chain: Devchain,
    clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
}

impl House {
    /// A chain with a payer who has tokens and nothing else.
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(UnixTime(START)));
        let ticking = Arc::clone(&clock);
        let chain = Devchain::start(Config {
            chain_id: CHAIN_ID,
            clock: Arc::new(move || ticking.now().0),
            ..Config::default()
        });
        let held = U256::from(100 * PRICE);
        chain.set_storage(USDC_ADDRESS, usdc_balance_slot(payer().address()), held);
        Self { chain, clock, folder: tempfile::tempdir().unwrap() }
    }

    async fn start(&self, options: Options) -> Engine {
        let sponsoring =
            Sponsoring { approvals: true, advance_wei_max: COST, ..Sponsoring::default() };
        let network = EvmNetwork::new(
            id(),
            Rpc::over(&id(), &self.chain.rpc_client()),
            vec![dev_signer(SIGNER)],
            AssetTable::defaults(),
            Arc::clone(&self.clock) as _,
            Settings { sponsoring, ..Settings::default() },
        );
        let networks: Vec<Arc<dyn Network>> = vec![Arc::new(network.unwrap())];
        let journal = Arc::new(SqliteJournal::open(self.folder.path().join("journal.db")).unwrap());
        Engine::start(networks, journal, Arc::clone(&self.clock) as _, options).await.unwrap()
    }

    /// Ends `engine` as a crash would and starts another once the lease ran out.
    async fn restart(&self, engine: Engine) -> Engine {
        engine.crash();
        drop(engine);
        self.clock.set(self.clock.now().plus_s(15));
        self.start(options()).await
    }

    async fn count(&self, account: Address) -> u64 {
        self.chain.provider().get_transaction_count(account).await.unwrap()
    }

    /// Transactions that the signer and the payer had mined.
    async fn mined(&self) -> (u64, u64) {
        (self.count(DEV_ACCOUNTS[SIGNER]).await, self.count(payer().address()).await)
    }

    async fn wei(&self) -> U256 {
        self.chain.provider().get_balance(payer().address()).await.unwrap()
    }

    async fn paid(&self) -> U256 {
        use alloy::rpc::types::TransactionRequest;
        let mut data = alloy::primitives::keccak256("balanceOf(address)")[..4].to_vec();
        data.extend_from_slice(payee().into_word().as_slice());
        let request = TransactionRequest::default().to(USDC_ADDRESS).input(data.into());
        U256::from_be_slice(&self.chain.provider().call(request).await.unwrap())
    }

    /// The payer sends something else with its next nonce.
    async fn spend_elsewhere(&self, wei: U256) {
        let nonce = self.count(payer().address()).await;
        let transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: 21_000,
            max_fee_per_gas: FEE,
            max_priority_fee_per_gas: FEE,
            to: Address::repeat_byte(0xe1).into(),
            value: wei,
            ..TxEip1559::default()
        };
        let raw = signed(transaction);
        self.chain
            .provider()
            .send_raw_transaction(&raw)
            .await
            .unwrap()
            .get_receipt()
            .await
            .unwrap();
    }
}

fn id() -> NetworkId {
    NetworkId::eip155(CHAIN_ID)
}

fn payer() -> PrivateKeySigner {
    account::signer("poor")
}

fn payee() -> Address {
    DEV_ACCOUNTS[NO_USDC_INDEX]
}

fn signed(transaction: TxEip1559) -> Vec<u8> {
    let signature = payer().sign_hash_sync(&transaction.signature_hash()).unwrap();
    transaction.into_signed(signature).encoded_2718()
}

/// An approval of so much, with this nonce of the payer.
fn approval(nonce: u64, amount: u64) -> Vec<u8> {
    signed(TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: GAS,
        max_fee_per_gas: FEE,
        max_priority_fee_per_gas: 1,
        to: USDC_ADDRESS.into(),
        input: Erc20::approveCall { spender: PERMIT2, value: U256::from(amount) }
            .abi_encode()
            .into(),
        ..TxEip1559::default()
    })
}

fn tariff() -> Tariff {
    let usdc = AssetTable::defaults().default_dollar(&id()).unwrap().clone();
    Tariff::Atomic { amount: PRICE.into(), asset: usdc.info }
}

fn exact() -> Requirements {
    ExactServer::new(AssetTable::defaults())
        .transferring_by(TransferMethod::Permit2)
        .requirements(&id(), &tariff(), &payee().to_string(), 120)
        .unwrap()
}

fn upto() -> Requirements {
    let server = UptoServer::new(AssetTable::defaults());
    let mut terms = server.requirements(&id(), &tariff(), &payee().to_string(), 120).unwrap();
    let facilitator = DEV_ACCOUNTS[SIGNER].to_checksum(None);
    terms.extra.insert("facilitatorAddress".into(), facilitator.into());
    terms
}

/// A payment with this nonce of Permit2 that brings `approval` along.
fn payment(terms: &Requirements, nonce: u64, approval: &[u8]) -> Payment {
    let permit = PermitTransfer {
        from: payer().address(),
        token: USDC_ADDRESS,
        permitted: U256::from(PRICE),
        nonce: U256::from(nonce),
        deadline: U256::from(START + 120),
        to: payee(),
        valid_after: U256::ZERO,
        facilitator: terms.extra_str("facilitatorAddress").map(|text| text.parse().unwrap()),
    };
    let signature = payer().sign_hash_sync(&permit.digest(CHAIN_ID)).unwrap();
    let signature = SignatureBytes::new(signature.as_bytes().to_vec());
    let payload = Permit2Payload { permit, spender: permit.spender(), signature };
    let info = json!({
        "from": payer().address(),
        "asset": USDC_ADDRESS,
        "spender": PERMIT2,
        "amount": PRICE.to_string(),
        "signedTransaction": alloy::hex::encode_prefixed(approval),
        "version": "1",
    });
    let extensions =
        Map::from_iter([("erc20ApprovalGasSponsoring".to_owned(), json!({ "info": info }))]);
    let presented = Presented {
        version: WireVersion::V2,
        scheme: terms.scheme.clone(),
        network: terms.network.clone(),
        accepted: Some(terms.clone()),
        payload: payload.to_json(),
        resource: None,
        extensions,
        other: Map::new(),
    };
    Payment::pair(terms.clone(), presented).unwrap()
}

fn one() -> Payment {
    payment(&exact(), 1, &approval(0, PRICE))
}

#[tokio::test]
async fn a_payment_waits_for_gas_and_approval_and_settles() {
    for (terms, charge) in [(exact(), PRICE), (upto(), 2_500)] {
        let house = House::new();
        let engine = house.start(options()).await;
        let payment = payment(&terms, 1, &approval(0, PRICE));
        assert!(matches!(engine.verify(&payment).await.unwrap(), Verdict::Valid { .. }));
        assert_eq!(house.mined().await, (0, 0), "verifying sends nothing");
        let payment = payment.charging(charge.into()).unwrap();
        let hash = done(&settle(&engine, payment.clone(), LONG).await);
        assert_eq!(house.paid().await, U256::from(charge));
        assert_eq!(house.mined().await, (2, 1), "gas, approval and payment");
        let again = refused(settle(&engine, payment, LONG).await, Refusal::DuplicateSettlement);
        assert_eq!(again.transaction, Some(hash));
        // What was advanced is a cost of ours, and in the books as one.
        let audited = proven(&house.chain, &house.folder.path().join("journal.db")).await;
        assert_eq!((audited.settled, audited.errands), (1, 2), "{audited:#?}");
        let is_advance = |it: &&Movement| it.kind == Kind::Advance;
        let advances: Vec<_> = audited.movements.iter().filter(is_advance).collect();
        assert_eq!(advances.len(), 1, "{audited:#?}");
        assert!(!advances[0].amount.is_zero() && advances[0].to.is_some(), "{advances:?}");
    }
}

#[tokio::test]
async fn a_crash_at_any_point_settles_exactly_once() {
    // Of three entries: the gas, the approval, the payment. What is signed elsewhere is not signed.
    for point in [
        Failpoint::AfterEnter,
        Failpoint::AfterSignBeforeJournal,
        Failpoint::AfterJournalBeforeSend,
        Failpoint::AfterSendBeforeSent,
        Failpoint::AfterProofBeforeClose,
        Failpoint::AfterCloseBeforeAnswer,
        Failpoint::AfterErrandBeforePayment,
    ] {
        for passes in 0..3 {
            if (point, passes) == (Failpoint::AfterErrandBeforePayment, 2) {
                continue; // there are two errands
            }
            let house = House::new();
            let (failpoints, reached) = Failpoints::hold_after(passes, point);
            let engine = house.start(Options { failpoints, ..options() }).await;
            let asked = tokio::spawn({
                let engine = engine.clone();
                async move { settle(&engine, one(), LONG).await }
            });
            let waited = tokio::time::timeout(LONG, reached.notified()).await;
            assert!(waited.is_ok(), "no scenario reaches {point} after {passes}");
            let engine = house.restart(engine).await;
            let told = asked.await.unwrap();
            assert!(!matches!(told, Settled::Done(_)), "{point}: told by a crashed process");
            let again = settle(&engine, one(), LONG).await;
            if (point, passes) == (Failpoint::AfterCloseBeforeAnswer, 2) {
                // The payment's own answer is lost, never given twice.
                refused(again, Refusal::DuplicateSettlement);
            } else {
                done(&again);
            }
            assert_eq!(house.paid().await, U256::from(PRICE), "{point} after {passes}");
            assert_eq!(house.mined().await, (2, 1), "{point} after {passes}: sent twice");
            proven(&house.chain, &house.folder.path().join("journal.db")).await;
        }
    }
}

#[tokio::test]
async fn an_advance_spent_elsewhere_is_the_only_one_ever() {
    let house = House::new();
    let (failpoints, reached) = Failpoints::hold_at(Failpoint::AfterErrandBeforePayment);
    let engine = house.start(Options { failpoints, ..options() }).await;
    let asked = tokio::spawn({
        let engine = engine.clone();
        async move { settle(&engine, one(), LONG).await }
    });
    reached.notified().await;
    assert_eq!(house.wei().await, U256::from(COST), "the advance is there");
    house.spend_elsewhere(U256::from(COST / 2)).await;
    let engine = house.restart(engine).await;
    drop(asked);
    // However often it comes, with whatever it signs next, it is sent nothing more.
    for nonce in 1..4 {
        let next = payment(&exact(), nonce, &approval(1, PRICE));
        let told =
            refused(settle(&engine, next.clone(), LONG).await, Refusal::Permit2AllowanceRequired);
        assert!(told.message.contains("advanced to this payer before"), "{told}");
        match engine.verify(&next).await.unwrap() {
            Verdict::Invalid(told) => assert!(told.message.contains("before"), "{told}"),
            valid @ Verdict::Valid { .. } => panic!("{valid:?}"),
        }
    }
    assert_eq!(house.mined().await, (1, 1), "one advance");
    // Who has the gas again pays on.
    house.chain.set_balance(payer().address(), U256::from(COST));
    done(&settle(&engine, payment(&exact(), 4, &approval(1, PRICE)), LONG).await);
    assert_eq!(house.mined().await, (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn payments_of_one_payer_share_gas_and_approval() {
    let house = House::new();
    let engine = house.start(options()).await;
    let both = [1, 2].map(|nonce| {
        let (engine, payment) = (engine.clone(), payment(&exact(), nonce, &approval(0, 2 * PRICE)));
        tokio::spawn(async move { settle(&engine, payment, LONG).await })
    });
    for one in both {
        done(&one.await.unwrap());
    }
    assert_eq!(house.paid().await, U256::from(2 * PRICE));
    assert_eq!(house.mined().await, (3, 1), "one advance, one approval, two payments");
}

#[tokio::test]
async fn an_approval_that_the_pool_forgets_is_sent_again() {
    let house = House::new();
    house.chain.set_balance(payer().address(), U256::from(COST));
    let engine = house.start(options()).await;
    house.chain.hold_mempool();
    let told = settle(&engine, one(), SHORT).await;
    assert_eq!(pending(told), None, "the payment itself is not entered");
    let hash = alloy::primitives::keccak256(approval(0, PRICE));
    until("the pool has it", || async { house.chain.pending_transactions().contains(&hash) }).await;
    assert!(house.chain.drop_transaction(hash));
    house.chain.release_mempool();
    done(&settle(&engine, one(), LONG).await);
    assert_eq!(house.mined().await, (1, 1));
    let receipt = house.chain.provider().get_transaction_receipt(hash).await.unwrap();
    assert!(receipt.is_some_and(|receipt| receipt.status()), "the payer's own bytes");
}

#[tokio::test]
async fn an_approval_that_was_displaced_is_told_as_such() {
    let house = House::new();
    house.chain.set_balance(payer().address(), U256::from(COST));
    let engine = house.start(options()).await;
    house.chain.hold_mempool();
    pending(settle(&engine, one(), SHORT).await);
    let hash: B256 = alloy::primitives::keccak256(approval(0, PRICE));
    until("the pool has it", || async { house.chain.pending_transactions().contains(&hash) }).await;
    assert!(house.chain.drop_transaction(hash));
    house.chain.set_nonce(payer().address(), 1);
    house.chain.release_mempool();
    // By then the payer's next nonce is another, and the approval is no good in any case.
    let told = match settle(&engine, one(), LONG).await {
        Settled::Refused(refused) => refused,
        other => panic!("{other:?}"),
    };
    assert!(
        told.reason.is(Refusal::ApprovalNotAllowed) || told.reason.is(Refusal::ApprovalFailed),
        "{told}"
    );
    until("room", || async { engine.health()[0].unfinished == 0 }).await;
    assert_eq!(house.paid().await, U256::ZERO);
    // Signed anew, it settles.
    house.chain.set_balance(payer().address(), U256::from(COST));
    done(&settle(&engine, payment(&exact(), 2, &approval(1, PRICE)), LONG).await);
}

#[tokio::test]
async fn a_payment_that_settles_nothing_waits_for_nothing() {
    let house = House::new();
    let engine = house.start(options()).await;
    let free = payment(&upto(), 1, &approval(0, PRICE)).charging(0.into()).unwrap();
    assert_eq!(done(&settle(&engine, free, LONG).await), "");
    assert_eq!(house.mined().await, (0, 0));
    assert_eq!(house.wei().await, U256::ZERO);
}

#[tokio::test]
async fn a_caller_that_cannot_wait_is_told_pending_and_the_errand_goes_on() {
    let house = House::new();
    let engine = house.start(options()).await;
    house.chain.hold_mempool();
    assert_eq!(pending(settle(&engine, one(), SHORT).await), None);
    house.chain.release_mempool();
    until("the advance", || async { house.wei().await == U256::from(COST) }).await;
    let wait = Duration::from_secs(10);
    done(&settle(&engine, one(), wait).await);
    assert_eq!(house.mined().await, (2, 1));
}

#[tokio::test]
async fn a_payer_who_may_have_one_unfinished_payment_gets_its_errands_done() {
    let house = House::new();
    let engine = house.start(Options { unfinished_per_payer_max: 1, ..options() }).await;
    done(&settle(&engine, one(), LONG).await);
    assert_eq!(house.mined().await, (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_approvals_one_is_enough() {
    let house = House::new();
    house.chain.set_balance(payer().address(), U256::from(COST));
    let engine = house.start(options()).await;
    // Both have the payer's next nonce: one of them can be mined.
    let payments = [
        payment(&exact(), 1, &approval(0, 2 * PRICE)),
        payment(&exact(), 2, &approval(0, 3 * PRICE)),
    ];
    let asked = payments.map(|payment| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let first = settle(&engine, payment.clone(), LONG).await;
            match first {
                Settled::Done(_) => first,
                // Presented again, it finds the allowance.
                _ => settle(&engine, payment, LONG).await,
            }
        })
    });
    for asked in asked {
        done(&asked.await.unwrap());
    }
    assert_eq!(house.paid().await, U256::from(2 * PRICE));
    assert_eq!(house.mined().await, (2, 1), "two payments, one approval");
}
