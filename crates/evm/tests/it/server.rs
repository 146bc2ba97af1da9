//! The resource server's side: offers, and what is refused before anything is claimed.

use alloy::primitives::{Address, U256};
use alloy::signers::SignerSync as _;
use pay402_core::asset::AssetInfo;
use pay402_core::refusal::Reason;
use pay402_core::scheme::{ServerScheme as _, Tariff};
use pay402_core::time::UnixTime;
use pay402_core::{NetworkId, Payment, Price, Refusal, Requirements};
use pay402_devchain::genesis::dev_signer;
use pay402_evm::exact::SETTLEMENT_MARGIN_S_MIN;
use pay402_evm::typed_data::Authorization;
use pay402_evm::{AssetTable, ExactServer};

use crate::support::{
    PAY_TO, PAYER, START, STRANGER, authorization, authorization_of, carrying, network_id, payment,
    signed, terms, usdc,
};

fn server() -> ExactServer {
    ExactServer::new(AssetTable::defaults())
}

fn usd(price: &str) -> Tariff {
    Tariff::Usd(Price::parse(price).unwrap())
}

#[test]
fn an_offer_is_exact_and_canonical() {
    let lower = PAY_TO.to_lowercase();
    let offer = server().requirements(&network_id(), &usd("$0.01"), &lower, 60).unwrap();
    assert_eq!(offer.amount.to_string(), "10000");
    assert_eq!((offer.pay_to.as_str(), offer.asset), (PAY_TO, usdc().info.address));
    assert_eq!(offer.extra.get("name").unwrap(), "USDC");
    assert_eq!(offer.extra.get("version").unwrap(), "2");
}

#[test]
fn an_offer_that_cannot_work_is_a_configuration_error() {
    let refused = |network: &NetworkId, tariff: &Tariff, pay_to: &str, timeout: u64| {
        server().requirements(network, tariff, pay_to, timeout).unwrap_err().key
    };
    let here = network_id();
    let cent = usd("$0.01");
    assert_eq!(refused(&here, &cent, "0x12", 60), "pay_to");
    assert_eq!(refused(&here, &cent, &PAY_TO.replace("CdDd", "cdDd"), 60), "pay_to");
    assert_eq!(refused(&here, &cent, &format!("0x{:040}", 0), 60), "pay_to");
    assert_eq!(refused(&here, &usd("$0.0000001"), PAY_TO, 60), "price");
    assert_eq!(refused(&here, &usd("$0"), PAY_TO, 60), "price");
    let margin = SETTLEMENT_MARGIN_S_MIN;
    assert_eq!(refused(&here, &cent, PAY_TO, margin), "max_timeout_seconds");
    assert!(server().requirements(&here, &cent, PAY_TO, margin + 1).is_ok());
    assert_eq!(refused(&NetworkId::eip155(31_337), &cent, PAY_TO, 60), "network");
    let solana = NetworkId::from_v1_name("solana").unwrap();
    assert_eq!(refused(&solana, &cent, PAY_TO, 60), "network");
    let nameless = AssetInfo { domain_name: String::new(), ..usdc().info };
    let nameless = Tariff::Atomic { amount: 1.into(), asset: nameless };
    assert_eq!(refused(&here, &nameless, PAY_TO, 60), "asset");
    let elsewhere = Tariff::Atomic { amount: 1.into(), asset: usdc().info };
    assert_eq!(refused(&NetworkId::eip155(8453), &elsewhere, PAY_TO, 60), "asset");
}

fn refusal(payment: &Payment, now: u64) -> Refusal {
    match server().identify(payment, UnixTime(now)).unwrap_err().reason {
        Reason::Known(refusal) => refusal,
        Reason::Foreign(code) => panic!("{code}"),
    }
}

#[test]
fn a_payment_is_known_by_what_the_chain_refuses_twice() {
    let terms = terms(10_000);
    let signer = dev_signer(PAYER);
    let authorization = authorization(&terms, signer.address());
    let good = signed(&terms, authorization, &signer);
    let key = server().identify(&good, UnixTime(START)).unwrap();
    assert_eq!(
        key.as_str(),
        format!(
            "eip155:84532/{}/{}/{}",
            terms.asset.to_lowercase(),
            signer.address().to_string().to_lowercase(),
            authorization.nonce
        )
    );
    // The key does not depend on how the signature is encoded, nor on how addresses are spelled.
    let payload = pay402_evm::exact::Eip3009Payload::parse(&good.presented().payload).unwrap();
    let compact = payload.signature.ecdsa().unwrap();
    let v = compact.v() - 27;
    let short = [compact.r().as_slice(), compact.s().as_slice(), &[v]].concat();
    let same = carrying(&terms, authorization, short);
    assert_eq!(server().identify(&same, UnixTime(START)), Ok(key.clone()));
    let lower = Requirements { asset: terms.asset.to_lowercase(), ..terms.clone() };
    let same = signed(&lower, authorization, &signer);
    assert_eq!(server().identify(&same, UnixTime(START)), Ok(key));
}

#[test]
fn what_needs_no_chain_is_refused_at_once() {
    let terms = terms(10_000);
    let signer = dev_signer(PAYER);
    let good = authorization(&terms, signer.address());
    let other = |authorization: Authorization| signed(&terms, authorization, &signer);
    let stranger = dev_signer(STRANGER).address();
    assert_eq!(refusal(&other(Authorization { to: stranger, ..good }), START), {
        Refusal::RecipientMismatch
    });
    for value in [9_999, 10_001, 0] {
        let payment = other(Authorization { value: U256::from(value), ..good });
        assert_eq!(refusal(&payment, START), Refusal::ValueMismatch);
    }
    let malleated = {
        let digest = {
            let domain = pay402_evm::typed_data::token_domain(
                &usdc().info,
                crate::support::CHAIN_ID,
                usdc().token(),
            );
            good.digest(&domain)
        };
        let signature = signer.sign_hash_sync(&digest).unwrap();
        let order =
            "115792089237316195423570985008687907852837564279074904382605163141518161494337"
                .parse::<U256>()
                .unwrap();
        let s = order - signature.s();
        let v = 27 + u8::from(!signature.v());
        [&signature.r().to_be_bytes::<32>()[..], &s.to_be_bytes::<32>(), &[v]].concat()
    };
    assert_eq!(refusal(&carrying(&terms, good, malleated), START), Refusal::InvalidSignature);
}

#[test]
fn times_are_strict_at_both_ends() {
    let good = payment();
    let Authorization { valid_after, valid_before, .. } = authorization_of(&good);
    let (after, before) = (valid_after.to::<u64>(), valid_before.to::<u64>());
    assert_eq!(refusal(&good, after), Refusal::ValidAfter);
    assert!(server().identify(&good, UnixTime(after + 1)).is_ok());
    let last = before - SETTLEMENT_MARGIN_S_MIN - 1;
    assert!(server().identify(&good, UnixTime(last)).is_ok());
    assert_eq!(refusal(&good, last + 1), Refusal::ValidBefore);
    let patient = server().with_margin_s(30);
    assert!(patient.identify(&good, UnixTime(before - 30)).is_err());
    assert!(patient.identify(&good, UnixTime(before - 31)).is_ok());
}

#[test]
fn an_expired_payment_is_recalled_by_the_key_it_was_claimed_with() {
    let good = payment();
    let key = server().identify(&good, UnixTime(START)).unwrap();
    assert_eq!(refusal(&good, START + 100_000), Refusal::ValidBefore);
    assert_eq!(server().recall(&good), Ok(key));
    let terms = terms(10_000);
    let signer = dev_signer(PAYER);
    let to = dev_signer(STRANGER).address();
    let astray = Authorization { to, ..authorization(&terms, signer.address()) };
    let astray = server().recall(&signed(&terms, astray, &signer)).unwrap_err();
    assert!(astray.reason.is(Refusal::RecipientMismatch), "{astray}");
}

#[test]
fn a_signature_that_only_a_contract_can_judge_passes_on() {
    let terms = terms(10_000);
    let good = authorization(&terms, Address::repeat_byte(0x71));
    let by_owner = signed(&terms, good, &dev_signer(PAYER));
    assert!(server().identify(&by_owner, UnixTime(START)).is_ok());
    let passkey = carrying(&terms, good, vec![1; 300]);
    assert!(server().identify(&passkey, UnixTime(START)).is_ok());
}
