//! The payer's side: which offers are taken up, what is signed, and what became of it.

use alloy::primitives::{B256, U256};
use pay402_core::error::Unavailable;
use pay402_core::scheme::{ClientScheme as _, Fate};
use pay402_core::spend::{Clearance, Intent, Plan, Reservation};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Digest, NetworkId, Requirements, Scheme};
use pay402_devchain::genesis::dev_signer;
use pay402_evm::exact::Eip3009Payload;
use pay402_evm::exact::client::{CANCEL_DEPTH_BLOCKS, FINALITY_MARGIN_S};
use pay402_evm::{AssetTable, ExactClient, Rpc};
use serde_json::{Value, json};

use crate::support::{House, PAYER, START, STRANGER, network_id, pair, terms};

fn client() -> ExactClient {
    ExactClient::new(dev_signer(PAYER), AssetTable::defaults())
}

fn client_on(house: &House) -> ExactClient {
    client().with_rpc(network_id(), Rpc::over(&network_id(), &house.chain.rpc_client()))
}

fn clearance(client: &ExactClient, offer: &Requirements, nonce: u8) -> Clearance {
    Clearance::resume(Reservation {
        intent: Intent {
            id: Digest::of(&[b"test"]),
            origin: "https://api.example.com".into(),
            resource: "https://api.example.com/weather".into(),
        },
        payer: client.payer(),
        quote: client.quote(offer).unwrap(),
        plan: Plan {
            nonce: [nonce; 32],
            valid_after: UnixTime(START - 60),
            valid_before: UnixTime(START + 60),
        },
        reserved_at: UnixTime(START),
    })
}

#[test]
fn a_quote_comes_from_our_own_table() {
    let quote = client().quote(&terms(10_000)).unwrap();
    assert_eq!(quote.amount, Amount::from(10_000));
    assert_eq!((quote.symbol.as_str(), quote.decimals, quote.is_dollar), ("USDC", 6, true));
    assert_eq!(quote.pay_to, terms(10_000).pay_to.to_lowercase());
    let mut named = terms(10_000);
    named.extra.insert("assetTransferMethod".into(), json!("eip3009"));
    assert!(client().quote(&named).is_ok());
}

#[test]
fn offers_that_cannot_be_paid_safely_are_declined() {
    let good = terms(10_000);
    let with_extra = |key: &str, value: Value| {
        let mut offer = good.clone();
        offer.extra.insert(key.into(), value);
        offer
    };
    let without = |key: &str| {
        let mut offer = good.clone();
        offer.extra.remove(key);
        offer
    };
    let usdc_of_base = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913".to_owned();
    let cases = [
        (Requirements { scheme: Scheme::new("upto"), ..good.clone() }, "scheme"),
        (
            Requirements { network: NetworkId::from_v1_name("solana").unwrap(), ..good.clone() },
            "EVM",
        ),
        (Requirements { asset: usdc_of_base, ..good.clone() }, "asset table"),
        (Requirements { asset: "USDC".into(), ..good.clone() }, "asset table"),
        (Requirements { network: NetworkId::eip155(1), ..good.clone() }, "asset table"),
        (with_extra("assetTransferMethod", json!("erc7710")), "session key"),
        (with_extra("assetTransferMethod", json!("userOp")), "not known"),
        (with_extra("assetTransferMethod", json!(7)), "not known"),
        (with_extra("name", json!("USD Coin")), "EIP-712"),
        (with_extra("version", json!("1")), "EIP-712"),
        (without("name"), "EIP-712"),
        (without("version"), "EIP-712"),
        (Requirements { pay_to: format!("0x{:040}", 0), ..good.clone() }, "zero address"),
        (Requirements { pay_to: "0x12".into(), ..good.clone() }, "payTo"),
        (Requirements { amount: Amount::ZERO, ..good.clone() }, "zero"),
    ];
    for (offer, why) in cases {
        let decline = client().quote(&offer).unwrap_err();
        assert!(decline.to_string().contains(why), "{why}: {decline}");
    }
}

#[tokio::test]
async fn signing_is_deterministic_and_exactly_what_was_cleared() {
    let client = client();
    let clearance = clearance(&client, &terms(10_000), 7);
    let first = client.authorize(&clearance).await.unwrap().payload;
    let again = client.authorize(&clearance).await.unwrap().payload;
    assert_eq!(first, again);
    let authorization = Eip3009Payload::parse(&first).unwrap().authorization;
    assert_eq!(authorization.from, dev_signer(PAYER).address());
    assert_eq!(authorization.to.to_checksum(None), terms(10_000).pay_to);
    assert_eq!(authorization.value, U256::from(10_000));
    assert_eq!(authorization.valid_after, U256::from(START - 60));
    assert_eq!(authorization.valid_before, U256::from(START + 60));
    assert_eq!(authorization.nonce, B256::repeat_byte(7));
}

#[tokio::test]
async fn the_chain_takes_what_the_client_signs() {
    let house = House::new();
    let client = client();
    let offer = terms(10_000);
    let clearance = clearance(&client, &offer, 9);
    let payload = client.authorize(&clearance).await.unwrap().payload;
    let verified = house.verify(&pair(&offer, payload)).await.unwrap();
    assert_eq!(verified.amount, Amount::from(10_000));
    assert_eq!(verified.payer.to_lowercase(), client.payer());
}

#[tokio::test]
async fn nothing_is_signed_for_another_account_or_asset() {
    let client = client();
    let good = clearance(&client, &terms(10_000), 7);
    let foreign = Reservation { payer: "0x0".into(), ..good.reservation().clone() };
    assert!(client.authorize(&Clearance::resume(foreign)).await.is_err());
    let narrow = ExactClient::new(dev_signer(PAYER), AssetTable::empty());
    assert!(narrow.authorize(&good).await.is_err());
    let mut other = good.reservation().clone();
    other.quote.scheme = Scheme::new("upto");
    assert!(client.authorize(&Clearance::resume(other)).await.is_err());
}

#[tokio::test]
async fn the_identifier_is_the_payers_secret() {
    let client = client();
    let offer = terms(10_000);
    let seven = clearance(&client, &offer, 7);
    let id = client.identifier(&seven).await.unwrap();
    assert_eq!(id, client.identifier(&seven).await.unwrap());
    assert_ne!(id, client.identifier(&clearance(&client, &offer, 8)).await.unwrap());
    let stranger = ExactClient::new(dev_signer(STRANGER), AssetTable::defaults());
    let theirs = clearance(&stranger, &offer, 7);
    assert_ne!(id, stranger.identifier(&theirs).await.unwrap());
    assert!((16..=128).contains(&id.len()) && id.starts_with("pay_"), "{id}");
    assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    // It tells nothing of the authorization's own signature.
    let payload = client.authorize(&seven).await.unwrap().payload;
    assert!(!payload["signature"].as_str().unwrap().contains(&id[4..]));
    assert!(!format!("{client:?}").to_lowercase().contains("signer"), "{client:?}");
}

#[tokio::test]
async fn an_authorization_lives_until_the_chain_shows_its_end() {
    let house = House::new();
    let client = client_on(&house);
    let clearance = clearance(&client, &terms(10_000), 1);
    assert_eq!(client.fate(&clearance).await, Ok(Fate::Live));
    // Past its end but not yet beyond reorganizations: still not called dead.
    house.advance_to(START + 60);
    assert_eq!(client.fate(&clearance).await, Ok(Fate::Live));
    house.advance_to(START + 60 + FINALITY_MARGIN_S - 1);
    assert_eq!(client.fate(&clearance).await, Ok(Fate::Live));
    // Our clock proves nothing; a block does.
    house.time.set(UnixTime(START + 10_000));
    assert_eq!(client.fate(&clearance).await, Ok(Fate::Live));
    house.advance_to(START + 10_000);
    assert_eq!(client.fate(&clearance).await, Ok(Fate::Dead));
}

#[tokio::test]
async fn a_used_authorization_names_its_transaction() {
    let house = House::new();
    let client = client_on(&house);
    let offer = terms(10_000);
    let clearance = clearance(&client, &offer, 2);
    let payload = client.authorize(&clearance).await.unwrap().payload;
    let verified = house.verify(&pair(&offer, payload)).await.unwrap();
    let (sent, _) = house.submit(&verified.plan).await;
    let used = Fate::Used {
        transaction: Some(sent.transaction),
        charged: Some(clearance.reservation().quote.amount),
    };
    assert_eq!(client.fate(&clearance).await, Ok(used.clone()));
    house.advance_to(START + 10_000);
    assert_eq!(client.fate(&clearance).await, Ok(used));
}

#[tokio::test]
async fn a_cancelled_authorization_is_dead_once_it_is_deep() {
    let house = House::new();
    let client = client_on(&house);
    let clearance = clearance(&client, &terms(10_000), 3);
    house.cancel(PAYER, B256::repeat_byte(3)).await;
    house.chain.mine(CANCEL_DEPTH_BLOCKS - 1);
    assert_eq!(client.fate(&clearance).await, Ok(Fate::Live));
    house.chain.mine(1);
    assert_eq!(client.fate(&clearance).await, Ok(Fate::Dead));
}

#[tokio::test]
async fn without_a_node_nothing_is_known() {
    let client = client();
    let clearance = clearance(&client, &terms(10_000), 4);
    let Err(Unavailable { problem, .. }) = client.fate(&clearance).await else {
        panic!("the fate was told without asking the chain")
    };
    assert!(problem.contains("no RPC URL"), "{problem}");
    let nowhere = Rpc::http("rpc", &network_id(), "http://127.0.0.1:9/key-SECRET").unwrap();
    let client = client.with_rpc(network_id(), nowhere);
    let unavailable = client.fate(&clearance).await.unwrap_err();
    assert!(!unavailable.to_string().contains("SECRET"), "{unavailable}");
}
