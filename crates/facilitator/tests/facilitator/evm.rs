//! The engine on the embedded EVM, with real signatures, the real network and the real journal.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, Bytes, U256, keccak256};
use alloy::providers::Provider as _;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use pay402_core::facilitator::{Settled, Verdict};
use pay402_core::network::Network;
use pay402_core::scheme::{ClientScheme as _, ServerScheme as _, Tariff};
use pay402_core::spend::{Clearance, Intent, Plan, Reservation};
use pay402_core::time::{Clock as _, SystemClock, UnixTime};
use pay402_core::wire::{Endpoint, decode_settled, decode_verdict, encode_facilitator_request};
use pay402_core::{Digest, NetworkId, Payment, Presented, Refusal, Requirements, WireVersion};
use pay402_devchain::genesis::{DEV_ACCOUNTS, NO_USDC_INDEX, USDC_ADDRESS, dev_signer};
use pay402_devchain::{Config, Devchain};
use pay402_evm::network::pack::PackSettings;
use pay402_evm::{AssetTable, EvmNetwork, ExactClient, Rpc, Settings};
use pay402_facilitator::api::{Access, router};
use pay402_facilitator::{Engine, Options};
use pay402_store::SqliteJournal;
use tower::ServiceExt as _;

use crate::bed::{LONG, done, options, pending, refused, settle, until};

pub(crate) const CHAIN_ID: u64 = 84_532;
/// Sends transactions.
pub(crate) const SIGNERS: [usize; 2] = [0, 1];
/// Pays.
pub(crate) const PAYER: usize = 2;
/// What one payment costs, in atomic units.
pub(crate) const PRICE: u64 = 10_000;

pub(crate) fn chain() -> Devchain {
    Devchain::start(Config { chain_id: CHAIN_ID, ..Config::default() })
}

/// An engine that sends each payment by itself.
pub(crate) async fn start(chain: &Devchain, journal: &Path, options: Options) -> Engine {
    let packing = PackSettings { wait: None, ..PackSettings::default() };
    start_packing(chain, journal, options, packing).await
}

pub(crate) async fn start_packing(
    chain: &Devchain,
    journal: &Path,
    options: Options,
    packing: PackSettings,
) -> Engine {
    let rpc = Rpc::over(&NetworkId::eip155(CHAIN_ID), &chain.rpc_client());
    start_served(rpc, journal, options, Settings { packing, ..Settings::default() }).await
}

/// An engine that reaches the chain through `rpc`.
pub(crate) async fn start_served(
    rpc: Rpc,
    journal: &Path,
    options: Options,
    settings: Settings,
) -> Engine {
    let id = NetworkId::eip155(CHAIN_ID);
    let network = EvmNetwork::new(
        id.clone(),
        rpc,
        SIGNERS.map(dev_signer).to_vec(),
        AssetTable::defaults(),
        Arc::new(SystemClock),
        settings,
    );
    let networks: Vec<Arc<dyn Network>> = vec![Arc::new(network.unwrap())];
    let journal = Arc::new(SqliteJournal::open(journal).unwrap());
    Engine::start(networks, journal, Arc::new(SystemClock), options).await.unwrap()
}

pub(crate) fn payee() -> Address {
    DEV_ACCOUNTS[NO_USDC_INDEX]
}

fn terms() -> Requirements {
    let server = pay402_evm::ExactServer::new(AssetTable::defaults());
    let tariff = Tariff::Usd("$0.01".parse().unwrap());
    let id = NetworkId::eip155(CHAIN_ID);
    server.requirements(&id, &tariff, &payee().to_string(), 60).unwrap()
}

/// A payment of the price, signed, with a nonce made of `number`.
pub(crate) async fn payment(number: u64) -> Payment {
    payment_by(PAYER, number).await
}

/// The same by this development account.
pub(crate) async fn payment_by(payer: usize, number: u64) -> Payment {
    payment_for(payer, number, SystemClock.now(), 120).await
}

/// The same, signed at `now` for so many seconds.
pub(crate) async fn payment_for(payer: usize, number: u64, now: UnixTime, seconds: u64) -> Payment {
    let client = ExactClient::new(dev_signer(payer), AssetTable::defaults());
    let plan = Plan {
        nonce: keccak256(number.to_be_bytes()).0,
        valid_after: now.minus_s(60),
        valid_before: now.plus_s(seconds),
    };
    let intent = Intent {
        id: Digest::of(&[&number.to_be_bytes()]),
        origin: "http://127.0.0.1".into(),
        resource: "/".into(),
    };
    let quote = client.quote(&terms()).unwrap();
    let clearance = Clearance::resume(Reservation {
        intent,
        payer: client.payer(),
        quote,
        plan,
        reserved_at: now,
    });
    let presented = Presented {
        version: WireVersion::V2,
        scheme: terms().scheme,
        network: terms().network,
        accepted: Some(terms()),
        payload: client.authorize(&clearance).await.unwrap().payload,
        resource: None,
        extensions: serde_json::Map::new(),
        other: serde_json::Map::new(),
    };
    Payment::pair(terms(), presented).unwrap()
}

/// What an account holds of the token, read from the chain.
pub(crate) async fn balance(chain: &Devchain, account: Address) -> U256 {
    let mut data = keccak256("balanceOf(address)")[..4].to_vec();
    data.extend_from_slice(account.into_word().as_slice());
    let call = serde_json::json!([{"to": USDC_ADDRESS, "data": Bytes::from(data)}, "latest"]);
    chain.provider().raw_request::<_, U256>("eth_call".into(), call).await.unwrap()
}

#[tokio::test]
async fn a_payment_moves_the_money_over_http() {
    let chain = chain();
    let folder = tempfile::tempdir().unwrap();
    let engine = start(&chain, &folder.path().join("journal.db"), Options::default()).await;
    let api = router(engine.clone(), Access::Open);
    let payment = payment(1).await;
    let body = encode_facilitator_request(&payment, Endpoint::Settle).to_string();
    let post = async |path: &str| {
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.body(Body::from(body.clone())).unwrap();
        let answer = api.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.into_body().collect().await.unwrap().to_bytes()
    };
    let payer = DEV_ACCOUNTS[PAYER];
    let before = balance(&chain, payer).await;

    let verdict = decode_verdict(&post("/verify").await).unwrap();
    assert!(matches!(&verdict, Verdict::Valid { payer: named } if *named == payer.to_string()));
    assert_eq!(balance(&chain, payer).await, before, "verifying moved money");
    let first = done(&decode_settled(&post("/settle").await, &terms()).unwrap());
    assert_eq!(balance(&chain, payer).await, before - U256::from(PRICE));
    assert_eq!(balance(&chain, payee()).await, U256::from(PRICE));

    let again = decode_settled(&post("/settle").await, &terms()).unwrap();
    assert_eq!(refused(again, Refusal::DuplicateSettlement).transaction, Some(first));
    match decode_verdict(&post("/verify").await).unwrap() {
        Verdict::Invalid(told) => assert!(told.reason.is(Refusal::NonceAlreadyUsed), "{told}"),
        valid @ Verdict::Valid { .. } => panic!("a used authorization: {valid:?}"),
    }
    assert_eq!(balance(&chain, payee()).await, U256::from(PRICE), "charged twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_payments_and_copies_settle_once_each() {
    const PAYMENTS: u64 = 24;
    const COPIES: usize = 8;
    let chain = chain();
    let folder = tempfile::tempdir().unwrap();
    let engine = start(&chain, &folder.path().join("journal.db"), options()).await;
    let mut asked = Vec::new();
    for number in 0..PAYMENTS {
        let payment = payment(number).await;
        for _ in 0..COPIES {
            let (engine, payment) = (engine.clone(), payment.clone());
            let copy = tokio::spawn(async move { settle(&engine, payment, LONG).await });
            asked.push((number, copy));
        }
    }
    let mut successes = vec![0; usize::try_from(PAYMENTS).unwrap()];
    for (number, copy) in asked {
        match copy.await.unwrap() {
            Settled::Done(_) => successes[usize::try_from(number).unwrap()] += 1,
            other => _ = refused(other, Refusal::DuplicateSettlement),
        }
    }
    assert!(successes.iter().all(|count| *count == 1), "{successes:?}");
    assert_eq!(balance(&chain, payee()).await, U256::from(PRICE * PAYMENTS));
    let mut sent = 0;
    for signer in SIGNERS {
        let provider = chain.provider();
        sent += provider.get_transaction_count(DEV_ACCOUNTS[signer]).await.unwrap();
    }
    assert_eq!(sent, PAYMENTS, "copies burnt gas");
}

#[tokio::test]
async fn a_restart_between_broadcast_and_receipt_settles_once() {
    let chain = chain();
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.db");
    let lease = Duration::from_secs(3);
    let payment = payment(7).await;
    chain.hold_mempool();
    let engine = start(&chain, &journal, Options { lease, ..options() }).await;
    let told = settle(&engine, payment.clone(), Duration::from_millis(300)).await;
    let hash = pending(told).unwrap();
    engine.crash();
    drop(engine);
    // The pool forgets it, as pools do.
    assert!(chain.drop_transaction(hash.parse().unwrap()));
    chain.release_mempool();

    let engine = start(&chain, &journal, Options { lease, ..options() }).await;
    until("settled without being asked", || async {
        balance(&chain, payee()).await == U256::from(PRICE)
    })
    .await;
    assert_eq!(done(&settle(&engine, payment.clone(), LONG).await), hash);
    let told = settle(&engine, payment, LONG).await;
    refused(told, Refusal::DuplicateSettlement);
    assert_eq!(balance(&chain, payee()).await, U256::from(PRICE));
}
