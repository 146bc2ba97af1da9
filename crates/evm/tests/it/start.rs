//! What stops a facilitator at start, and the road over HTTP.

use std::sync::Arc;

use alloy::primitives::{Address, Bytes, U256};
use pay402_core::error::Misconfigured;
use pay402_core::network::{ChainStatus, Network as _, Unverified};
use pay402_core::time::{ManualClock, UnixTime};
use pay402_core::{NetworkId, Scheme, WireVersion};
use pay402_devchain::genesis::{
    DEV_ACCOUNTS, MULTICALL3, PERMIT2, UPTO_PERMIT2_PROXY, USDC_ADDRESS, dev_signer,
};
use pay402_devchain::{Config, Devchain};
use pay402_evm::{Asset, AssetTable, EvmNetwork, Peg, Rpc, Settings};

use crate::support::{
    CHAIN_ID, FACILITATOR, House, START, network_id, network_on, payment, sign_with, usdc,
};

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(UnixTime(START)))
}

async fn check_key(house: &House) -> String {
    house.network.check().await.unwrap_err().key
}

#[tokio::test]
async fn a_good_configuration_starts() {
    let house = House::new();
    house.network.check().await.unwrap();
    let kinds = house.network.kinds();
    let kinds: Vec<_> = kinds.iter().map(|kind| (kind.version, kind.scheme.as_str())).collect();
    let (v1, v2) = (WireVersion::V1, WireVersion::V2);
    assert_eq!(kinds, [(v2, "exact"), (v2, "upto"), (v1, "exact")]);
    assert_eq!(house.network.extensions(), ["eip2612GasSponsoring"]);
    let upto = house.network.kinds().remove(1);
    let facilitator = DEV_ACCOUNTS[FACILITATOR].to_checksum(None);
    assert_eq!(upto.extra["facilitatorAddress"], facilitator.as_str());
    assert_eq!(house.network.signers(), [DEV_ACCOUNTS[FACILITATOR].to_checksum(None)]);
    let printed = format!("{:?}", house.network);
    assert!(!printed.contains("ac0974bec39a"), "the key is printed: {printed}");
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let house = House::new();
    house.chain.set_balance(DEV_ACCOUNTS[FACILITATOR], U256::ZERO);
    assert_eq!(check_key(&house).await, "network.signers");

    let house = House::new();
    house.chain.set_code(USDC_ADDRESS, Bytes::new());
    assert_eq!(check_key(&house).await, "network.assets");

    let wrong_domain = Asset::eip3009(
        &network_id(),
        &usdc().info.address,
        "USDC",
        6,
        ("USD Coin", "2"),
        Peg::Dollar,
    )
    .unwrap();
    let house = House::with(AssetTable::empty().with(wrong_domain), Settings::default());
    assert_eq!(check_key(&house).await, "network.assets");

    let wrong_decimals =
        Asset::eip3009(&network_id(), &usdc().info.address, "USDC", 18, ("USDC", "2"), Peg::Dollar)
            .unwrap();
    let house = House::with(AssetTable::empty().with(wrong_decimals), Settings::default());
    assert_eq!(check_key(&house).await, "network.assets");

    let factories = vec![Address::repeat_byte(7)];
    let house = House::with(AssetTable::defaults(), Settings { factories, ..Settings::default() });
    house.network.check().await.unwrap();
    house.chain.set_code(MULTICALL3, Bytes::new());
    assert_eq!(check_key(&house).await, "network.factories");

    // A node of another chain.
    let chain = Devchain::start(Config { chain_id: 8_453, ..Config::default() });
    let defaults = AssetTable::defaults();
    let network = network_on(&chain, &clock(), 0, defaults, Settings::default()).unwrap();
    let error = network.check().await.unwrap_err();
    assert_eq!(error.key, "network.rpc");
    assert!(error.problem.contains("8453"), "{error}");
}

#[tokio::test]
async fn what_is_not_on_the_chain_is_not_offered() {
    for missing in [PERMIT2, UPTO_PERMIT2_PROXY] {
        let house = House::new();
        house.chain.set_code(missing, Bytes::new());
        house.network.check().await.unwrap();
        let kinds = house.network.kinds();
        assert!(kinds.iter().all(|kind| kind.scheme == Scheme::EXACT), "{missing}");
        assert_eq!(house.network.extensions().is_empty(), missing == PERMIT2);
    }
}

#[test]
fn what_cannot_work_is_not_made() {
    let make = |id: NetworkId, signers, assets, confirmations| {
        let rpc = Rpc::http("rpc", &id, "http://127.0.0.1:1").unwrap();
        let settings =
            Settings { setting: "network[3]".into(), confirmations, ..Settings::default() };
        match EvmNetwork::new(id, rpc, signers, assets, clock(), settings) {
            Ok(_) => "made".to_owned(),
            Err(Misconfigured { key, .. }) => key,
        }
    };
    let signer = || vec![dev_signer(0)];
    let (here, assets) = (network_id(), AssetTable::defaults);
    assert_eq!(make(here.clone(), signer(), assets(), 1), "made");
    let solana = NetworkId::from_v1_name("solana").unwrap();
    assert_eq!(make(solana, signer(), assets(), 1), "network[3].id");
    assert_eq!(make(here.clone(), vec![], assets(), 1), "network[3].signers");
    let twice = vec![dev_signer(0), dev_signer(0)];
    assert_eq!(make(here.clone(), twice, assets(), 1), "network[3].signers");
    assert_eq!(make(here.clone(), signer(), assets(), 0), "network[3].confirmations");
    assert_eq!(make(here, signer(), AssetTable::empty(), 1), "network[3].assets");
    assert_eq!(make(NetworkId::eip155(31_337), signer(), assets(), 1), "network[3].assets");

    for bad in ["", "node", "ftp://node", "ws://127.0.0.1"] {
        let error = Rpc::http("network[3].rpc", &network_id(), bad).unwrap_err();
        assert_eq!(error.key, "network[3].rpc");
    }
}

#[test]
fn the_sealing_key_is_the_signers_and_stable() {
    let (one, same) = (House::new(), House::new());
    assert_eq!(one.network.sealing_key(), same.network.sealing_key());
    assert_ne!(one.network.sealing_key(), one.rival().sealing_key());
    assert_ne!(*one.network.sealing_key(), dev_signer(FACILITATOR).to_bytes().0);
}

#[tokio::test]
async fn a_payment_settles_over_http() {
    let house = House::new();
    let serving = house.chain.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
    let network = EvmNetwork::connect(
        network_id(),
        &serving.http_url(),
        vec![dev_signer(FACILITATOR)],
        AssetTable::defaults(),
        house.time.clone(),
        Settings::default(),
    )
    .unwrap();
    network.check().await.unwrap();
    let verified = network.verify(&payment()).await.unwrap();
    let (sent, raw) = sign_with(&network, &verified.plan).await;
    network.send(&raw).await.unwrap();
    let status = network.status(&verified.plan, Some(&sent)).await.unwrap();
    assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
    let (id, _) = Rpc::discover("rpc", &serving.http_url()).await.unwrap();
    assert_eq!(id, NetworkId::eip155(CHAIN_ID));
    serving.shutdown().await;

    // Without a node nothing is decided, and its URL stays with us.
    let Err(Unverified::Unavailable(error)) = network.verify(&payment()).await else {
        panic!("a payment was judged without a node")
    };
    assert!(!error.to_string().contains("127.0.0.1"), "{error}");
    assert!(network.status(&verified.plan, Some(&sent)).await.is_err());
    let refused = Address::ZERO.to_string();
    assert!(network.consumed_nonces(&refused).await.is_err());
}
