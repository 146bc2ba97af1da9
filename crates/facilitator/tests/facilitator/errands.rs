//! Errands on the embedded EVM: adopting code and operations of an account's root, over HTTP and
//! across crashes.

use std::sync::Arc;
use std::time::Duration;

use alloy::eips::eip7702::Authorization;
use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider as _;
use alloy::signers::SignerSync as _;
use alloy::sol_types::SolCall as _;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use pay402_core::facilitator::Settled;
use pay402_core::network::Network;
use pay402_core::time::{Clock as _, ManualClock, UnixTime};
use pay402_core::{NetworkId, Refusal};
use pay402_devchain::genesis::{DEV_ACCOUNTS, dev_signer};
use pay402_devchain::{Config, Devchain};
use pay402_evm::account::AGENT_ACCOUNT;
use pay402_evm::audit::Audited;
use pay402_evm::{AssetTable, EvmNetwork, Rpc, Settings, Sponsoring};
use pay402_facilitator::api::{Access, KeyHash, router};
use pay402_facilitator::failpoint::{Failpoint, Failpoints};
use pay402_facilitator::{Engine, Options};
use pay402_store::SqliteJournal;
use serde_json::{Map, Value, json};
use tower::ServiceExt as _;

use crate::agent::{self, Account};
use crate::audit;
use crate::bed::{LONG, SHORT, done, options, pending, refused, until};

pub(crate) const CHAIN_ID: u64 = 84_532;
/// Sends transactions.
const SIGNER: usize = 0;
/// When the chain begins.
pub(crate) const START: u64 = 1_795_000_000;
/// What one account may have sent in a day.
pub(crate) const DAILY_MAX: u32 = 3;

/// One chain, one journal, one clock, and engines that come and go.
pub(crate) struct House {
    pub(crate) chain: Devchain,
    clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
}

impl House {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::new(UnixTime(START)));
        let ticking = Arc::clone(&clock);
        let chain = Devchain::start(Config {
            chain_id: CHAIN_ID,
            clock: Arc::new(move || ticking.now().0),
            ..Config::default()
        });
        Self { chain, clock, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) async fn start(&self, options: Options) -> Engine {
        let settings = Settings {
            delegates: vec![AGENT_ACCOUNT],
            delegation_managers: vec![crate::delegations::MANAGER],
            sponsoring: Sponsoring {
                adoptions: true,
                operations_per_account_max: DAILY_MAX,
                ..Sponsoring::default()
            },
            ..Settings::default()
        };
        let network = EvmNetwork::new(
            id(),
            Rpc::over(&id(), &self.chain.rpc_client()),
            vec![dev_signer(SIGNER)],
            AssetTable::defaults(),
            Arc::clone(&self.clock) as _,
            settings,
        );
        let networks: Vec<Arc<dyn Network>> = vec![Arc::new(network.unwrap())];
        let journal = Arc::new(SqliteJournal::open(self.folder.path().join("journal.db")).unwrap());
        Engine::start(networks, journal, Arc::clone(&self.clock) as _, options).await.unwrap()
    }

    /// Ends `engine` as a crash would and starts another once the lease ran out.
    pub(crate) async fn restart(&self, engine: Engine) -> Engine {
        engine.crash();
        drop(engine);
        self.clock.set(self.clock.now().plus_s(30));
        self.start(options()).await
    }

    /// Transactions that the signer had mined.
    /// Asserts that the chain proves the books, to the wei.
    pub(crate) async fn proven(&self) -> Audited {
        audit::proven(&self.chain, &self.folder.path().join("journal.db")).await
    }

    pub(crate) async fn sent(&self) -> u64 {
        self.chain.provider().get_transaction_count(DEV_ACCOUNTS[SIGNER]).await.unwrap()
    }

    pub(crate) async fn is_adopted(&self, name: &str) -> bool {
        let account = account_of(name).address;
        let code = self.chain.provider().get_code_at(account).await.unwrap();
        code == [&[0xef, 0x01, 0x00], AGENT_ACCOUNT.as_slice()].concat()
    }
}

pub(crate) fn id() -> NetworkId {
    NetworkId::eip155(CHAIN_ID)
}

pub(crate) fn account_of(name: &str) -> Account {
    Account { chain_id: CHAIN_ID, address: agent::signer(name).address() }
}

/// The request of this account to adopt the code with its first transaction.
fn adoption(name: &str) -> Map<String, Value> {
    adoption_at(name, 0)
}

fn adoption_at(name: &str, nonce: u64) -> Map<String, Value> {
    let tuple = Authorization { chain_id: U256::from(CHAIN_ID), address: AGENT_ACCOUNT, nonce };
    let signature = agent::signer(name).sign_hash_sync(&tuple.signature_hash()).unwrap();
    let signed = tuple.into_signed(signature);
    let request = json!({
        "account": account_of(name).address,
        "authorization": {
            "chainId": CHAIN_ID,
            "address": AGENT_ACCOUNT,
            "nonce": nonce,
            "yParity": signed.y_parity(),
            "r": format!("{:#066x}", signed.r()),
            "s": format!("{:#066x}", signed.s()),
        },
    });
    request.as_object().unwrap().clone()
}

/// The request of this account's root to end a key.
fn revocation(name: &str, key: Address) -> Map<String, Value> {
    let root = agent::signer(name);
    let deadline = START + 10 * 24 * 60 * 60;
    let call = account_of(name).revoke(&root, key, 0, deadline).abi_encode();
    let request = json!({ "account": root.address(), "call": Bytes::from(call) });
    request.as_object().unwrap().clone()
}

async fn ask(engine: &Engine, request: Map<String, Value>, wait: Duration) -> Settled {
    engine.account_for(&id(), request, wait).await.unwrap()
}

async fn post(engine: &Engine, access: Access, body: &Value) -> (StatusCode, Value) {
    let request = Request::post("/account").header("content-type", "application/json");
    let request = request.body(Body::from(body.to_string())).unwrap();
    let answer = router(engine.clone(), access).oneshot(request).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn an_account_adopts_code_over_http() {
    let house = House::new();
    let engine = house.start(options()).await;
    let mut body = Value::Object(adoption("root"));
    body["network"] = json!("eip155:84532");
    let (status, answer) = post(&engine, Access::Open, &body).await;
    assert_eq!((status, &answer["success"]), (StatusCode::OK, &json!(true)), "{answer}");
    assert_eq!(answer["network"], "eip155:84532");
    assert_eq!(answer["payer"], account_of("root").address.to_checksum(None));
    assert!(answer["transaction"].as_str().unwrap().starts_with("0x"));
    assert!(house.is_adopted("root").await);
    // Told again, as often as it is asked, and sent once.
    assert_eq!(post(&engine, Access::Open, &body).await, (StatusCode::OK, answer));
    assert_eq!(house.sent().await, 1);
    assert_eq!(house.proven().await.errands, 2, "the adoption and its turn of the day");
}

#[tokio::test]
async fn what_is_malformed_or_not_for_us_sends_nothing() {
    let house = House::new();
    let engine = house.start(options()).await;
    let mut good = Value::Object(adoption("root"));
    good["network"] = json!("eip155:84532");
    let keys = || Access::Keys(vec![KeyHash::of("secret")]);
    assert_eq!(post(&engine, keys(), &good).await.0, StatusCode::UNAUTHORIZED);
    let spoiled = |key: &str, value: Value| {
        let mut body = good.clone();
        body[key] = value;
        body
    };
    for (field, value) in [
        ("network", json!("moon")),
        ("account", json!("0x1")),
        ("authorization", json!([])),
        ("call", json!("0xz")),
        ("tip", json!(1)),
    ] {
        let (status, answer) = post(&engine, Access::Open, &spoiled(field, value)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{field}: {answer}");
        assert!(answer.to_string().contains(field), "{field}: {answer}");
    }
    let elsewhere = spoiled("network", json!("eip155:1"));
    let (status, answer) = post(&engine, Access::Open, &elsewhere).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["errorReason"], Refusal::InvalidNetwork.code(), "{answer}");
    let other = spoiled("call", json!("0x12345678"));
    let (_, answer) = post(&engine, Access::Open, &other).await;
    assert_eq!(answer["errorReason"], Refusal::OperationNotAllowed.code(), "{answer}");
    assert_eq!(house.sent().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn copies_of_a_request_are_sent_once() {
    let house = House::new();
    let engine = house.start(options()).await;
    let copies: Vec<_> = (0..8)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move { ask(&engine, adoption("root"), LONG).await })
        })
        .collect();
    let mut told = Vec::new();
    for copy in copies {
        told.push(done(&copy.await.unwrap()));
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(house.sent().await, 1);
}

#[tokio::test]
async fn a_crash_at_any_point_adopts_exactly_once() {
    // The turn of the day is an entry too, and the first to be closed.
    for (passes, point) in [
        (0, Failpoint::AfterTurnBeforeEnter),
        (0, Failpoint::AfterEnter),
        (0, Failpoint::AfterSignBeforeJournal),
        (0, Failpoint::AfterJournalBeforeSend),
        (0, Failpoint::AfterSendBeforeSent),
        (0, Failpoint::AfterProofBeforeClose),
        (1, Failpoint::AfterProofBeforeClose),
        (0, Failpoint::AfterCloseBeforeAnswer),
        (1, Failpoint::AfterCloseBeforeAnswer),
    ] {
        let house = House::new();
        let (failpoints, reached) = Failpoints::hold_after(passes, point);
        let engine = house.start(Options { failpoints, ..options() }).await;
        let asked = tokio::spawn({
            let engine = engine.clone();
            async move { ask(&engine, adoption("root"), LONG).await }
        });
        let waited = tokio::time::timeout(LONG, reached.notified()).await;
        assert!(waited.is_ok(), "no scenario reaches {point} after {passes}");
        let engine = house.restart(engine).await;
        let told = asked.await.unwrap();
        assert!(!matches!(told, Settled::Done(_)), "{point}: told by a crashed process");
        let again = done(&ask(&engine, adoption("root"), LONG).await);
        assert!(house.is_adopted("root").await, "{point}");
        assert_eq!(house.sent().await, 1, "{point} after {passes}: sent twice");
        assert_eq!(done(&ask(&engine, adoption("root"), LONG).await), again);
        // And one turn was taken.
        for number in 1..DAILY_MAX {
            let key = Address::repeat_byte(u8::try_from(number).unwrap());
            done(&ask(&engine, revocation("root", key), LONG).await);
        }
        let key = Address::repeat_byte(0xff);
        refused(ask(&engine, revocation("root", key), LONG).await, Refusal::SponsoringLimit);
    }
}

#[tokio::test]
async fn without_being_asked_again_a_restart_finishes_what_was_entered() {
    let house = House::new();
    let (failpoints, reached) = Failpoints::hold_at(Failpoint::AfterEnter);
    let engine = house.start(Options { failpoints, ..options() }).await;
    let asked = tokio::spawn({
        let engine = engine.clone();
        async move { ask(&engine, adoption("root"), LONG).await }
    });
    reached.notified().await;
    let _engine = house.restart(engine).await;
    asked.abort();
    until("adopted", || house.is_adopted("root")).await;
}

#[tokio::test]
async fn an_account_has_so_many_turns_a_day() {
    let house = House::new();
    let engine = house.start(options()).await;
    done(&ask(&engine, adoption("root"), LONG).await);
    let key = |number: u32| Address::repeat_byte(u8::try_from(number).unwrap());
    for number in 1..DAILY_MAX {
        for _ in 0..3 {
            done(&ask(&engine, revocation("root", key(number)), LONG).await);
        }
    }
    // Neither a restart nor another account changes that.
    let engine = house.restart(engine).await;
    let told = ask(&engine, revocation("root", key(77)), LONG).await;
    refused(told, Refusal::SponsoringLimit);
    done(&ask(&engine, adoption("another"), LONG).await);
    assert_eq!(house.sent().await, u64::from(DAILY_MAX) + 1);
    house.clock.set(house.clock.now().plus_s(24 * 60 * 60));
    house.chain.mine(1);
    let engine = house.restart(engine).await;
    done(&ask(&engine, revocation("root", key(77)), LONG).await);
}

#[tokio::test]
async fn an_authorization_that_was_skipped_is_told_as_such() {
    let house = House::new();
    let engine = house.start(options()).await;
    house.chain.hold_mempool();
    pending(ask(&engine, adoption("root"), SHORT).await);
    until("it is sent", || async { !house.chain.pending_transactions().is_empty() }).await;
    let transaction = pending(ask(&engine, adoption("root"), SHORT).await);
    assert_eq!(transaction, Some(house.chain.pending_transactions()[0].to_string()));
    house.chain.set_nonce(account_of("root").address, 1);
    house.chain.release_mempool();
    let told = ask(&engine, adoption("root"), LONG).await;
    let told = refused(told, Refusal::AdoptionNotEffective);
    assert_eq!(told.transaction, transaction);
    assert!(!house.is_adopted("root").await);
    let mut other = adoption("root");
    other["authorization"]["address"] = json!(Address::repeat_byte(1));
    refused(ask(&engine, other, LONG).await, Refusal::DelegateNotAllowed);
}

#[tokio::test]
async fn an_account_whose_errands_keep_failing_is_suspended() {
    let house = House::new();
    let engine = house.start(Options { strikes_max: 2, ..options() }).await;
    for nonce in 0..2 {
        house.chain.hold_mempool();
        pending(ask(&engine, adoption_at("root", nonce), SHORT).await);
        until("it is sent", || async { !house.chain.pending_transactions().is_empty() }).await;
        house.chain.set_nonce(account_of("root").address, nonce + 1);
        house.chain.release_mempool();
        let told = ask(&engine, adoption_at("root", nonce), LONG).await;
        refused(told, Refusal::AdoptionNotEffective);
    }
    refused(ask(&engine, adoption_at("root", 2), LONG).await, Refusal::PayerSuspended);
    done(&ask(&engine, adoption("another"), LONG).await);
    assert_eq!(house.sent().await, 3);
    assert_eq!(house.proven().await.failed, 2, "what failed cost, and is in the books");
}
