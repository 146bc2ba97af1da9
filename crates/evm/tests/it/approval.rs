//! Approvals of Permit2 that payers sign as transactions: what is checked, what is sent, its proof.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alloy::consensus::transaction::SignerRecoverable as _;
use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEnvelope, TxLegacy};
use alloy::eips::{Decodable2718 as _, Encodable2718 as _};
use alloy::primitives::{Address, Bytes, Signature, U256};
use alloy::providers::Provider as _;
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall as _;
use pay402_core::network::{ChainStatus, Network as _, Prerequisite, SentAs};
use pay402_core::refusal::Reason;
use pay402_core::scheme::{ClientScheme as _, ServerScheme as _};
use pay402_core::spend::{Clearance, Intent, Plan, Reservation};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Digest, Payment, Refusal, Requirements};
use pay402_devchain::Mining;
use pay402_devchain::genesis::{PERMIT2, USDC_ADDRESS, WALLET_1271, dev_signer, usdc_balance_slot};
use pay402_evm::contracts::Erc20;
use pay402_evm::exact::Permit2Payload;
use pay402_evm::network::FEE_PER_GAS_MAX_DEFAULT;
use pay402_evm::network::sight::{CANCEL_DEPTH_BLOCKS, FINALITY_MARGIN_S};
use pay402_evm::signature::SignatureBytes;
use pay402_evm::typed_data::PermitTransfer;
use pay402_evm::{
    Asset, AssetTable, ExactClient, ExactServer, Peg, Rpc, Settings, Sponsoring, UptoClient,
};
use serde_json::{Map, Value, json};

use crate::agent as account;
use crate::faults::{Meddling, over_as};
use crate::permit::{exact, is_proven_by, permit, sign, upto};
use crate::support::{
    CHAIN_ID, FACILITATOR, House, PAY_TO, PAYER, START, STRANGER, TOKEN_OWNER, network_id,
    presented, token,
};

/// What one payment costs, in atomic units.
const PRICE: u64 = 10_000;
const GAS: u64 = 70_000;
/// In wei.
const FEE: u128 = 2_000_000_000;
const COST: u128 = 140_000_000_000_000;

fn settings() -> Settings {
    let sponsoring = Sponsoring { approvals: true, advance_wei_max: COST, ..Sponsoring::default() };
    Settings { sponsoring, ..Settings::default() }
}

async fn house() -> House {
    house_as(settings()).await
}

/// A house whose poor payer has tokens and nothing else.
async fn house_as(settings: Settings) -> House {
    let house = House::with(AssetTable::defaults(), settings);
    house.network.check().await.unwrap();
    house.give(poor().address(), 10 * PRICE);
    house
}

impl House {
    fn give(&self, account: Address, amount: u64) {
        self.chain.set_storage(USDC_ADDRESS, usdc_balance_slot(account), U256::from(amount));
    }

    async fn wei_of(&self, account: Address) -> U256 {
        self.chain.provider().get_balance(account).await.unwrap()
    }

    /// What has to be done before the payment can be settled.
    async fn first(&self, payment: &Payment) -> Option<Prerequisite> {
        self.verify(payment).await.unwrap().first
    }
}

fn poor() -> PrivateKeySigner {
    account::signer("poor")
}

fn approve(spender: Address, value: U256) -> Bytes {
    Erc20::approveCall { spender, value }.abi_encode().into()
}

/// The approval that a good payment brings along.
fn good() -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN_ID,
        nonce: 0,
        gas_limit: GAS,
        max_fee_per_gas: FEE,
        max_priority_fee_per_gas: 1,
        to: USDC_ADDRESS.into(),
        input: approve(PERMIT2, U256::from(PRICE)),
        ..TxEip1559::default()
    }
}

fn raw(transaction: TxEip1559, signer: &PrivateKeySigner) -> Vec<u8> {
    let signature = signer.sign_hash_sync(&transaction.signature_hash()).unwrap();
    transaction.into_signed(signature).encoded_2718()
}

fn info(payer: &PrivateKeySigner, raw: &[u8]) -> Value {
    json!({
        "from": payer.address().to_checksum(None),
        "asset": USDC_ADDRESS.to_checksum(None),
        "spender": PERMIT2.to_checksum(None),
        "amount": PRICE.to_string(),
        "signedTransaction": alloy::hex::encode_prefixed(raw),
        "version": "1",
    })
}

/// A payment by `payer` that brings this along.
fn bringing(terms: &Requirements, payer: &PrivateKeySigner, info: &Value) -> Payment {
    of(terms, permit(terms, payer.address()), payer, info)
}

fn of(
    terms: &Requirements,
    transfer: PermitTransfer,
    payer: &PrivateKeySigner,
    info: &Value,
) -> Payment {
    let payload = Permit2Payload {
        permit: transfer,
        spender: transfer.spender(),
        signature: SignatureBytes::new(sign(&transfer, payer)),
    };
    let mut presented = presented(terms, payload.to_json());
    presented.scheme = terms.scheme.clone();
    presented.extensions.insert("erc20ApprovalGasSponsoring".into(), json!({ "info": info }));
    Payment::pair(terms.clone(), presented).unwrap()
}

fn payment(terms: &Requirements) -> Payment {
    bringing(terms, &poor(), &info(&poor(), &raw(good(), &poor())))
}

fn approving(transaction: TxEip1559) -> Payment {
    bringing(&exact(PRICE), &poor(), &info(&poor(), &raw(transaction, &poor())))
}

fn failed_as(status: &ChainStatus, refusal: Refusal) -> bool {
    matches!(status, ChainStatus::Failed { refused, .. }
        if refused.reason == Reason::Known(refusal))
}

// === The road ===

#[tokio::test]
async fn a_payer_without_gas_pays_by_an_approval() {
    for (terms, charge) in [(exact(PRICE), PRICE), (upto(PRICE), 4_000)] {
        let house = house().await;
        let payer = poor().address();
        let payment = payment(&terms).charging(charge.into()).unwrap();
        // First the gas that is missing, to the wei.
        let Prerequisite { errand, in_vain } = house.first(&payment).await.unwrap();
        let expected = format!("{}/advance/{payer:#x}/", network_id());
        assert!(errand.key.as_str().starts_with(&expected), "{}", errand.key);
        assert!(in_vain.reason.is(Refusal::Permit2AllowanceRequired), "{in_vain}");
        assert!(in_vain.message.contains("before"), "{in_vain}");
        assert!(house.network.signed_elsewhere(&errand.plan).is_none());
        let (sent, _) = house.submit(&errand.plan).await;
        let status = house.network.status(&errand.plan, Some(&sent)).await.unwrap();
        assert!(
            matches!(status, ChainStatus::Proven { fee, .. } if fee > Amount::new(U256::from(COST))),
            "what it cost is its gas and what was sent: {status:?}"
        );
        assert_eq!(house.wei_of(payer).await, U256::from(COST));
        // Then the approval, as the payer signed it.
        let Prerequisite { errand, .. } = house.first(&payment).await.unwrap();
        let (sent, bytes) = house.network.signed_elsewhere(&errand.plan).unwrap();
        assert!(errand.key.as_str().ends_with(&sent.transaction), "{}", errand.key);
        assert_eq!((&sent.signer, sent.nonce), (&payer.to_checksum(None), 0));
        assert_eq!(bytes.expose(), raw(good(), &poor()));
        let open = ChainStatus::Open { expired: false, displaced: false };
        assert_eq!(house.network.status(&errand.plan, None).await, Ok(open.clone()));
        assert_eq!(house.network.status(&errand.plan, Some(&sent)).await, Ok(open));
        house.network.send(&bytes).await.unwrap();
        let status = house.network.status(&errand.plan, Some(&sent)).await.unwrap();
        assert!(
            matches!(&status, ChainStatus::Proven { transaction, fee: Amount::ZERO, .. }
            if *transaction == sent.transaction),
            "{status:?}"
        );
        assert_eq!(house.allowance(payer).await, U256::from(PRICE));
        // Then the payment, by the ordinary road.
        let had = house.usdc_of(PAY_TO.parse().unwrap()).await;
        let verified = house.verify(&payment).await.unwrap();
        assert!(verified.first.is_none());
        let (sent, _) = house.submit(&verified.plan).await;
        let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
        assert!(is_proven_by(&status, &sent.transaction), "{status:?}");
        assert_eq!(house.usdc_of(PAY_TO.parse().unwrap()).await, had + U256::from(charge));
    }
}

#[tokio::test]
async fn who_has_the_gas_is_sent_none() {
    let house = house().await;
    house.chain.set_balance(poor().address(), U256::from(COST));
    let first = house.first(&payment(&exact(PRICE))).await.unwrap();
    assert!(first.errand.key.as_str().contains("/approve/"), "{}", first.errand.key);
    assert!(first.in_vain.reason.is(Refusal::Permit2AllowanceRequired));
    // Whoever is approved already needs nothing.
    house.approve(PAYER, U256::MAX).await;
    let payer = dev_signer(PAYER);
    let terms = exact(PRICE);
    let approved = bringing(&terms, &payer, &info(&payer, &raw(good(), &payer)));
    assert!(house.first(&approved).await.is_none());
}

#[tokio::test]
async fn where_nothing_is_charged_nothing_is_sent() {
    let house = house().await;
    let free = payment(&upto(PRICE)).charging(Amount::ZERO).unwrap();
    assert!(house.first(&free).await.is_none());
}

#[tokio::test]
async fn it_is_offered_only_where_it_is_set() {
    let name = "erc20ApprovalGasSponsoring".to_owned();
    let house = house().await;
    assert!(house.network.extensions().contains(&name));
    let off = house_as(Settings::default()).await;
    assert!(!off.network.extensions().contains(&name));
    off.refuses(&payment(&exact(PRICE)), Refusal::Permit2AllowanceRequired).await;
    let spoiled = bringing(&exact(PRICE), &poor(), &json!({ "signedTransaction": 1 }));
    off.refuses(&spoiled, Refusal::Permit2AllowanceRequired).await;
    // A client that adds nothing asks for nothing.
    let silent = bringing(&exact(PRICE), &poor(), &json!({ "version": "1" }));
    house.refuses(&silent, Refusal::Permit2AllowanceRequired).await;
}

#[tokio::test]
async fn an_advance_has_its_bound() {
    let settings = |max| {
        let sponsoring = Sponsoring { advance_wei_max: max, ..settings().sponsoring };
        Settings { sponsoring, ..settings() }
    };
    for (max, has, good) in [
        (COST, 0, true),
        (COST - 1, 0, false),
        (COST - 1, 1, true),
        (0, COST - 1, false),
        (0, COST, true),
    ] {
        let house = house_as(settings(max)).await;
        house.chain.set_balance(poor().address(), U256::from(has));
        let payment = payment(&exact(PRICE));
        if good {
            assert!(house.first(&payment).await.is_some(), "{max} {has}");
        } else {
            let refused = house.refuses(&payment, Refusal::Permit2AllowanceRequired).await;
            assert!(refused.message.contains("advanced"), "{refused}");
        }
    }
}

// === What is refused ===

#[tokio::test]
async fn the_extension_must_be_for_this_payment() {
    let house = house().await;
    let stranger = dev_signer(STRANGER).address().to_checksum(None);
    let form = Refusal::ApprovalForm;
    for terms in [exact(PRICE), upto(PRICE)] {
        for (key, value, refusal) in [
            ("from", json!("me"), form),
            ("amount", json!(1), form),
            ("amount", json!("1e4"), form),
            ("version", json!(1), form),
            ("spender", Value::Null, form),
            ("signedTransaction", json!("0x0"), form),
            ("signedTransaction", json!(1), form),
            ("signedTransaction", json!(format!("0x{}", "00".repeat(1025))), form),
            ("from", json!(stranger), Refusal::ApprovalFromMismatch),
            ("asset", json!(stranger), Refusal::ApprovalAssetMismatch),
            ("spender", json!(stranger), Refusal::ApprovalSpenderMismatch),
            ("signedTransaction", json!("0x"), Refusal::ApprovalUnreadable),
            ("signedTransaction", json!("0x02c0"), Refusal::ApprovalUnreadable),
        ] {
            let mut info = info(&poor(), &raw(good(), &poor()));
            info[key] = value;
            let refused = house.refuses(&bringing(&terms, &poor(), &info), refusal).await;
            assert_eq!(refused.payer, Some(poor().address().to_checksum(None)));
        }
    }
}

#[tokio::test]
async fn the_transaction_must_approve_permit2_and_nothing_else() {
    let house = house().await;
    let with = |input: Bytes| TxEip1559 { input, ..good() };
    let transfer = Erc20::transferCall { to: PERMIT2, value: U256::from(PRICE) }.abi_encode();
    let call = approve(PERMIT2, U256::from(PRICE)).to_vec();
    let mut dirty = call.clone();
    dirty[4] = 1;
    for (transaction, refusal) in [
        (TxEip1559 { to: PERMIT2.into(), ..good() }, Refusal::ApprovalWrongTarget),
        (
            TxEip1559 { to: alloy::primitives::TxKind::Create, ..good() },
            Refusal::ApprovalWrongTarget,
        ),
        (with(transfer.into()), Refusal::ApprovalWrongSelector),
        (with(Bytes::new()), Refusal::ApprovalWrongSelector),
        (with(call[..67].to_vec().into()), Refusal::ApprovalInvalidCalldata),
        (with([&call[..], &[0]].concat().into()), Refusal::ApprovalInvalidCalldata),
        (with(dirty.into()), Refusal::ApprovalInvalidCalldata),
        (with(approve(USDC_ADDRESS, U256::MAX)), Refusal::ApprovalWrongSpender),
        (TxEip1559 { chain_id: 1, ..good() }, Refusal::ApprovalNotAllowed),
        (TxEip1559 { value: U256::from(1), ..good() }, Refusal::ApprovalNotAllowed),
        (with(approve(PERMIT2, U256::from(PRICE - 1))), Refusal::ApprovalNotAllowed),
        (TxEip1559 { gas_limit: 100_001, ..good() }, Refusal::ApprovalNotAllowed),
        (TxEip1559 { max_fee_per_gas: 200_000_000_001, ..good() }, Refusal::ApprovalNotAllowed),
        (
            TxEip1559 {
                access_list: vec![alloy::eips::eip2930::AccessListItem::default()].into(),
                ..good()
            },
            Refusal::ApprovalNotAllowed,
        ),
        // What only the chain shows.
        (TxEip1559 { nonce: 1, ..good() }, Refusal::ApprovalNotAllowed),
        (TxEip1559 { max_fee_per_gas: 1, ..good() }, Refusal::ApprovalNotAllowed),
        (TxEip1559 { gas_limit: 30_000, ..good() }, Refusal::ApprovalNotAllowed),
    ] {
        let refused = house.refuses(&approving(transaction.clone()), refusal).await;
        assert_eq!(refused.payer, Some(poor().address().to_checksum(None)), "{transaction:?}");
    }
    house.verify(&approving(TxEip1559 { gas_limit: 60_000, ..good() })).await.unwrap();
    house.verify(&approving(with(approve(PERMIT2, U256::MAX)))).await.unwrap();
}

#[tokio::test]
async fn the_transaction_must_be_the_payers() {
    let house = house().await;
    let terms = exact(PRICE);
    let bringing = |raw: &[u8]| bringing(&terms, &poor(), &info(&poor(), raw));
    let stranger = raw(good(), &dev_signer(STRANGER));
    house.refuses(&bringing(&stranger), Refusal::ApprovalSignerMismatch).await;
    // The twin of the payer's signature, and one that is of nobody.
    let signature = poor().sign_hash_sync(&good().signature_hash()).unwrap();
    let order = U256::from_be_bytes(alloy::hex!(
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
    ));
    let twin = Signature::new(signature.r(), order - signature.s(), !signature.v());
    let nobody = Signature::new(U256::ZERO, U256::from(1), false);
    for bad in [twin, nobody] {
        let raw = good().into_signed(bad).encoded_2718();
        house.refuses(&bringing(&raw), Refusal::ApprovalInvalidSignature).await;
    }
    // Other types of transactions, and bytes behind one.
    let legacy = TxLegacy {
        chain_id: Some(CHAIN_ID),
        gas_price: FEE,
        gas_limit: GAS,
        to: USDC_ADDRESS.into(),
        input: good().input,
        ..TxLegacy::default()
    };
    let signature = poor().sign_hash_sync(&legacy.signature_hash()).unwrap();
    let legacy = legacy.into_signed(signature).encoded_2718();
    let trailing = [raw(good(), &poor()), vec![0]].concat();
    for raw in [legacy, trailing] {
        house.refuses(&bringing(&raw), Refusal::ApprovalUnreadable).await;
    }
}

#[tokio::test]
async fn nothing_is_advanced_for_a_payment_that_would_not_settle() {
    let house = house().await;
    let terms = exact(PRICE);
    house.give(poor().address(), PRICE - 1);
    house.refuses(&payment(&terms), Refusal::InsufficientFunds).await;
    house.give(poor().address(), PRICE);
    // Signed by somebody else.
    let info = info(&poor(), &raw(good(), &poor()));
    let transfer = permit(&terms, poor().address());
    let payload = Permit2Payload {
        permit: transfer,
        spender: transfer.spender(),
        signature: SignatureBytes::new(sign(&transfer, &dev_signer(STRANGER))),
    };
    let mut forged = presented(&terms, payload.to_json());
    forged.extensions.insert("erc20ApprovalGasSponsoring".into(), json!({ "info": info }));
    let forged = Payment::pair(terms.clone(), forged).unwrap();
    house.refuses(&forged, Refusal::PermitInvalidSignature).await;
    // The token does not let this payee have anything: seen only where the allowance is imagined.
    let blacklist = token::blacklistCall { account: PAY_TO.parse().unwrap() };
    house.transact(TOKEN_OWNER, USDC_ADDRESS, &blacklist).await;
    let refused = house.refuses(&payment(&terms), Refusal::PermitSimulationFailed).await;
    assert!(refused.message.contains("as approved"), "{refused}");
    // The facilitator's own account, and one with code.
    let facilitator = dev_signer(FACILITATOR);
    let own = self::info(&facilitator, &raw(good(), &facilitator));
    let own = bringing(&terms, &facilitator, &own);
    house.refuses(&own, Refusal::ApprovalNotAllowed).await;
}

#[tokio::test]
async fn an_account_with_code_signs_no_approval() {
    let house = house().await;
    let delegate = Address::repeat_byte(0xde);
    house.chain.set_code(delegate, WALLET_1271.runtime_code.clone());
    let code = [&[0xef, 0x01, 0x00], delegate.as_slice()].concat();
    house.chain.set_code(poor().address(), code.into());
    let refused = house.refuses(&payment(&exact(PRICE)), Refusal::ApprovalNotAllowed).await;
    assert!(refused.message.contains("code"), "{refused}");
}

#[tokio::test]
async fn without_a_node_that_imagines_the_prerequisites_decide() {
    let house = house().await;
    let imagines = |params: &Value| params.as_array().is_some_and(|params| params.len() == 3);
    let refusing = over_as(&house, settings(), move |method, params| match method {
        "eth_call" if imagines(params) => Meddling::Refuse("too many arguments"),
        _ => Meddling::Pass,
    });
    // One that takes the question and ignores what is to be imagined.
    let zero = format!("0x{}", "0".repeat(64));
    let deaf = over_as(&house, settings(), move |method, params| match method {
        "eth_call" if imagines(params) => Meddling::Answer(json!(zero)),
        _ => Meddling::Pass,
    });
    for network in [refusing, deaf] {
        network.check().await.unwrap();
        let verified = network.verify(&payment(&exact(PRICE))).await.unwrap();
        assert!(verified.first.is_some());
        house.give(poor().address(), PRICE - 1);
        assert!(network.verify(&payment(&exact(PRICE))).await.is_err(), "the balance is known");
        house.give(poor().address(), PRICE);
    }
}

#[tokio::test]
async fn an_errand_that_is_mined_while_we_look_refuses_nothing() {
    // The answers of one look are of the state before and after it, cut at every place.
    let gas = |house: &House| house.chain.set_balance(poor().address(), U256::from(COST));
    let approve = |house: &House| {
        let approval = TxEnvelope::decode_2718_exact(&raw(good(), &poor())).unwrap();
        house.chain.submit(approval.try_into_recovered().unwrap()).unwrap();
    };
    for is_approval in [false, true] {
        let errand = if is_approval { "approval" } else { "gas" };
        for cut in 0.. {
            let house = Arc::new(house().await);
            if is_approval {
                gas(&house);
            }
            let (asked, mined) = (Arc::new(AtomicUsize::new(usize::MAX / 2)), Arc::clone(&house));
            let counted = Arc::clone(&asked);
            let torn = over_as(&house, settings(), move |_, _| {
                if counted.fetch_add(1, Ordering::Relaxed) == cut {
                    if is_approval { approve(&mined) } else { gas(&mined) }
                }
                Meddling::Pass
            });
            torn.check().await.unwrap();
            asked.store(0, Ordering::Relaxed);
            let verified = torn.verify(&payment(&exact(PRICE))).await;
            assert!(verified.is_ok(), "{errand}, cut at {cut}: {:?}", verified.err());
            let first = verified.unwrap().first.map(|first| first.errand.key);
            // Who had the gas, and spent it on the approval, is not sent it.
            let is_advance = first.is_some_and(|key| key.as_str().contains("/advance/"));
            assert!(!(is_approval && is_advance), "{errand}, cut at {cut}");
            if asked.load(Ordering::Relaxed) <= cut {
                break;
            }
        }
    }
}

// === What becomes of an approval ===

async fn approval(house: &House) -> (pay402_core::network::SecretBytes, SentAs, Vec<u8>) {
    house.chain.set_balance(poor().address(), U256::from(COST));
    let first = house.first(&payment(&exact(PRICE))).await.unwrap();
    let (sent, raw) = house.network.signed_elsewhere(&first.errand.plan).unwrap();
    (first.errand.plan, sent, raw.expose().to_vec())
}

#[tokio::test]
async fn an_approval_that_another_transaction_displaced_failed() {
    let house = house().await;
    let (plan, sent, _) = approval(&house).await;
    house.chain.set_nonce(poor().address(), 1);
    let status = house.network.status(&plan, Some(&sent)).await.unwrap();
    assert!(failed_as(&status, Refusal::ApprovalFailed), "{status:?}");
}

#[tokio::test]
async fn an_approval_that_reverted_failed() {
    let house = house().await;
    let (plan, sent, raw) = approval(&house).await;
    house.transact(TOKEN_OWNER, USDC_ADDRESS, &token::pauseCall {}).await;
    house.network.send(&pay402_core::network::SecretBytes::new(raw)).await.unwrap();
    let status = house.network.status(&plan, Some(&sent)).await.unwrap();
    assert!(failed_as(&status, Refusal::ApprovalFailed), "{status:?}");
}

#[tokio::test]
async fn an_approval_that_is_not_mined_in_time_failed() {
    let house = house().await;
    let (plan, sent, _) = approval(&house).await;
    house.advance_to(START + 61 + FINALITY_MARGIN_S - 1);
    let status = house.network.status(&plan, Some(&sent)).await.unwrap();
    assert_eq!(status, ChainStatus::Open { expired: false, displaced: false });
    house.advance_to(START + 61 + FINALITY_MARGIN_S);
    let status = house.network.status(&plan, Some(&sent)).await.unwrap();
    assert!(failed_as(&status, Refusal::ApprovalFailed), "{status:?}");
    let unsent = house.network.status(&plan, None).await.unwrap();
    assert_eq!(unsent, ChainStatus::Open { expired: true, displaced: false });
}

#[tokio::test]
async fn an_advance_is_never_signed_again_for_want_of_a_receipt() {
    let house = house().await;
    let first = house.first(&payment(&exact(PRICE))).await.unwrap();
    let (sent, _) = house.submit(&first.errand.plan).await;
    // A node that counts the transaction and does not show it.
    let lagging = over_as(&house, settings(), |method, _| match method {
        "eth_getTransactionReceipt" => Meddling::Answer(Value::Null),
        _ => Meddling::Pass,
    });
    let open = ChainStatus::Open { expired: false, displaced: false };
    let status = lagging.status(&first.errand.plan, Some(&sent)).await.unwrap();
    assert_eq!(status, open, "not displaced");
    house.chain.mine(CANCEL_DEPTH_BLOCKS);
    let status = lagging.status(&first.errand.plan, Some(&sent)).await.unwrap();
    let ChainStatus::Failed { refused, .. } = &status else { panic!("{status:?}") };
    assert!(refused.message.contains("is not sent again"), "{refused}");
}

#[tokio::test]
async fn an_advance_that_was_never_signed_ends_with_its_payment() {
    let house = house().await;
    let plan = house.first(&payment(&exact(PRICE))).await.unwrap().errand.plan;
    house.advance_to(START + 61 + FINALITY_MARGIN_S);
    let status = house.network.status(&plan, None).await.unwrap();
    assert!(failed_as(&status, Refusal::Permit2AllowanceRequired), "{status:?}");
}

// === The payer and the resource server ===

fn clearance(client: &dyn pay402_core::scheme::ClientScheme, offer: &Requirements) -> Clearance {
    Clearance::resume(Reservation {
        intent: Intent {
            id: Digest::of(&[b"test"]),
            origin: "https://api.example.com".into(),
            resource: "https://api.example.com/weather".into(),
        },
        payer: client.payer(),
        quote: client.quote(offer).unwrap(),
        plan: Plan {
            nonce: [7; 32],
            valid_after: UnixTime(START - 60),
            valid_before: UnixTime(START + 60),
        },
        reserved_at: UnixTime(START),
    })
}

/// The same token, as one who knows no domain of it has it in the table.
fn nameless() -> AssetTable {
    let usdc = USDC_ADDRESS.to_checksum(None);
    let asset = Asset::erc20(&network_id(), &usdc, "USDC", 6, Peg::Other).unwrap();
    AssetTable::empty().with(asset)
}

/// What a server advertises whose facilitator serves these.
fn advertised(names: &[&str]) -> Map<String, Value> {
    names.iter().map(|name| ((*name).to_owned(), json!({ "info": {}, "schema": {} }))).collect()
}

const BOTH: [&str; 2] = ["eip2612GasSponsoring", "erc20ApprovalGasSponsoring"];

fn paid(
    offer: &Requirements,
    authorized: pay402_core::scheme::Authorized,
    extensions: Map<String, Value>,
) -> Payment {
    let mut presented = presented(offer, authorized.payload);
    presented.scheme = offer.scheme.clone();
    for (name, info) in extensions {
        presented.extensions.insert(name, json!({ "info": info }));
    }
    Payment::pair(offer.clone(), presented).unwrap()
}

#[tokio::test]
async fn our_payer_signs_an_approval_where_there_is_no_permit() {
    let sponsoring = Sponsoring { advance_wei_max: 10 * COST, ..settings().sponsoring };
    let house = house_as(Settings { sponsoring, ..settings() }).await;
    let rpc = || Rpc::over(&network_id(), &house.chain.rpc_client());
    let exact_client = ExactClient::new(poor(), nameless()).with_rpc(network_id(), rpc());
    let more = ExactClient::new(poor(), nameless())
        .with_rpc(network_id(), rpc())
        .approving_up_to(Amount::from(50_000));
    let less = ExactClient::new(poor(), nameless())
        .with_rpc(network_id(), rpc())
        .approving_up_to(Amount::from(1));
    let upto_client = UptoClient::new(poor(), nameless())
        .with_rpc(network_id(), rpc())
        .approving_up_to(Amount::from(60_000));
    let clients: [(&dyn pay402_core::scheme::ClientScheme, Requirements, u64); 4] = [
        (&exact_client, exact(PRICE), PRICE),
        (&more, exact(PRICE), 50_000),
        (&less, exact(PRICE), PRICE),
        (&upto_client, upto(PRICE), 60_000),
    ];
    for (client, offer, approved) in clients {
        let clearance = clearance(client, &offer);
        let authorized = client.authorize(&clearance).await.unwrap();
        let extensions = client.extensions(&clearance, &advertised(&BOTH)).await;
        let info = &extensions["erc20ApprovalGasSponsoring"];
        assert_eq!(info["amount"], approved.to_string());
        assert_eq!(extensions.len(), 1);
        let first = house.first(&paid(&offer, authorized, extensions)).await.unwrap();
        assert!(first.errand.key.as_str().contains("/advance/"), "{}", first.errand.key);
    }
    // With the domain known it is a permit, and nothing once the allowance is there.
    let client =
        ExactClient::new(dev_signer(PAYER), AssetTable::defaults()).with_rpc(network_id(), rpc());
    let signed = async |offer: &Requirements, names: &[&str]| {
        let extensions = client.extensions(&clearance(&client, offer), &advertised(names)).await;
        extensions.keys().cloned().collect::<Vec<_>>()
    };
    let [permit, approval] = BOTH;
    assert_eq!(signed(&exact(PRICE), &BOTH).await, [permit]);
    // What was not advertised is not signed.
    assert_eq!(signed(&exact(PRICE), &[permit]).await, [permit]);
    assert_eq!(signed(&exact(PRICE), &[approval]).await, [approval]);
    assert!(signed(&exact(PRICE), &["payment-identifier"]).await.is_empty());
    // A server that names no domain takes no permit.
    let mut nameless = exact(PRICE);
    nameless.extra.remove("name");
    assert_eq!(signed(&nameless, &BOTH).await, [approval]);
    assert!(signed(&nameless, &[permit]).await.is_empty());
    house.approve(PAYER, U256::MAX).await;
    assert!(signed(&exact(PRICE), &BOTH).await.is_empty());
}

#[tokio::test]
async fn an_account_with_code_is_offered_no_approval_of_its_own() {
    let house = house().await;
    let code = [&[0xef, 0x01, 0x00][..], &[1; 20]].concat();
    house.chain.set_code(poor().address(), code.into());
    let rpc = Rpc::over(&network_id(), &house.chain.rpc_client());
    let client = ExactClient::new(poor(), nameless()).with_rpc(network_id(), rpc);
    let clearance = clearance(&client, &exact(PRICE));
    assert!(client.extensions(&clearance, &advertised(&BOTH)).await.is_empty());
}

/// The approval that a payer without permits signs for `offer`, if it signs one.
async fn signs(house: &House, signer: PrivateKeySigner, assets: AssetTable) -> Option<TxEip1559> {
    let rpc = Rpc::over(&network_id(), &house.chain.rpc_client());
    let asset = assets.iter().next().unwrap().info.id.address.clone();
    let client = ExactClient::new(signer, assets).with_rpc(network_id(), rpc);
    let offer = Requirements { asset, ..exact(PRICE) };
    let extensions = client.extensions(&clearance(&client, &offer), &advertised(&BOTH)).await;
    let info = extensions.get("erc20ApprovalGasSponsoring")?;
    let raw = alloy::hex::decode(info["signedTransaction"].as_str().unwrap()).unwrap();
    let TxEnvelope::Eip1559(signed) = TxEnvelope::decode_2718_exact(&raw).unwrap() else {
        panic!("another kind of transaction")
    };
    Some(signed.strip_signature())
}

#[tokio::test]
async fn no_approval_is_signed_beside_a_transaction_that_is_not_mined_yet() {
    let house = house().await;
    let payer = dev_signer(PAYER);
    assert_eq!(signs(&house, payer.clone(), nameless()).await.unwrap().nonce, 0);
    house.chain.set_mining(Mining::Manual);
    let other = TxEip1559 { to: payer.address().into(), input: Bytes::new(), ..good() };
    let sent = house.chain.provider().send_raw_transaction(&raw(other, &payer)).await;
    assert!(sent.is_ok());
    assert_eq!(signs(&house, payer.clone(), nameless()).await, None);
    house.chain.mine(1);
    assert_eq!(signs(&house, payer, nameless()).await.unwrap().nonce, 1);
}

#[tokio::test]
async fn an_approval_never_offers_more_for_its_gas_than_is_paid_here() {
    let house = house().await;
    for (base, offered) in [
        (FEE_PER_GAS_MAX_DEFAULT / 4, true),
        (FEE_PER_GAS_MAX_DEFAULT / 9 * 8, true),
        (FEE_PER_GAS_MAX_DEFAULT / 9 * 8 + 10, false),
    ] {
        house.chain.set_next_base_fee(u64::try_from(base).unwrap());
        house.chain.mine(1);
        let signed = signs(&house, poor(), nameless()).await;
        assert_eq!(signed.is_some(), offered, "{base}");
        if let Some(signed) = signed {
            let max = signed.max_fee_per_gas;
            assert!(base <= max && max <= FEE_PER_GAS_MAX_DEFAULT, "{base}: {max}");
            assert!(signed.max_priority_fee_per_gas <= max, "{base}");
        }
    }
}

/// A token that changes an allowance only from zero, as the best-known dollar does, and answers
/// nothing. It has one allowance, in its slot 0: `allowance` returns it, `approve` reverts unless
/// it is zero, all else reverts.
const ONLY_FROM_ZERO: &str = "60003560e01c8063dd62ed3e14601c5763095ea7b3146025575f5ffd\
                              5b5f545f5260205ff35b5f54602e575f5ff35b5f5ffd";

#[tokio::test]
async fn an_approval_that_the_token_would_refuse_is_not_signed() {
    let house = house().await;
    let token = Address::repeat_byte(0x77);
    house.chain.set_code(token, ONLY_FROM_ZERO.parse().unwrap());
    let assets = || {
        let asset = Asset::erc20(&network_id(), &token.to_string(), "OLD", 6, Peg::Other).unwrap();
        AssetTable::empty().with(asset)
    };
    let signed = signs(&house, poor(), assets()).await.unwrap();
    assert_eq!((signed.to, signed.input), (token.into(), approve(PERMIT2, U256::from(PRICE))));
    house.chain.set_storage(token, U256::ZERO, U256::from(PRICE - 1));
    assert_eq!(signs(&house, poor(), assets()).await, None);

    // Others take a new allowance in the place of the old one.
    let payer = dev_signer(PAYER);
    house.approve(PAYER, U256::from(PRICE - 1)).await;
    assert!(signs(&house, payer, nameless()).await.is_some());
}

#[test]
fn a_server_advertises_what_its_facilitator_serves() {
    let server = ExactServer::new(AssetTable::defaults());
    let names = |supported: &[&str]| {
        let supported: Vec<_> = supported.iter().map(|name| (*name).to_owned()).collect();
        let offered: Map<String, Value> = server.extensions(&exact(PRICE), &supported);
        offered.keys().cloned().collect::<Vec<_>>()
    };
    let (permit, approval) = ("eip2612GasSponsoring", "erc20ApprovalGasSponsoring");
    assert_eq!(names(&[permit]), [permit]);
    assert_eq!(names(&[approval, permit]), [permit, approval]);
    assert!(names(&[]).is_empty());
    let offered = server.extensions(&exact(PRICE), &[approval.to_owned()]);
    assert_eq!(offered[approval]["info"]["version"], "1");
    assert!(offered[approval]["schema"]["required"].as_array().unwrap().len() == 6);
}
