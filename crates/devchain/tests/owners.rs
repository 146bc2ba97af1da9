//! Owners with code, and what the tokens of the zoo do to Permit2 and the proxies: who is asked for a signature, and
//! what a settlement that succeeds does not prove.

mod support;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider;
use alloy::sol_types::{SolCall, SolError, SolEvent, SolValue};
use pay402_devchain::genesis::{
    EXACT_PERMIT2_PROXY, PERMIT2, UPTO_PERMIT2_PROXY, USDC_ADDRESS, WALLET_1271, dev_signer,
};
use pay402_devchain::zoo;
use support::permit2::abi::{EIP2612Permit, Permit2, Proxy};
use support::permit2::{ExactPayment, Permit, UptoPayment, compact, sign, words};
use support::zoo::{Factory, Token, Wallet};
use support::{Harness, PAYEE, Usdc};

/// The development account that settles.
const FACILITATOR: usize = 0;
/// The development account that pays, or whose key signs for the wallet that pays.
const PAYER: usize = 1;
/// Somebody whose signature counts for nothing.
const STRANGER: usize = 2;

/// Puts 1,000 units of USDC into a wallet and lets Permit2 at them.
async fn fund(harness: &Harness, from: usize, wallet: Address) {
    harness.set_usdc(wallet, 1_000);
    let approve = Usdc::approveCall { spender: PERMIT2, value: U256::MAX }.abi_encode();
    let execute =
        Wallet::executeCall { target: USDC_ADDRESS, value: U256::ZERO, data: approve.into() };
    assert!(harness.send(from, wallet, &execute).await.status());
}

/// A wallet that the payer's key signs for.
async fn wallet(harness: &Harness) -> Address {
    let arguments = dev_signer(PAYER).address().abi_encode();
    let wallet = harness.deploy(PAYER, WALLET_1271.creation(&arguments)).await;
    fund(harness, PAYER, wallet).await;
    wallet
}

#[tokio::test]
async fn a_wallet_pays_by_its_owners_signature() {
    let harness = Harness::new();
    let (wallet, owner) = (wallet(&harness).await, dev_signer(PAYER));
    let permit = Permit::new(&harness, dev_signer(FACILITATOR).address(), 5);
    let refused = Permit2::InvalidContractSignature {}.abi_encode();
    let by = |signature| permit.transfer_with(wallet, PAYEE, permit.amount, signature);
    let forged = by(sign(&dev_signer(STRANGER), permit.digest()));
    harness.reverts_with(FACILITATOR, PERMIT2, &forged, refused.clone()).await;
    // How long a signature is, is the wallet's affair; this one takes only 65 bytes.
    for odd in [Bytes::new(), compact(&sign(&owner, permit.digest()))] {
        harness.reverts_with(FACILITATOR, PERMIT2, &by(odd), refused.clone()).await;
    }
    assert!(harness.send(FACILITATOR, PERMIT2, &by(sign(&owner, permit.digest()))).await.status());

    let payment = ExactPayment::new(&harness, PAYEE, 7);
    let forged = payment.settle_with(wallet, sign(&dev_signer(STRANGER), payment.digest()));
    harness.reverts_with(FACILITATOR, EXACT_PERMIT2_PROXY, &forged, refused.clone()).await;
    let good = payment.settle_with(wallet, sign(&owner, payment.digest()));
    assert!(harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &good).await.status());

    let payment = UptoPayment::new(&harness, dev_signer(FACILITATOR).address(), PAYEE, 20);
    let mut good = payment.settle(&owner, 8);
    good.owner = wallet;
    let mut forged = payment.settle(&dev_signer(STRANGER), 8);
    forged.owner = wallet;
    harness.reverts_with(FACILITATOR, UPTO_PERMIT2_PROXY, &forged, refused).await;
    assert!(harness.send(FACILITATOR, UPTO_PERMIT2_PROXY, &good).await.status());
    assert_eq!(harness.usdc(PAYEE).await, U256::from(20));
    assert_eq!(harness.usdc(wallet).await, U256::from(980));
}

#[tokio::test]
async fn what_a_contract_answers_instead_of_yes() {
    let harness = Harness::new();
    let owner = Address::repeat_byte(0x12);
    let permit = Permit::new(&harness, dev_signer(FACILITATOR).address(), 5);
    let call = permit.transfer_with(owner, PAYEE, permit.amount, Bytes::from(vec![1; 65]));
    let no = Permit2::InvalidContractSignature {}.abi_encode();
    for (code, error) in [
        // Answers nothing, which is no bytes4.
        (vec![0x00], Vec::new()),
        // Answers a word of zeros.
        (vec![0x60, 0x20, 0x5f, 0xf3], no),
        // Reverts with the 4 zeros of a fresh memory, which come through.
        (vec![0x60, 0x04, 0x5f, 0xfd], vec![0; 4]),
        // Answers a word of ones, which is no bytes4 either.
        (vec![0x5f, 0x19, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3], Vec::new()),
    ] {
        harness.chain.set_code(owner, code.into());
        harness.reverts_with(FACILITATOR, PERMIT2, &call, error).await;
    }
}

/// An account with a key and code is asked, never recovered: its key's own signature is not enough.
#[tokio::test]
async fn a_delegated_account_is_asked_and_never_recovered() {
    let harness = Harness::new();
    let payer = dev_signer(PAYER);
    let approve = Usdc::approveCall { spender: PERMIT2, value: U256::MAX };
    assert!(harness.send(PAYER, USDC_ADDRESS, &approve).await.status());
    let payment = ExactPayment::new(&harness, PAYEE, 5);
    let settle = payment.settle(&payer);
    let short = payment.settle_with(payer.address(), compact(&settle.signature));

    // Delegated to a wallet that accepts nothing (block 0 is long past).
    let flip = zoo::FLIP_WALLET.creation(&U256::ZERO.abi_encode());
    let closed = harness.deploy(FACILITATOR, flip).await;
    harness.delegate(FACILITATOR, &payer, closed).await;
    let refused = Permit2::InvalidContractSignature {}.abi_encode();
    harness.reverts_with(FACILITATOR, EXACT_PERMIT2_PROXY, &settle, refused.clone()).await;

    // Delegated to one that asks the account's own key: by that wallet's rules, which want 65 bytes.
    let arguments = Address::ZERO.abi_encode();
    let open = harness.deploy(FACILITATOR, WALLET_1271.creation(&arguments)).await;
    harness.delegate(FACILITATOR, &payer, open).await;
    harness.reverts_with(FACILITATOR, EXACT_PERMIT2_PROXY, &short, refused.clone()).await;
    let forged =
        payment.settle_with(payer.address(), sign(&dev_signer(STRANGER), payment.digest()));
    harness.reverts_with(FACILITATOR, EXACT_PERMIT2_PROXY, &forged, refused).await;
    assert!(harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &settle).await.status());
    assert_eq!(harness.usdc(PAYEE).await, U256::from(5));
}

#[tokio::test]
async fn a_wallet_that_a_factory_deploys_pays() {
    let harness = Harness::new();
    let owner = dev_signer(PAYER);
    let factory = harness.deploy(FACILITATOR, zoo::WALLET_FACTORY.creation(&[])).await;
    let salt = B256::repeat_byte(3);
    let predict = Factory::predictCall { owner: owner.address(), salt };
    let wallet = harness.read_at(factory, &predict).await;
    let payment = ExactPayment::new(&harness, PAYEE, 5);
    let call = payment.settle_with(wallet, sign(&owner, payment.digest()));
    // Before it stands, its address is one without code: the signer is recovered, and is not it.
    let error = Permit2::InvalidSigner {}.abi_encode();
    harness.reverts_with(FACILITATOR, EXACT_PERMIT2_PROXY, &call, error).await;
    let deploy = Factory::deployCall { owner: owner.address(), salt };
    assert!(harness.send(FACILITATOR, factory, &deploy).await.status());
    fund(&harness, PAYER, wallet).await;
    assert!(harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &call).await.status());
    assert_eq!(harness.usdc(PAYEE).await, U256::from(5));
}

#[tokio::test]
async fn a_wallet_that_changes_its_mind_between_simulation_and_settlement() {
    let harness = Harness::new();
    let never = zoo::FLIP_WALLET.creation(&U256::MAX.abi_encode());
    let wallet = harness.deploy(FACILITATOR, never).await;
    fund(&harness, STRANGER, wallet).await;
    let flips_at = U256::from(harness.chain.block_number() + 3);
    let set = Wallet::setFlipsAtCall { firstRefusingBlock: flips_at };
    assert!(harness.send(STRANGER, wallet, &set).await.status());
    let call = ExactPayment::new(&harness, PAYEE, 5).settle_with(wallet, Bytes::new());
    // It would settle in the next block, but does not in the one after that.
    assert_eq!(harness.answer(FACILITATOR, EXACT_PERMIT2_PROXY, &call).await, Ok(Bytes::new()));
    harness.chain.mine(1);
    let receipt = harness.send_unchecked(FACILITATOR, EXACT_PERMIT2_PROXY, call.abi_encode()).await;
    assert_eq!(receipt.block_number, Some(flips_at.to()));
    assert!(!receipt.status());
    assert_eq!(harness.usdc(PAYEE).await, U256::ZERO);
}

#[tokio::test]
async fn a_wallet_that_burns_gas_takes_all_that_is_given() {
    let harness = Harness::new();
    let wallet = harness.deploy(FACILITATOR, zoo::GAS_WALLET.creation(&[])).await;
    fund(&harness, STRANGER, wallet).await;
    let settle =
        |amount| ExactPayment::new(&harness, PAYEE, amount).settle_with(wallet, Bytes::new());
    let honest = harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &settle(5)).await;
    assert!(honest.status());
    let burn = Wallet::setGasToBurnCall { amount: U256::MAX };
    harness.send(STRANGER, wallet, &burn).await;
    let burnt = harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &settle(6)).await;
    assert!(!burnt.status());
    // A 64th is kept back at each call, of which there are two on the way.
    assert!(burnt.gas_used > 1_930_000, "{}", burnt.gas_used);
    assert_eq!(harness.usdc(PAYEE).await, U256::from(5));
}

/// A token of the zoo that the payer holds 1,000 units of and has let Permit2 at.
async fn token(harness: &Harness, artifact: &pay402_devchain::genesis::Artifact) -> Address {
    let token = harness.deploy(FACILITATOR, artifact.creation(&[])).await;
    let mint = Token::mintCall { to: dev_signer(PAYER).address(), amount: U256::from(1_000) };
    assert!(harness.send(STRANGER, token, &mint).await.status());
    let approve = Token::approveCall { spender: PERMIT2, value: U256::MAX };
    assert!(harness.send(PAYER, token, &approve).await.status());
    token
}

fn payment(harness: &Harness, token: Address, amount: u64) -> ExactPayment {
    let mut payment = ExactPayment::new(harness, PAYEE, amount);
    payment.permit.token = token;
    payment
}

async fn held(harness: &Harness, token: Address) -> U256 {
    harness.read_at(token, &Token::balanceOfCall { account: PAYEE }).await
}

#[tokio::test]
async fn any_plain_token_can_be_paid_with() {
    let harness = Harness::new();
    let token = token(&harness, &zoo::PLAIN_TOKEN).await;
    let call = payment(&harness, token, 300).settle(&dev_signer(PAYER));
    assert!(harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &call).await.status());
    assert_eq!(held(&harness, token).await, U256::from(300));
    // Its permit, which it does not have, fails with no data, and that is no reason not to settle.
    let payer = dev_signer(PAYER);
    let call = payment(&harness, token, 5).settle_with_permit(&payer, permit2612(5));
    let receipt = harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &call).await;
    let told = receipt
        .inner
        .logs()
        .iter()
        .find_map(|log| Proxy::EIP2612PermitFailedWithData::decode_log(&log.inner).ok());
    assert_eq!(told.unwrap().data.data, Bytes::new());
    assert_eq!(held(&harness, token).await, U256::from(305));
}

/// A permit that no token takes.
fn permit2612(value: u64) -> EIP2612Permit {
    EIP2612Permit {
        value: U256::from(value),
        deadline: U256::MAX,
        r: B256::ZERO,
        s: B256::ZERO,
        v: 27,
    }
}

#[tokio::test]
async fn how_a_permit_failed_is_told() {
    let harness = Harness::new();
    let payer = dev_signer(PAYER);
    let token = token(&harness, &zoo::FAILING_PERMIT_TOKEN).await;
    let panic = [&[0x4e, 0x48, 0x7b, 0x71], U256::from(0x12).abi_encode().as_slice()].concat();
    let custom = vec![0xde, 0xad, 0xbe, 0xef, 0x01];
    // Words that are cut short are data.
    let cut = words("no")[..40].to_vec();
    for (refusal, event) in [
        (
            words("not this time"),
            Proxy::EIP2612PermitFailedWithReason {
                token,
                owner: payer.address(),
                reason: "not this time".into(),
            }
            .encode_log_data(),
        ),
        (
            panic,
            Proxy::EIP2612PermitFailedWithPanic {
                token,
                owner: payer.address(),
                errorCode: U256::from(0x12),
            }
            .encode_log_data(),
        ),
        (custom.clone(), failed_with_data(token, custom)),
        (cut.clone(), failed_with_data(token, cut)),
    ] {
        let set = Token::setRefusalCall { newRefusal: refusal.into() };
        assert!(harness.send(STRANGER, token, &set).await.status());
        let mut upto = UptoPayment::new(&harness, dev_signer(FACILITATOR).address(), PAYEE, 5);
        upto.permit.token = token;
        let upto = upto.settle_with_permit(&payer, permit2612(5), 2);
        let exact = payment(&harness, token, 5).settle_with_permit(&payer, permit2612(5));
        let before = held(&harness, token).await;
        for (proxy, call) in
            [(EXACT_PERMIT2_PROXY, exact.abi_encode()), (UPTO_PERMIT2_PROXY, upto.abi_encode())]
        {
            let receipt = harness.send_unchecked(FACILITATOR, proxy, call).await;
            assert!(receipt.status());
            let logs = receipt.inner.logs();
            assert!(logs.iter().any(|log| log.address() == proxy && *log.data() == event));
        }
        assert_eq!(held(&harness, token).await, before + U256::from(7));
    }
}

fn failed_with_data(token: Address, data: Vec<u8>) -> alloy::primitives::LogData {
    let owner = dev_signer(PAYER).address();
    Proxy::EIP2612PermitFailedWithData { token, owner, data: data.into() }.encode_log_data()
}

#[tokio::test]
async fn a_token_without_code_has_no_permit_to_try() {
    let harness = Harness::new();
    let nowhere = payment(&harness, Address::repeat_byte(0x0c), 5);
    let call = nowhere.settle_with_permit(&dev_signer(PAYER), permit2612(5));
    harness.reverts_with(FACILITATOR, EXACT_PERMIT2_PROXY, &call, Vec::new()).await;
}

/// A trap for whoever takes the settled amount for the amount that arrived.
#[tokio::test]
async fn a_fee_settles_and_less_arrives() {
    let harness = Harness::new();
    let token = token(&harness, &zoo::FEE_TOKEN).await;
    let call = payment(&harness, token, 100).settle(&dev_signer(PAYER));
    let receipt = harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &call).await;
    assert!(receipt.status());
    assert_eq!(held(&harness, token).await, U256::from(99));
}

#[tokio::test]
async fn a_rebase_changes_what_a_settled_amount_is_worth() {
    let harness = Harness::new();
    let token = token(&harness, &zoo::REBASING_TOKEN).await;
    let call = payment(&harness, token, 100).settle(&dev_signer(PAYER));
    assert!(harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &call).await.status());
    let half = Token::rebaseCall { newIndex: U256::from(500_000_000_000_000_000u64) };
    harness.send(STRANGER, token, &half).await;
    assert_eq!(held(&harness, token).await, U256::from(50));
    // Nor can the payer still pay what it could when it signed.
    let call = payment(&harness, token, 451).settle(&dev_signer(PAYER));
    let failed = words("TRANSFER_FROM_FAILED");
    harness.reverts_with(FACILITATOR, EXACT_PERMIT2_PROXY, &call, failed).await;
}

#[tokio::test]
async fn tokens_that_refuse_fail_the_settlement() {
    let harness = Harness::new();
    let failed = words("TRANSFER_FROM_FAILED");
    for (artifact, switch) in [
        (&zoo::RETURNS_FALSE_TOKEN, Token::setRefusingCall { value: true }.abi_encode()),
        (&zoo::PAUSABLE_TOKEN, Token::setPausedCall { value: true }.abi_encode()),
        (
            &zoo::PAUSABLE_TOKEN,
            Token::setBlacklistedCall { account: PAYEE, value: true }.abi_encode(),
        ),
    ] {
        let token = token(&harness, artifact).await;
        let call = payment(&harness, token, 5).settle(&dev_signer(PAYER));
        assert_eq!(harness.answer(FACILITATOR, EXACT_PERMIT2_PROXY, &call).await, Ok(Bytes::new()));
        assert!(harness.send_unchecked(STRANGER, token, switch).await.status());
        harness.reverts_with(FACILITATOR, EXACT_PERMIT2_PROXY, &call, failed.clone()).await;
    }
}

#[tokio::test]
async fn a_long_answer_of_a_transfer_is_not_copied() {
    let harness = Harness::new();
    let token = token(&harness, &zoo::RETURN_BOMB_TOKEN).await;
    let settle = async |amount| {
        let call = payment(&harness, token, amount).settle(&dev_signer(PAYER));
        let receipt = harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &call).await;
        assert!(receipt.status());
        receipt.gas_used
    };
    settle(1).await;
    let honest = settle(2).await;
    // 300,000 bytes cost their maker 200,000 gas in memory, and would cost as much again to copy.
    let words = 300_000u64.div_ceil(32);
    let memory = words * 3 + words * words / 512;
    let set = Token::setAnswerBytesCall { length: U256::from(300_000) };
    harness.send(STRANGER, token, &set).await;
    let bombed = settle(3).await;
    assert!((memory..memory + 10_000).contains(&(bombed - honest)), "{honest} {bombed} {memory}");
    // The proxy copies what a permit fails with, to tell of it: only a gas limit bounds that.
    let payer = dev_signer(PAYER);
    let call = payment(&harness, token, 4).settle_with_permit(&payer, permit2612(4));
    let receipt = harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &call).await;
    assert!(!receipt.status());
    assert!(receipt.gas_used > 3 * memory, "{}", receipt.gas_used);
}

#[tokio::test]
async fn a_token_cannot_enter_a_proxy_again() {
    let harness = Harness::new();
    let payer = dev_signer(PAYER);
    let token = token(&harness, &zoo::REENTRANT_TOKEN).await;
    let facilitator = dev_signer(FACILITATOR).address();
    let upto_payment = |facilitator, ceiling| {
        let mut upto = UptoPayment::new(&harness, facilitator, PAYEE, ceiling);
        upto.permit.token = token;
        upto
    };
    let exact = |amount| payment(&harness, token, amount);
    // What the token tries is good in itself; for `upto` the payer even named the token as facilitator.
    for (proxy, outer, inner) in [
        (
            EXACT_PERMIT2_PROXY,
            exact(5).settle(&payer).abi_encode(),
            exact(6).settle(&payer).abi_encode(),
        ),
        (
            EXACT_PERMIT2_PROXY,
            exact(5).settle_with_permit(&payer, permit2612(5)).abi_encode(),
            exact(6).settle_with_permit(&payer, permit2612(6)).abi_encode(),
        ),
        (
            UPTO_PERMIT2_PROXY,
            upto_payment(facilitator, 5).settle(&payer, 5).abi_encode(),
            upto_payment(token, 6).settle(&payer, 6).abi_encode(),
        ),
        (
            UPTO_PERMIT2_PROXY,
            upto_payment(facilitator, 5).settle_with_permit(&payer, permit2612(5), 5).abi_encode(),
            upto_payment(token, 6).settle_with_permit(&payer, permit2612(6), 6).abi_encode(),
        ),
    ] {
        let before = held(&harness, token).await;
        let set = Token::setCallbackCall { newTarget: proxy, newData: inner.into() };
        harness.send(STRANGER, token, &set).await;
        assert!(harness.send_unchecked(FACILITATOR, proxy, outer).await.status());
        assert!(!harness.read_at(token, &Token::lastSuccessCall {}).await);
        let answer = harness.read_at(token, &Token::lastAnswerCall {}).await;
        assert_eq!(answer, Proxy::ReentrancyGuardReentrantCall {}.abi_encode());
        assert_eq!(held(&harness, token).await, before + U256::from(5));
    }
}

/// Permit2 itself may be entered again, and the nonce, which is spent first, is what holds.
#[tokio::test]
async fn a_token_cannot_spend_a_permit_twice() {
    let harness = Harness::new();
    let payer = dev_signer(PAYER);
    let token = token(&harness, &zoo::REENTRANT_TOKEN).await;
    // The payer signed for the token as the spender, so that both calls may come from it.
    let mut permit = Permit::new(&harness, token, 5);
    permit.token = token;
    let call = permit.transfer(&payer, PAYEE, U256::from(5)).abi_encode();
    let set = Token::setCallbackCall { newTarget: PERMIT2, newData: call.into() };
    harness.send(STRANGER, token, &set).await;
    // A transfer of nothing sets it off: the token calls Permit2, which calls the token, which calls Permit2.
    let nothing = Token::transferCall { to: PAYEE, value: U256::ZERO };
    assert!(harness.send(STRANGER, token, &nothing).await.status());
    assert_eq!(held(&harness, token).await, U256::from(5));
    assert!(harness.read_at(token, &Token::lastSuccessCall {}).await);
    let again = permit.transfer(&payer, PAYEE, U256::from(5));
    let callback =
        Token::setCallbackCall { newTarget: PERMIT2, newData: again.abi_encode().into() };
    harness.send(STRANGER, token, &callback).await;
    harness.send(STRANGER, token, &nothing).await;
    let answer = harness.read_at(token, &Token::lastAnswerCall {}).await;
    assert_eq!(answer, Permit2::InvalidNonce {}.abi_encode());
    assert_eq!(held(&harness, token).await, U256::from(5));
}

#[tokio::test]
async fn an_evil_factory_leaves_no_wallet_to_pay_from() {
    let harness = Harness::new();
    let factory = harness.deploy(FACILITATOR, zoo::EVIL_FACTORY.creation(&[])).await;
    let wallet = Address::repeat_byte(0x92);
    let payment = ExactPayment::new(&harness, PAYEE, 5);
    let call = payment.settle_with(wallet, sign(&dev_signer(PAYER), payment.digest()));
    let deploy = Factory::deployCall { owner: dev_signer(PAYER).address(), salt: B256::ZERO };
    assert!(harness.send(FACILITATOR, factory, &deploy).await.status());
    assert!(harness.provider.get_code_at(wallet).await.unwrap().is_empty());
    let error = Permit2::InvalidSigner {}.abi_encode();
    harness.reverts_with(FACILITATOR, EXACT_PERMIT2_PROXY, &call, error).await;
}
