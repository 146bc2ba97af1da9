//! Every check of the protocol against the chain, each provoked.

use alloy::primitives::{Address, B256, Bytes, U256, bytes};
use pay402_core::network::Network as _;
use pay402_core::scheme::ServerScheme as _;
use pay402_core::time::UnixTime;
use pay402_core::{Amount, NetworkId, Payment, Refusal, Requirements, Scheme};
use pay402_devchain::genesis::{USDC_ADDRESS, WALLET_1271, dev_signer};
use pay402_evm::exact::{AUTHORIZATION_LIFETIME_S_MAX, Eip3009Payload};
use pay402_evm::network::verify::HEAD_STALE_S;
use pay402_evm::typed_data::Authorization;
use pay402_evm::{Asset, AssetTable, ExactServer, Peg, Settings, TransferMethod};
use serde_json::{Value, json};

use crate::support::{
    House, PAYER, PENNILESS, START, STRANGER, TOKEN_OWNER, authorization, authorization_of,
    carrying, network_id, payment, payment_by, presented, signed, terms, terms_in, token, usdc,
};

/// A payment whose terms differ from good ones; it is signed for the terms.
fn on_terms(terms: &Requirements) -> Payment {
    signed(terms, authorization(terms, dev_signer(PAYER).address()), &dev_signer(PAYER))
}

fn with_extra(key: &str, value: Option<Value>) -> Requirements {
    let mut terms = terms(10_000);
    match value {
        Some(value) => drop(terms.extra.insert(key.into(), value)),
        None => drop(terms.extra.remove(key)),
    }
    terms
}

#[tokio::test]
async fn a_good_payment_is_verified() {
    let house = House::new();
    let good = payment();
    let verified = house.verify(&good).await.unwrap();
    assert_eq!(verified.amount, Amount::from(10_000));
    assert_eq!(verified.payer, dev_signer(PAYER).address().to_checksum(None));
    assert_eq!(verified.expires.0, START + 60);
    let identified = house.network.identify(&good).unwrap();
    assert_eq!(identified.key, verified.key);
    assert_eq!(identified.fingerprint, verified.fingerprint);
    assert_eq!(identified.payer, verified.payer);
}

#[tokio::test]
async fn terms_are_held_against_our_table() {
    let house = House::new();
    let good = terms(10_000);
    let elsewhere = Requirements { network: NetworkId::eip155(8453), ..good.clone() };
    house.refuses(&on_terms(&elsewhere), Refusal::InvalidNetwork).await;
    let unknown = Address::repeat_byte(5).to_checksum(None);
    let unknown = Requirements { asset: unknown, ..good.clone() };
    house.refuses(&on_terms(&unknown), Refusal::AssetNotAllowed).await;
    house.refuses(&on_terms(&with_extra("name", None)), Refusal::MissingEip712Domain).await;
    house.refuses(&on_terms(&with_extra("version", None)), Refusal::MissingEip712Domain).await;
    let renamed = with_extra("name", Some(json!("USD Coin")));
    house.refuses(&on_terms(&renamed), Refusal::Eip712DomainMismatch).await;
    let renumbered = with_extra("version", Some(json!("1")));
    house.refuses(&on_terms(&renumbered), Refusal::Eip712DomainMismatch).await;
    let unheard_of = with_extra("assetTransferMethod", Some(json!("userOp")));
    house.refuses(&on_terms(&unheard_of), Refusal::UnsupportedScheme).await;
    let permit2 = with_extra("assetTransferMethod", Some(json!("permit2")));
    house.refuses(&on_terms(&permit2), Refusal::InvalidPayload).await;
    let free = Requirements { amount: Amount::ZERO, ..good.clone() };
    house.refuses(&on_terms(&free), Refusal::InvalidPaymentRequirements).await;

    let scheme = Scheme::new("auth-capture");
    let other = Requirements { scheme: scheme.clone(), ..good };
    let mut claim = presented(&other, payment().presented().payload.clone());
    claim.scheme = scheme;
    let payment = Payment::pair(other, claim).unwrap();
    house.refuses(&payment, Refusal::UnsupportedScheme).await;
}

#[tokio::test]
async fn a_token_without_eip3009_is_not_asked_to_take_it() {
    let table = AssetTable::defaults().with(usdc().by(TransferMethod::Permit2));
    let house = House::with(table, Settings::default());
    house.refuses(&payment(), Refusal::Eip3009NotSupported).await;
}

#[tokio::test]
async fn the_authorization_must_be_for_exactly_these_terms() {
    let house = House::new();
    let terms = terms(10_000);
    let payer = dev_signer(PAYER);
    let good = authorization(&terms, payer.address());
    let to = dev_signer(STRANGER).address();
    let refused = signed(&terms, Authorization { to, ..good }, &payer);
    let refused = house.refuses(&refused, Refusal::RecipientMismatch).await;
    assert_eq!(refused.payer, Some(payer.address().to_checksum(None)));
    for value in [9_999_u64, 10_001] {
        let other = Authorization { value: U256::from(value), ..good };
        house.refuses(&signed(&terms, other, &payer), Refusal::ValueMismatch).await;
    }
}

#[tokio::test]
async fn times_are_judged_by_the_chain_strictly() {
    let house = House::new();
    let terms = terms(10_000);
    let payer = dev_signer(PAYER);
    let with = |after: u64, before: u64| {
        let times = Authorization {
            valid_after: U256::from(after),
            valid_before: U256::from(before),
            ..authorization(&terms, payer.address())
        };
        signed(&terms, times, &payer)
    };
    let now = START + 5;
    house.advance_to(now);
    house.refuses(&with(now, now + 60), Refusal::ValidAfter).await;
    house.refuses(&with(now + 1, now + 60), Refusal::ValidAfter).await;
    house.verify(&with(now - 1, now + 60)).await.unwrap();
    let margin = 6;
    house.refuses(&with(0, now), Refusal::ValidBefore).await;
    house.refuses(&with(0, now + margin), Refusal::ValidBefore).await;
    house.verify(&with(0, now + margin + 1)).await.unwrap();
}

#[tokio::test]
async fn an_authorization_has_an_end_in_sight() {
    let house = House::new();
    let terms = terms(10_000);
    let payer = dev_signer(PAYER);
    let until = |valid_before: U256| {
        let times = Authorization { valid_before, ..authorization(&terms, payer.address()) };
        signed(&terms, times, &payer)
    };
    let server = ExactServer::new(AssetTable::empty());
    let latest = U256::from(START + AUTHORIZATION_LIFETIME_S_MAX);
    let long = until(latest);
    house.verify(&long).await.unwrap();
    server.identify(&long, UnixTime(START)).unwrap();
    for endless in [latest + U256::from(1), U256::from(u64::MAX), U256::MAX] {
        let endless = until(endless);
        let refused = house.refuses(&endless, Refusal::ValidBefore).await;
        assert!(refused.message.contains("maxTimeoutSeconds"), "{refused}");
        let refused = server.identify(&endless, UnixTime(START)).unwrap_err();
        assert!(refused.reason.is(Refusal::ValidBefore), "{refused}");
    }
}

#[tokio::test]
async fn slow_blocks_need_more_time() {
    let settings = Settings { block_time_s: 12, ..Settings::default() };
    let house = House::with(AssetTable::defaults(), settings);
    let terms = terms(10_000);
    let payer = dev_signer(PAYER);
    let until = |before: u64| {
        let valid_before = U256::from(before);
        let times = Authorization { valid_before, ..authorization(&terms, payer.address()) };
        signed(&terms, times, &payer)
    };
    house.refuses(&until(START + 24), Refusal::ValidBefore).await;
    house.verify(&until(START + 25)).await.unwrap();
}

#[tokio::test]
async fn a_stale_head_does_not_tell_the_time() {
    let house = House::new();
    let terms = terms(10_000);
    let payer = dev_signer(PAYER);
    let good = authorization(&terms, payer.address());
    let later = START + HEAD_STALE_S + 1;
    house.time.set(UnixTime(later));
    // The newest block is old: an authorization that begins after it is good nevertheless.
    let valid_after = U256::from(START + 1);
    let fresh = Authorization { valid_after, ..good };
    house.verify(&signed(&terms, fresh, &payer)).await.unwrap();
    // And one that has ended since is not.
    let valid_before = U256::from(later + 6);
    let ended = Authorization { valid_before, ..good };
    house.refuses(&signed(&terms, ended, &payer), Refusal::ValidBefore).await;
}

#[tokio::test]
async fn an_account_without_code_signs_by_itself() {
    let house = House::new();
    let terms = terms(10_000);
    let payer = dev_signer(PAYER);
    let good = authorization(&terms, payer.address());
    let by_stranger = signed(&terms, good, &dev_signer(STRANGER));
    house.refuses(&by_stranger, Refusal::InvalidSignature).await;
    let other_nonce = Authorization { nonce: B256::repeat_byte(0xaa), ..good };
    let bytes = Eip3009Payload::parse(&signed(&terms, good, &payer).presented().payload).unwrap();
    let moved = carrying(&terms, other_nonce, bytes.signature.expose().to_vec());
    house.refuses(&moved, Refusal::InvalidSignature).await;
    for length in [1, 64, 65, 66, 200] {
        let noise = carrying(&terms, good, vec![0x11; length]);
        house.refuses(&noise, Refusal::InvalidSignature).await;
    }
}

#[tokio::test]
async fn every_low_encoding_is_one_payment_and_the_high_one_is_none() {
    let house = House::new();
    let terms = terms(10_000);
    let payer = dev_signer(PAYER);
    let good = authorization(&terms, payer.address());
    let payload = Eip3009Payload::parse(&signed(&terms, good, &payer).presented().payload).unwrap();
    let ecdsa = payload.signature.ecdsa().unwrap();
    let (r, s) = (ecdsa.r(), ecdsa.s());
    let encode = |s: B256, v: u8| [r.as_slice(), s.as_slice(), &[v]].concat();
    let mut compact = [r.as_slice(), s.as_slice()].concat();
    compact[32] |= if ecdsa.v() == 28 { 0x80 } else { 0 };
    let mut seen = Vec::new();
    for bytes in [encode(s, ecdsa.v()), encode(s, ecdsa.v() - 27), compact] {
        let verified = house.verify(&carrying(&terms, good, bytes)).await.unwrap();
        seen.push((verified.key, verified.fingerprint));
    }
    assert!(seen.iter().all(|one| *one == seen[0]));
    let order = "115792089237316195423570985008687907852837564279074904382605163141518161494337";
    let high: B256 = (order.parse::<U256>().unwrap() - U256::from_be_bytes(s.0)).into();
    for v in [55 - ecdsa.v(), 28 - ecdsa.v()] {
        let malleated = carrying(&terms, good, encode(high, v));
        house.refuses(&malleated, Refusal::InvalidSignature).await;
    }
}

#[tokio::test]
async fn a_contract_account_is_asked() {
    let house = House::new();
    let wallet = house.wallet(PAYER);
    let terms = terms(10_000);
    let good = authorization(&terms, wallet);
    let verified = house.verify(&signed(&terms, good, &dev_signer(PAYER))).await.unwrap();
    assert_eq!(verified.payer, wallet.to_checksum(None));
    let by_stranger = signed(&terms, good, &dev_signer(STRANGER));
    house.refuses(&by_stranger, Refusal::InvalidSignature).await;
    house.refuses(&carrying(&terms, good, vec![3; 100]), Refusal::InvalidSignature).await;
}

#[tokio::test]
async fn code_comes_before_the_key() {
    // The payer's own key signs, but the account has code that says no to everything.
    let house = House::new();
    let payer = dev_signer(PAYER);
    house.chain.set_code(payer.address(), bytes!("5f5f5260205ff3"));
    house.refuses(&payment(), Refusal::InvalidSignature).await;
    // Code that accepts its own key is fine.
    house.chain.set_code(payer.address(), WALLET_1271.runtime_code.clone());
    house.verify(&payment()).await.unwrap();
}

#[tokio::test]
async fn a_contract_that_burns_gas_is_refused_within_the_cap() {
    let house = House::new();
    let wallet = house.wallet(PAYER);
    let endless = bytes!("5b5f56");
    house.chain.set_code(wallet, endless);
    let terms = terms(10_000);
    let burning = carrying(&terms, authorization(&terms, wallet), vec![1; 65]);
    house.refuses(&burning, Refusal::InvalidSignature).await;
}

#[tokio::test]
async fn the_balance_must_cover_the_amount() {
    let house = House::new();
    house.refuses(&payment_by(PENNILESS, 1), Refusal::InsufficientFunds).await;
    let all = 1_000_000_000_000;
    house.refuses(&payment_by(PAYER, all + 1), Refusal::InsufficientFunds).await;
    house.verify(&payment_by(PAYER, all)).await.unwrap();
}

#[tokio::test]
async fn a_used_nonce_is_refused_with_its_transaction() {
    let house = House::new();
    let good = payment();
    let verified = house.verify(&good).await.unwrap();
    let (sent, _) = house.submit(&verified.plan).await;
    let refused = house.refuses(&good, Refusal::NonceAlreadyUsed).await;
    assert_eq!(refused.transaction, Some(sent.transaction));
    assert!(house.network.identify(&good).is_ok(), "a repeat is identified like the first");
}

#[tokio::test]
async fn a_cancelled_authorization_is_told_apart() {
    let house = House::new();
    let good = payment();
    house.cancel(PAYER, authorization_of(&good).nonce).await;
    house.refuses(&good, Refusal::AuthorizationCanceled).await;
}

#[tokio::test]
async fn the_simulation_is_the_last_judge() {
    let house = House::new();
    let account = dev_signer(PAYER).address();
    house.transact(TOKEN_OWNER, USDC_ADDRESS, &token::blacklistCall { account }).await;
    let refused = house.refuses(&payment(), Refusal::SimulationFailed).await;
    assert!(refused.message.contains("blacklisted"), "{refused}");
    house.transact(TOKEN_OWNER, USDC_ADDRESS, &token::pauseCall {}).await;
    let refused = house.refuses(&payment_by(STRANGER, 1), Refusal::SimulationFailed).await;
    assert!(refused.message.contains("paused"), "{refused}");
}

#[tokio::test]
async fn an_asset_without_code_is_not_paid() {
    let nowhere = Address::repeat_byte(0x55).to_checksum(None);
    let asset =
        Asset::eip3009(&network_id(), &nowhere, "GONE", 6, ("Gone", "1"), Peg::Other).unwrap();
    let house = House::with(AssetTable::defaults().with(asset.clone()), Settings::default());
    house.refuses(&on_terms(&terms_in(asset, 5)), Refusal::AssetNotDeployed).await;
    // A token of the table may also vanish later.
    house.chain.set_code(usdc().token(), Bytes::new());
    house.refuses(&payment(), Refusal::AssetNotDeployed).await;
}
