//! Permit2, for `exact` and `upto`: every check, the settlement, and its proof.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall as _;
use pay402_core::network::{ChainStatus, Network as _};
use pay402_core::refusal::Reason;
use pay402_core::scheme::{ServerScheme as _, Tariff};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Payment, Refusal, Requirements, Scheme};
use pay402_devchain::genesis::{
    DEV_ACCOUNTS, EXACT_PERMIT2_PROXY, MULTICALL3, PERMIT2, UPTO_PERMIT2_PROXY, USDC_ADDRESS,
    WALLET_1271, dev_signer, usdc_balance_slot,
};
use pay402_evm::contracts::{Call3, ExactProxy, Multicall3};
use pay402_evm::exact::Permit2Payload;
use pay402_evm::network::sight::{CANCEL_DEPTH_BLOCKS, FINALITY_MARGIN_S, LOG_SPANS_BLOCKS};
use pay402_evm::signature::SignatureBytes;
use pay402_evm::typed_data::{PermitTransfer, TokenPermit, token_domain};
use pay402_evm::{AssetTable, ExactServer, TransferMethod, UptoServer};
use serde_json::{Value, json};

use crate::support::{
    CHAIN_ID, FACILITATOR, House, PAY_TO, PAYER, PENNILESS, START, STRANGER, network_id, presented,
    usdc,
};

mod token {
    alloy::sol! {
        function approve(address spender, uint256 value) returns (bool);
        function transfer(address to, uint256 value) returns (bool);
        function invalidateUnorderedNonces(uint256 word, uint256 mask);
        function allowance(address owner, address spender) view returns (uint256);
    }
}

fn tariff(amount: u64) -> Tariff {
    Tariff::Atomic { amount: amount.into(), asset: usdc().info }
}

pub(crate) fn exact(amount: u64) -> Requirements {
    ExactServer::new(AssetTable::defaults())
        .transferring_by(TransferMethod::Permit2)
        .requirements(&network_id(), &tariff(amount), PAY_TO, 60)
        .unwrap()
}

/// Terms with a ceiling, as a server makes them with what the facilitator says of itself.
pub(crate) fn upto(ceiling: u64) -> Requirements {
    let server = UptoServer::new(AssetTable::defaults());
    let mut terms = server.requirements(&network_id(), &tariff(ceiling), PAY_TO, 60).unwrap();
    let facilitator = DEV_ACCOUNTS[FACILITATOR].to_checksum(None);
    terms.extra.insert("facilitatorAddress".into(), facilitator.into());
    terms
}

pub(crate) fn permit(terms: &Requirements, from: Address) -> PermitTransfer {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NONCES: AtomicU64 = AtomicU64::new(1);
    let facilitator = terms.extra_str("facilitatorAddress").map(|text| text.parse().unwrap());
    PermitTransfer {
        from,
        token: terms.asset.parse().unwrap(),
        permitted: terms.amount.to_u256(),
        nonce: U256::from(NONCES.fetch_add(1, Ordering::Relaxed)),
        deadline: U256::from(START + 60),
        to: terms.pay_to.parse().unwrap(),
        valid_after: U256::ZERO,
        facilitator,
    }
}

pub(crate) fn sign(permit: &PermitTransfer, signer: &PrivateKeySigner) -> Vec<u8> {
    signer.sign_hash_sync(&permit.digest(CHAIN_ID)).unwrap().as_bytes().to_vec()
}

pub(crate) fn carrying(
    terms: &Requirements,
    permit: PermitTransfer,
    signature: Vec<u8>,
) -> Payment {
    let spender = permit.spender();
    let signature = SignatureBytes::new(signature);
    with_payload(terms, &Permit2Payload { permit, spender, signature })
}

fn with_payload(terms: &Requirements, payload: &Permit2Payload) -> Payment {
    let mut presented = presented(terms, payload.to_json());
    presented.scheme = terms.scheme.clone();
    Payment::pair(terms.clone(), presented).unwrap()
}

fn signed(terms: &Requirements, permit: PermitTransfer) -> Payment {
    carrying(terms, permit, sign(&permit, &dev_signer(PAYER)))
}

fn good(terms: &Requirements) -> Payment {
    signed(terms, permit(terms, dev_signer(PAYER).address()))
}

/// A house whose network was checked, and whose payer lets Permit2 move everything.
async fn house() -> House {
    let house = unapproved().await;
    house.approve(PAYER, U256::MAX).await;
    house
}

async fn unapproved() -> House {
    let house = House::new();
    house.network.check().await.unwrap();
    house
}

impl House {
    pub(crate) async fn approve(&self, payer: usize, value: U256) {
        let call = token::approveCall { spender: PERMIT2, value };
        self.transact(payer, USDC_ADDRESS, &call).await;
    }

    pub(crate) async fn allowance(&self, owner: Address) -> U256 {
        use alloy::providers::Provider as _;
        use alloy::rpc::types::TransactionRequest;
        let call = token::allowanceCall { owner, spender: PERMIT2 }.abi_encode();
        let request = TransactionRequest::default().to(USDC_ADDRESS).input(call.into());
        U256::from_be_slice(&self.chain.provider().call(request).await.unwrap())
    }

    /// Settles what was verified and gives the status.
    async fn settled(&self, payment: &Payment) -> (ChainStatus, String) {
        let verified = self.verify(payment).await.unwrap();
        let (sent, _) = self.submit(&verified.plan).await;
        let status = self.network.status(&verified.plan, Some(&sent)).await.unwrap();
        (status, sent.transaction)
    }
}

pub(crate) fn is_proven_by(status: &ChainStatus, name: &str) -> bool {
    matches!(status, ChainStatus::Proven { transaction, .. } if transaction == name)
}

fn failed_as(status: &ChainStatus, refusal: Refusal) -> bool {
    matches!(status, ChainStatus::Failed { refused, .. }
        if refused.reason == Reason::Known(refusal))
}

#[tokio::test]
async fn an_exact_permit_settles_and_is_proven() {
    let house = house().await;
    let (payee, payer): (Address, _) = (PAY_TO.parse().unwrap(), dev_signer(PAYER).address());
    let (payee_had, payer_had) = (house.usdc_of(payee).await, house.usdc_of(payer).await);
    let payment = good(&exact(10_000));
    let verified = house.verify(&payment).await.unwrap();
    assert_eq!((verified.amount, verified.expires.0), (Amount::from(10_000), START + 61));
    let identified = house.network.identify(&payment).unwrap();
    assert_eq!((&identified.key, identified.fingerprint), (&verified.key, verified.fingerprint));
    assert_eq!(house.network.sender(&verified.plan), None, "anybody may settle an exact permit");
    let (status, transaction) = house.settled(&payment).await;
    assert!(is_proven_by(&status, &transaction), "{status:?}");
    let moved = U256::from(10_000);
    assert_eq!(house.usdc_of(payee).await, payee_had + moved);
    assert_eq!(house.usdc_of(payer).await, payer_had - moved);
    // The permit alone proves it too, without knowing how it was sent.
    let by_logs = house.network.status(&verified.plan, None).await.unwrap();
    assert!(is_proven_by(&by_logs, &transaction), "{by_logs:?}");
    let refused = house.refuses(&payment, Refusal::PermitNonceUsed).await;
    assert_eq!(refused.transaction, Some(transaction));
}

#[tokio::test]
async fn a_metered_permit_settles_for_what_was_charged() {
    let house = house().await;
    let payee: Address = PAY_TO.parse().unwrap();
    let terms = upto(10_000);
    for charge in [1_u64, 2_500, 10_000] {
        let had = house.usdc_of(payee).await;
        let payment = good(&terms);
        let whole = house.verify(&payment).await.unwrap();
        assert_eq!(whole.amount, Amount::from(10_000), "the ceiling is verified");
        let charged = payment.charging(charge.into()).unwrap();
        let verified = house.verify(&charged).await.unwrap();
        assert_eq!(verified.amount, Amount::from(charge));
        assert_eq!(verified.key, whole.key);
        let facilitator = DEV_ACCOUNTS[FACILITATOR].to_checksum(None);
        assert_eq!(house.network.sender(&verified.plan), Some(facilitator));
        let (status, transaction) = house.settled(&charged).await;
        assert!(is_proven_by(&status, &transaction), "{charge}: {status:?}");
        assert_eq!(house.usdc_of(payee).await, had + U256::from(charge));
        assert_eq!(verified.fingerprint, whole.fingerprint, "it is the same payment");
    }
    // Nothing is charged, and nothing needs to be sent; yet it must be good for the ceiling.
    let free = good(&terms).charging(Amount::ZERO).unwrap();
    assert_eq!(house.verify(&free).await.unwrap().amount, Amount::ZERO);
}

#[tokio::test]
async fn a_permit_must_be_for_exactly_these_terms() {
    let house = house().await;
    let payer = dev_signer(PAYER).address();
    for terms in [exact(10_000), upto(10_000)] {
        let fine = permit(&terms, payer);
        let with = |change: &dyn Fn(&mut PermitTransfer)| {
            let mut permit = fine;
            change(&mut permit);
            signed(&terms, permit)
        };
        let to = with(&|permit| permit.to = dev_signer(STRANGER).address());
        let refused = house.refuses(&to, Refusal::PermitRecipientMismatch).await;
        assert_eq!(refused.payer, Some(payer.to_checksum(None)));
        for amount in [9_999_u64, 10_001] {
            let other = with(&|permit| permit.permitted = U256::from(amount));
            house.refuses(&other, Refusal::PermitAmountMismatch).await;
        }
        let other = with(&|permit| permit.token = Address::repeat_byte(9));
        house.refuses(&other, Refusal::PermitTokenMismatch).await;
        let spender =
            if fine.facilitator.is_some() { EXACT_PERMIT2_PROXY } else { UPTO_PERMIT2_PROXY };
        let signature = SignatureBytes::new(sign(&fine, &dev_signer(PAYER)));
        let other = with_payload(&terms, &Permit2Payload { permit: fine, spender, signature });
        house.refuses(&other, Refusal::PermitSpenderMismatch).await;
        house.verify(&signed(&terms, fine)).await.unwrap();
    }
    let terms = upto(10_000);
    let other = PermitTransfer {
        facilitator: Some(dev_signer(STRANGER).address()),
        ..permit(&terms, payer)
    };
    house.refuses(&signed(&terms, other), Refusal::FacilitatorMismatch).await;
}

#[tokio::test]
async fn a_permit_is_judged_by_the_chains_time() {
    let house = house().await;
    let now = START + 5;
    house.advance_to(now);
    let terms = exact(10_000);
    let with = |after: u64, deadline: u64| {
        let times = PermitTransfer {
            valid_after: U256::from(after),
            deadline: U256::from(deadline),
            ..permit(&terms, dev_signer(PAYER).address())
        };
        signed(&terms, times)
    };
    house.refuses(&with(now + 1, now + 60), Refusal::PermitNotYetValid).await;
    house.verify(&with(now, now + 60)).await.unwrap();
    let margin = 6;
    house.refuses(&with(0, now), Refusal::PermitExpired).await;
    house.refuses(&with(0, now + margin - 1), Refusal::PermitExpired).await;
    house.verify(&with(0, now + margin)).await.unwrap();
    house.refuses(&with(0, now + 3 * 24 * 3600), Refusal::PermitExpired).await;
    let server = ExactServer::new(AssetTable::empty());
    let late = server.identify(&with(0, now + margin - 1), UnixTime(now)).unwrap_err();
    assert!(late.reason.is(Refusal::PermitExpired));
}

#[tokio::test]
async fn who_signed_decides() {
    let house = house().await;
    for terms in [exact(10_000), upto(10_000)] {
        let permit = permit(&terms, dev_signer(PAYER).address());
        let strange = carrying(&terms, permit, sign(&permit, &dev_signer(STRANGER)));
        house.refuses(&strange, Refusal::PermitInvalidSignature).await;
        let mut bytes = sign(&permit, &dev_signer(PAYER));
        // Every encoding of the payer's signature settles.
        bytes[64] -= 27;
        house.verify(&carrying(&terms, permit, bytes.clone())).await.unwrap();
        let r_and_s = &bytes[..64];
        let mut compact = r_and_s.to_vec();
        compact[32] |= bytes[64] << 7;
        let (status, _) = house.settled(&carrying(&terms, permit, compact)).await;
        assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
    }
}

#[tokio::test]
async fn a_high_s_is_refused_before_the_chain_is_asked() {
    let house = house().await;
    let terms = exact(10_000);
    let permit = permit(&terms, dev_signer(PAYER).address());
    let bytes = sign(&permit, &dev_signer(PAYER));
    let order: U256 =
        "0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141".parse().unwrap();
    let s = order - U256::from_be_slice(&bytes[32..64]);
    let high = [&bytes[..32], &s.to_be_bytes::<32>(), &[55 - bytes[64]]].concat();
    house.refuses(&carrying(&terms, permit, high), Refusal::PermitInvalidSignature).await;
}

#[tokio::test]
async fn money_and_allowance_must_be_there() {
    let house = unapproved().await;
    for terms in [exact(10_000), upto(10_000)] {
        house.refuses(&good(&terms), Refusal::Permit2AllowanceRequired).await;
    }
    house.approve(PAYER, U256::from(9_999)).await;
    house.refuses(&good(&exact(10_000)), Refusal::Permit2AllowanceRequired).await;
    house.approve(PAYER, U256::from(10_000)).await;
    house.verify(&good(&exact(10_000))).await.unwrap();
    let terms = upto(10_000);
    // A charge below the ceiling needs only itself.
    house.approve(PAYER, U256::from(2_500)).await;
    house.verify(&good(&terms).charging(2_500.into()).unwrap()).await.unwrap();

    let poor = dev_signer(PENNILESS);
    let permit = permit(&terms, poor.address());
    let payment = carrying(&terms, permit, sign(&permit, &poor));
    house.refuses(&payment, Refusal::InsufficientFunds).await;
}

#[tokio::test]
async fn without_a_proxy_nothing_is_settled_through_it() {
    let house = House::new();
    house.chain.set_code(EXACT_PERMIT2_PROXY, Bytes::new());
    house.network.check().await.unwrap();
    house.refuses(&good(&exact(10_000)), Refusal::ProxyNotDeployed).await;
    house.approve(PAYER, U256::MAX).await;
    house.verify(&good(&upto(10_000))).await.unwrap();
}

#[tokio::test]
async fn what_the_token_refuses_is_refused_before_it_costs_anything() {
    let house = house().await;
    let payee = PAY_TO.parse().unwrap();
    let blacklist = crate::support::token::blacklistCall { account: payee };
    house.transact(crate::support::TOKEN_OWNER, USDC_ADDRESS, &blacklist).await;
    for terms in [exact(10_000), upto(10_000)] {
        house.refuses(&good(&terms), Refusal::PermitSimulationFailed).await;
    }
}

#[tokio::test]
async fn a_contract_account_pays_by_permit() {
    let house = house().await;
    let wallet = house.wallet(STRANGER);
    // The wallet approves as its owner tells it.
    let approve = token::approveCall { spender: PERMIT2, value: U256::MAX }.abi_encode();
    house.transact(STRANGER, wallet, &wallet_call(USDC_ADDRESS, approve)).await;
    for terms in [exact(10_000), upto(10_000)] {
        let permit = permit(&terms, wallet);
        let owner = carrying(&terms, permit, sign(&permit, &dev_signer(STRANGER)));
        let (status, _) = house.settled(&owner).await;
        assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
        let permit = self::permit(&terms, wallet);
        let other = carrying(&terms, permit, sign(&permit, &dev_signer(PAYER)));
        house.refuses(&other, Refusal::PermitInvalidSignature).await;
    }
}

fn wallet_call(target: Address, data: Vec<u8>) -> wallet::executeCall {
    wallet::executeCall { target, value: U256::ZERO, data: data.into() }
}

mod wallet {
    alloy::sol! {
        function execute(address target, uint256 value, bytes data) payable returns (bytes);
    }
}

#[tokio::test]
async fn a_delegated_account_decides_by_its_delegate() {
    let house = house().await;
    let payer = dev_signer(PAYER).address();
    // Delegated (EIP-7702) to a wallet that answers for an owner of its own.
    let delegate = Address::repeat_byte(0xde);
    house.chain.set_code(delegate, WALLET_1271.runtime_code.clone());
    house.chain.set_code(payer, [&[0xef, 0x01, 0x00], delegate.as_slice()].concat().into());
    house.chain.set_storage(
        payer,
        U256::ZERO,
        U256::from_be_slice(dev_signer(STRANGER).address().as_slice()),
    );
    for terms in [exact(10_000), upto(10_000)] {
        let refused = house.refuses(&good(&terms), Refusal::PermitInvalidSignature).await;
        assert!(refused.message.contains(&delegate.to_string()), "{refused}");
        let permit = permit(&terms, payer);
        let by_delegate = carrying(&terms, permit, sign(&permit, &dev_signer(STRANGER)));
        let (status, _) = house.settled(&by_delegate).await;
        assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
    }
}

// === What others do ===

/// The call that settles an exact payment.
fn settle_call(payment: &Payment) -> ExactProxy::settleCall {
    let payload = Permit2Payload::parse(&payment.presented().payload, &Scheme::EXACT).unwrap();
    let PermitTransfer { from, token, permitted, nonce, deadline, to, valid_after, .. } =
        payload.permit;
    use pay402_evm::contracts::{ExactWitness, PermitTransferFrom, TokenPermissions};
    ExactProxy::settleCall {
        permit: PermitTransferFrom {
            permitted: TokenPermissions { token, amount: permitted },
            nonce,
            deadline,
        },
        owner: from,
        witness: ExactWitness { to, validAfter: valid_after },
        signature: Bytes::copy_from_slice(payload.signature.expose()),
    }
}

#[tokio::test]
async fn a_payment_that_somebody_else_settled_is_proven() {
    let house = house().await;
    let payment = good(&exact(10_000));
    let verified = house.verify(&payment).await.unwrap();
    // Other payments of the same amount must not be taken for it.
    let (other, _) = house.settled(&good(&exact(10_000))).await;
    assert!(matches!(other, ChainStatus::Proven { .. }));
    let open = house.network.status(&verified.plan, None).await.unwrap();
    assert_eq!(open, ChainStatus::Open { expired: false, displaced: false });
    house.transact(STRANGER, EXACT_PERMIT2_PROXY, &settle_call(&payment)).await;
    let status = house.network.status(&verified.plan, None).await.unwrap();
    assert!(matches!(status, ChainStatus::Proven { fee: Amount::ZERO, .. }), "{status:?}");
    // Ours comes too late, and that is its cost.
    let (sent, _) = house.submit(&verified.plan).await;
    let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
    let ChainStatus::Proven { transaction, fee, .. } = status else { panic!("{status:?}") };
    assert_ne!(transaction, sent.transaction);
    assert!(fee > Amount::ZERO);
}

#[tokio::test]
async fn a_permit_spent_within_another_call_stays_unknown_until_its_end() {
    let house = house().await;
    let payment = good(&exact(10_000));
    let verified = house.verify(&payment).await.unwrap();
    // Somebody settles it within a call of its own: nothing shows by what the nonce was used.
    let call = Call3 {
        target: EXACT_PERMIT2_PROXY,
        allowFailure: false,
        callData: settle_call(&payment).abi_encode().into(),
    };
    let calls = Multicall3::aggregate3Call { calls: vec![call] };
    house.transact(STRANGER, MULTICALL3, &calls).await;
    assert!(house.network.status(&verified.plan, None).await.is_err(), "it is not known");
    house.advance_to(START + 60 + FINALITY_MARGIN_S + 1);
    let status = house.network.status(&verified.plan, None).await.unwrap();
    assert!(failed_as(&status, Refusal::PermitNonceUsed), "{status:?}");
    let funds = Refusal::PermitNonceUsed.funds();
    assert_eq!(funds, pay402_core::refusal::Funds::MaybeMoved, "and may have been paid");
}

#[tokio::test]
async fn one_transfer_does_not_prove_another_permit() {
    let house = house().await;
    let terms = exact(10_000);
    let payment = good(&terms);
    let verified = house.verify(&payment).await.unwrap();
    // The payer burns the nonce of the payment, and pays the same amount by something else.
    let payload = Permit2Payload::parse(&payment.presented().payload, &Scheme::EXACT).unwrap();
    let nonce = payload.permit.nonce;
    let mask = U256::from(1) << (nonce.to::<u64>() & 0xff);
    let burn = token::invalidateUnorderedNoncesCall { word: nonce >> 8, mask };
    house.transact(PAYER, PERMIT2, &burn).await;
    let transfer = token::transferCall { to: PAY_TO.parse().unwrap(), value: U256::from(10_000) };
    house.transact(PAYER, USDC_ADDRESS, &transfer).await;
    let status = house.network.status(&verified.plan, None).await.unwrap();
    let open = ChainStatus::Open { expired: false, displaced: false };
    assert_eq!(status, open, "a young cancellation may be undone");
    house.refuses(&payment, Refusal::AuthorizationCanceled).await;
    house.chain.mine(CANCEL_DEPTH_BLOCKS);
    let status = house.network.status(&verified.plan, None).await.unwrap();
    assert!(failed_as(&status, Refusal::AuthorizationCanceled), "{status:?}");
}

#[tokio::test]
async fn invalidating_what_was_spent_cancels_nothing() {
    let house = house().await;
    let payment = good(&exact(10_000));
    let verified = house.verify(&payment).await.unwrap();
    house.transact(STRANGER, EXACT_PERMIT2_PROXY, &settle_call(&payment)).await;
    let payload = Permit2Payload::parse(&payment.presented().payload, &Scheme::EXACT).unwrap();
    let nonce = payload.permit.nonce;
    let mask = U256::from(1) << (nonce.to::<u64>() & 0xff);
    let burn = token::invalidateUnorderedNoncesCall { word: nonce >> 8, mask };
    // Far enough away that both are not found by one query.
    house.chain.mine(LOG_SPANS_BLOCKS[0] + 1);
    house.transact(PAYER, PERMIT2, &burn).await;
    house.refuses(&payment, Refusal::PermitNonceUsed).await;
    for _ in 0..2 {
        let status = house.network.status(&verified.plan, None).await.unwrap();
        assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
        house.chain.mine(CANCEL_DEPTH_BLOCKS);
    }
}

#[tokio::test]
async fn an_unused_permit_is_over_well_after_its_deadline() {
    let house = house().await;
    let verified = house.verify(&good(&exact(10_000))).await.unwrap();
    house.advance_to(START + 60 + FINALITY_MARGIN_S);
    let status = house.network.status(&verified.plan, None).await.unwrap();
    assert_eq!(status, ChainStatus::Open { expired: false, displaced: false });
    house.advance_to(START + 60 + FINALITY_MARGIN_S + 1);
    let status = house.network.status(&verified.plan, None).await.unwrap();
    assert_eq!(status, ChainStatus::Open { expired: true, displaced: false });
}

#[tokio::test]
async fn a_reverted_settlement_is_told_as_one() {
    let house = house().await;
    let verified = house.verify(&good(&exact(10_000))).await.unwrap();
    house.approve(PAYER, U256::ZERO).await;
    let (sent, _) = house.submit(&verified.plan).await;
    let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
    assert!(failed_as(&status, Refusal::TransactionReverted), "{status:?}");
}

#[tokio::test]
async fn a_metered_payment_is_sent_by_the_named_signer_only() {
    let house = house().await;
    let verified = house.verify(&good(&upto(10_000))).await.unwrap();
    let rival = house.rival();
    let signer = rival.signers().remove(0);
    let error = rival.sign(&signer, 0, &verified.plan, None).await.unwrap_err();
    assert!(error.problem.contains("another sender"), "{error}");
}

// === Sponsored allowances ===

/// The payment with an EIP-2612 permit, changed by `change` before it is signed and by `spoil`
/// after.
pub(crate) fn sponsored(
    terms: &Requirements,
    change: impl Fn(&mut TokenPermit),
    spoil: impl Fn(&mut serde_json::Map<String, Value>),
) -> Payment {
    let payer = dev_signer(PAYER);
    let transfer = permit(terms, payer.address());
    let mut token_permit = TokenPermit {
        owner: payer.address(),
        value: transfer.permitted,
        nonce: U256::ZERO,
        deadline: transfer.deadline,
    };
    change(&mut token_permit);
    let domain = token_domain(&usdc().info, CHAIN_ID, USDC_ADDRESS);
    let signature = payer.sign_hash_sync(&token_permit.digest(&domain)).unwrap();
    let mut info = json!({
        "from": payer.address().to_checksum(None),
        "asset": terms.asset,
        "spender": PERMIT2.to_checksum(None),
        "amount": token_permit.value.to_string(),
        "nonce": token_permit.nonce.to_string(),
        "deadline": token_permit.deadline.to_string(),
        "signature": alloy::hex::encode_prefixed(signature.as_bytes()),
        "version": "1",
    });
    spoil(info.as_object_mut().unwrap());
    let payload = Permit2Payload {
        permit: transfer,
        spender: transfer.spender(),
        signature: SignatureBytes::new(sign(&transfer, &payer)),
    };
    let mut presented = presented(terms, payload.to_json());
    presented.scheme = terms.scheme.clone();
    presented.extensions.insert("eip2612GasSponsoring".into(), json!({ "info": info }));
    Payment::pair(terms.clone(), presented).unwrap()
}

fn set(key: &'static str, value: Value) -> impl Fn(&mut serde_json::Map<String, Value>) {
    move |info| drop(info.insert(key.into(), value.clone()))
}

#[tokio::test]
async fn a_permit_for_permit2_is_taken_along() {
    let house = unapproved().await;
    let payer = dev_signer(PAYER).address();
    let (status, transaction) = house.settled(&sponsored(&exact(10_000), |_| {}, |_| {})).await;
    assert!(is_proven_by(&status, &transaction), "{status:?}");
    assert_eq!(house.allowance(payer).await, U256::ZERO, "no more is approved than is paid");
    // What is not charged stays approved; it was signed for this ceiling.
    let next = |permit: &mut TokenPermit| permit.nonce = U256::from(1);
    let metered = sponsored(&upto(10_000), next, |_| {}).charging(4_000.into()).unwrap();
    let (status, _) = house.settled(&metered).await;
    assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
    assert_eq!(house.allowance(payer).await, U256::from(6_000));
}

#[tokio::test]
async fn a_token_permit_that_is_not_needed_is_not_submitted() {
    let house = house().await;
    let payer = dev_signer(PAYER).address();
    for terms in [exact(10_000), upto(10_000)] {
        let had = house.allowance(payer).await;
        let (status, _) = house.settled(&sponsored(&terms, |_| {}, |_| {})).await;
        assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
        assert_eq!(house.allowance(payer).await, had - U256::from(10_000), "what was paid");
    }
}

#[tokio::test]
async fn a_permit_that_somebody_else_submitted_does_no_harm() {
    let house = unapproved().await;
    let payment = sponsored(&exact(10_000), |_| {}, |_| {});
    let verified = house.verify(&payment).await.unwrap();
    // The permit is public once it is in a pool; whoever submits it first changes nothing.
    house.approve(PAYER, U256::from(10_000)).await;
    let (sent, _) = house.submit(&verified.plan).await;
    let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
    assert!(is_proven_by(&status, &sent.transaction), "{status:?}");
}

#[tokio::test]
async fn a_token_permit_must_be_for_this_payment() {
    let house = unapproved().await;
    let stranger = dev_signer(STRANGER).address().to_checksum(None);
    for terms in [exact(10_000), upto(10_000)] {
        let spoiled =
            |spoil: &dyn Fn(&mut serde_json::Map<String, Value>)| sponsored(&terms, |_| {}, spoil);
        for (key, value, refusal) in [
            ("from", json!(stranger), Refusal::TokenPermitFromMismatch),
            ("asset", json!(stranger), Refusal::TokenPermitAssetMismatch),
            ("spender", json!(stranger), Refusal::TokenPermitSpenderMismatch),
            ("amount", json!("10001"), Refusal::TokenPermitAmountMismatch),
            ("amount", json!("1e4"), Refusal::TokenPermitForm),
            ("from", json!("me"), Refusal::TokenPermitForm),
            ("nonce", json!(0), Refusal::TokenPermitForm),
            ("deadline", json!("-1"), Refusal::TokenPermitForm),
            ("signature", json!("0x12"), Refusal::TokenPermitForm),
            ("signature", json!("0xzz"), Refusal::TokenPermitForm),
        ] {
            let refused = house.refuses(&spoiled(&set(key, value)), refusal).await;
            assert!(refused.payer.is_some(), "{refused}");
        }
        let late = |permit: &mut TokenPermit| permit.deadline = U256::from(START + 5);
        house.refuses(&sponsored(&terms, late, |_| {}), Refusal::TokenPermitExpired).await;
        // Signed for another nonce: the proxy goes on without it, and the allowance is missing.
        let wrong = |permit: &mut TokenPermit| permit.nonce = U256::from(7);
        let refusal = Refusal::PermitSimulationFailed;
        house.refuses(&sponsored(&terms, wrong, |_| {}), refusal).await;
        // Nothing added: nothing asked for.
        let unsigned = spoiled(&|info| drop(info.remove("signature")));
        house.refuses(&unsigned, Refusal::Permit2AllowanceRequired).await;
    }
}

#[tokio::test]
async fn a_poor_wallet_cannot_pay_with_an_empty_promise() {
    let house = house().await;
    let wallet = house.wallet(STRANGER);
    house.chain.set_storage(USDC_ADDRESS, usdc_balance_slot(wallet), U256::from(9_999));
    let terms = exact(10_000);
    let permit = permit(&terms, wallet);
    let payment = carrying(&terms, permit, sign(&permit, &dev_signer(STRANGER)));
    house.refuses(&payment, Refusal::InsufficientFunds).await;
}

#[test]
fn a_permit_is_named_by_its_nonce_for_every_token() {
    let terms = exact(10_000);
    let server = ExactServer::new(AssetTable::defaults());
    let one = permit(&terms, dev_signer(PAYER).address());
    let key = |permit| server.identify(&signed(&terms, permit), UnixTime(START)).unwrap();
    let nonce = B256::from(one.nonce).to_string();
    assert!(key(one).as_str().ends_with(&nonce), "{}", key(one));
    assert!(key(one).as_str().contains(&PERMIT2.to_string().to_lowercase()));
    assert_eq!(key(one), key(PermitTransfer { deadline: one.deadline - U256::from(1), ..one }));
    assert_ne!(key(one), key(PermitTransfer { nonce: one.nonce + U256::from(1), ..one }));
}
