//! The x402 proxies of schemes `exact` and `upto`: what they settle, what they refuse, and with which error.

mod support;

use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::rpc::types::TransactionReceipt;
use alloy::sol_types::{SolCall, SolError, SolEvent, SolStruct};
use pay402_devchain::genesis::{
    DEV_USDC, EXACT_PERMIT2_PROXY, MULTICALL3, PERMIT2, UPTO_PERMIT2_PROXY, USDC_ADDRESS,
    dev_signer,
};
use support::permit2::abi::{Permit2, Proxy};
use support::permit2::{ExactPayment, UptoPayment, exact, sign, upto, usdc_permit, words};
use support::{Harness, PAYEE, Usdc, multicall};

/// The development account of the facilitator.
const FACILITATOR: usize = 0;
/// The development account that pays.
const PAYER: usize = 1;
/// Neither of the two.
const STRANGER: usize = 2;

/// A chain on which the payer has let Permit2 at its USDC.
async fn approved() -> Harness {
    let harness = Harness::new();
    let call = Usdc::approveCall { spender: PERMIT2, value: U256::MAX };
    assert!(harness.send(PAYER, USDC_ADDRESS, &call).await.status());
    harness
}

fn upto(harness: &Harness, ceiling: u64) -> UptoPayment {
    UptoPayment::new(harness, dev_signer(FACILITATOR).address(), PAYEE, ceiling)
}

/// How many times a receipt has event `E` of `emitter`.
fn count<E: SolEvent>(receipt: &TransactionReceipt, emitter: Address) -> usize {
    let of = |log: &&alloy::rpc::types::Log| {
        log.address() == emitter && E::decode_log(&log.inner).is_ok()
    };
    receipt.inner.logs().iter().filter(of).count()
}

/// The one transfer of USDC that a receipt has.
fn transfer(receipt: &TransactionReceipt) -> (Address, Address, U256) {
    let mut moved = receipt.inner.logs().iter().filter_map(|log| {
        (log.address() == USDC_ADDRESS).then(|| Usdc::Transfer::decode_log(&log.inner).ok())?
    });
    let one = moved.next().expect("money moves");
    assert!(moved.next().is_none());
    (one.from, one.to, one.value)
}

#[tokio::test]
async fn what_the_proxies_say_of_themselves() {
    let harness = Harness::new();
    // alloy writes the types down in the order of EIP-712; behind the deadline begins the proxy's string.
    let rest = |whole: std::borrow::Cow<'static, str>| {
        whole.split_once("uint256 deadline,").map(|(_, rest)| rest.to_owned()).unwrap()
    };
    for (proxy, whole, witness) in [
        (
            EXACT_PERMIT2_PROXY,
            exact::PermitWitnessTransferFrom::eip712_encode_type(),
            exact::Witness::eip712_encode_type(),
        ),
        (
            UPTO_PERMIT2_PROXY,
            upto::PermitWitnessTransferFrom::eip712_encode_type(),
            upto::Witness::eip712_encode_type(),
        ),
    ] {
        assert_eq!(harness.read_at(proxy, &Proxy::PERMIT2Call {}).await, PERMIT2);
        assert_eq!(harness.read_at(proxy, &Proxy::WITNESS_TYPE_STRINGCall {}).await, rest(whole));
        let hash = harness.read_at(proxy, &Proxy::WITNESS_TYPEHASHCall {}).await;
        assert_eq!(hash, keccak256(witness.as_bytes()));
    }
}

#[tokio::test]
async fn exact_moves_the_whole_amount_once() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let payment = ExactPayment::new(&harness, PAYEE, 10_000);
    let call = payment.settle(&payer);
    // Whoever sends it, the money goes where the payer said.
    let receipt = harness.send(STRANGER, EXACT_PERMIT2_PROXY, &call).await;
    assert!(receipt.status());
    assert_eq!(transfer(&receipt), (payer.address(), PAYEE, U256::from(10_000)));
    assert_eq!(count::<Proxy::Settled>(&receipt, EXACT_PERMIT2_PROXY), 1);
    assert_eq!(count::<Proxy::SettledWithPermit>(&receipt, EXACT_PERMIT2_PROXY), 0);
    assert_eq!(harness.usdc(PAYEE).await, U256::from(10_000));
    assert_eq!(harness.usdc(payer.address()).await, U256::from(DEV_USDC - 10_000));
    let error = Permit2::InvalidNonce {}.abi_encode();
    harness.reverts_with(FACILITATOR, EXACT_PERMIT2_PROXY, &call, error).await;
    let replay = harness.send_unchecked(FACILITATOR, EXACT_PERMIT2_PROXY, call.abi_encode()).await;
    assert!(!replay.status());
    assert_eq!(harness.usdc(PAYEE).await, U256::from(10_000));
}

#[tokio::test]
async fn many_exact_payments_settle_in_one_transaction() {
    let harness = approved().await;
    let calls = (1..=3).map(|amount| {
        let call = ExactPayment::new(&harness, PAYEE, amount).settle(&dev_signer(PAYER));
        multicall::Call3 {
            target: EXACT_PERMIT2_PROXY,
            allowFailure: false,
            callData: call.abi_encode().into(),
        }
    });
    let call = multicall::aggregate3Call { calls: calls.collect() };
    let receipt = harness.send(FACILITATOR, MULTICALL3, &call).await;
    assert!(receipt.status());
    assert_eq!(count::<Proxy::Settled>(&receipt, EXACT_PERMIT2_PROXY), 3);
    assert_eq!(harness.usdc(PAYEE).await, U256::from(6));
}

#[tokio::test]
async fn exact_payments_that_are_refused() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let payment = ExactPayment::new(&harness, PAYEE, 5);
    let settle = payment.settle(&payer);
    let refused = async |call: &_, error: Vec<u8>| {
        harness.reverts_with(FACILITATOR, EXACT_PERMIT2_PROXY, call, error).await;
    };

    let free = ExactPayment::new(&harness, PAYEE, 0).settle(&payer);
    refused(&free, Proxy::InvalidAmount {}.abi_encode()).await;
    let nobody = payment.settle_with(Address::ZERO, sign(&payer, payment.digest()));
    refused(&nobody, Proxy::InvalidOwner {}.abi_encode()).await;
    let nowhere = ExactPayment::new(&harness, Address::ZERO, 5).settle(&payer);
    refused(&nowhere, Proxy::InvalidDestination {}.abi_encode()).await;

    // What Permit2 says comes through as it is.
    let mut elsewhere = settle.clone();
    elsewhere.witness.to = dev_signer(FACILITATOR).address();
    refused(&elsewhere, Permit2::InvalidSigner {}.abi_encode()).await;
    let mut earlier = settle.clone();
    earlier.witness.validAfter = U256::from(1);
    refused(&earlier, Permit2::InvalidSigner {}.abi_encode()).await;
    let by_another = payment.settle_with(payer.address(), sign(&dev_signer(3), payment.digest()));
    refused(&by_another, Permit2::InvalidSigner {}.abi_encode()).await;
    let cut = settle.signature.slice(..63);
    let cut = payment.settle_with(payer.address(), cut);
    refused(&cut, Permit2::InvalidSignatureLength {}.abi_encode()).await;
    let mut late = payment.clone();
    late.permit.deadline = U256::from(9);
    let error = Permit2::SignatureExpired { signatureDeadline: U256::from(9) };
    refused(&late.settle(&payer), error.abi_encode()).await;
    // A permit for another spender is none for the proxy.
    let mut direct = payment.clone();
    direct.permit.spender = dev_signer(FACILITATOR).address();
    refused(&direct.settle(&payer), Permit2::InvalidSigner {}.abi_encode()).await;
    harness.set_usdc(payer.address(), 4);
    refused(&settle, words("TRANSFER_FROM_FAILED")).await;
    harness.set_usdc(payer.address(), 5);
    assert!(harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &settle).await.status());
}

#[tokio::test]
async fn a_payment_is_good_from_its_first_second() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let start = harness.chain.now() + 300;
    let exact =
        ExactPayment { valid_after: U256::from(start), ..ExactPayment::new(&harness, PAYEE, 5) };
    let upto = UptoPayment { valid_after: U256::from(start), ..upto(&harness, 5) };
    let early = Proxy::PaymentTooEarly {}.abi_encode();
    let exact = exact.settle(&payer);
    let upto = upto.settle(&payer, 5);
    assert!(harness.chain.set_next_block_timestamp(start - 1));
    harness.reverts_with(FACILITATOR, EXACT_PERMIT2_PROXY, &exact, early.clone()).await;
    harness.reverts_with(FACILITATOR, UPTO_PERMIT2_PROXY, &upto, early).await;
    assert!(harness.chain.set_next_block_timestamp(start));
    assert!(harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &exact).await.status());
    assert!(harness.send(FACILITATOR, UPTO_PERMIT2_PROXY, &upto).await.status());
    assert_eq!(harness.usdc(PAYEE).await, U256::from(10));
}

#[tokio::test]
async fn exact_with_a_permit_needs_no_allowance_before() {
    let harness = Harness::new();
    let payer = dev_signer(PAYER);
    let payment = ExactPayment::new(&harness, PAYEE, 700);
    harness
        .reverts_with(
            FACILITATOR,
            EXACT_PERMIT2_PROXY,
            &payment.settle(&payer),
            words("TRANSFER_FROM_FAILED"),
        )
        .await;
    let permit = usdc_permit(&harness, &payer, U256::from(700));
    let call = payment.settle_with_permit(&payer, permit);
    let receipt = harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &call).await;
    assert!(receipt.status());
    assert_eq!(transfer(&receipt), (payer.address(), PAYEE, U256::from(700)));
    assert_eq!(count::<Proxy::SettledWithPermit>(&receipt, EXACT_PERMIT2_PROXY), 1);
    assert_eq!(count::<Proxy::Settled>(&receipt, EXACT_PERMIT2_PROXY), 0);
    assert_eq!(count::<Proxy::EIP2612PermitFailedWithReason>(&receipt, EXACT_PERMIT2_PROXY), 0);
    let left = Usdc::allowanceCall { holder: payer.address(), spender: PERMIT2 };
    assert_eq!(harness.read(&left).await, U256::ZERO);
}

#[tokio::test]
async fn a_permit_that_somebody_sent_before_does_not_matter() {
    let harness = Harness::new();
    let payer = dev_signer(PAYER);
    let payment = ExactPayment::new(&harness, PAYEE, 700);
    let permit = usdc_permit(&harness, &payer, U256::from(700));
    let front_run = Usdc::permit_0Call {
        holder: payer.address(),
        spender: PERMIT2,
        value: permit.value,
        deadline: permit.deadline,
        v: permit.v,
        r: permit.r,
        s: permit.s,
    };
    assert!(harness.send(STRANGER, USDC_ADDRESS, &front_run).await.status());
    let call = payment.settle_with_permit(&payer, permit);
    let receipt = harness.send(FACILITATOR, EXACT_PERMIT2_PROXY, &call).await;
    assert!(receipt.status());
    assert_eq!(transfer(&receipt), (payer.address(), PAYEE, U256::from(700)));
    let told = receipt
        .inner
        .logs()
        .iter()
        .find_map(|log| Proxy::EIP2612PermitFailedWithReason::decode_log(&log.inner).ok());
    let told = told.expect("the failure is told");
    assert_eq!((told.token, told.owner), (USDC_ADDRESS, payer.address()));
    assert_eq!(told.reason, "EIP2612: invalid signature");
}

#[tokio::test]
async fn a_permit_for_another_amount_is_refused() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let error = Proxy::Permit2612AmountMismatch {}.abi_encode();
    for value in [699, 701] {
        let permit = usdc_permit(&harness, &payer, U256::from(value));
        let exact = ExactPayment::new(&harness, PAYEE, 700);
        let exact = exact.settle_with_permit(&payer, permit.clone());
        harness.reverts_with(FACILITATOR, EXACT_PERMIT2_PROXY, &exact, error.clone()).await;
        let upto = upto(&harness, 700).settle_with_permit(&payer, permit, 1);
        harness.reverts_with(FACILITATOR, UPTO_PERMIT2_PROXY, &upto, error.clone()).await;
    }
}

#[tokio::test]
async fn a_broken_permit_without_an_allowance_settles_nothing() {
    let harness = Harness::new();
    let payer = dev_signer(PAYER);
    let mut permit = usdc_permit(&harness, &payer, U256::from(700));
    permit.r = B256::repeat_byte(1);
    let call = ExactPayment::new(&harness, PAYEE, 700).settle_with_permit(&payer, permit);
    harness
        .reverts_with(FACILITATOR, EXACT_PERMIT2_PROXY, &call, words("TRANSFER_FROM_FAILED"))
        .await;
}

#[tokio::test]
async fn upto_moves_a_part_and_spends_the_whole() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let payment = upto(&harness, 1_000);
    let receipt = harness.send(FACILITATOR, UPTO_PERMIT2_PROXY, &payment.settle(&payer, 123)).await;
    assert!(receipt.status());
    assert_eq!(transfer(&receipt), (payer.address(), PAYEE, U256::from(123)));
    assert_eq!(count::<Proxy::Settled>(&receipt, UPTO_PERMIT2_PROXY), 1);
    let error = Permit2::InvalidNonce {}.abi_encode();
    let rest = payment.settle(&payer, 877);
    harness.reverts_with(FACILITATOR, UPTO_PERMIT2_PROXY, &rest, error).await;
    let all = upto(&harness, 1_000).settle(&payer, 1_000);
    assert!(harness.send(FACILITATOR, UPTO_PERMIT2_PROXY, &all).await.status());
    assert_eq!(harness.usdc(PAYEE).await, U256::from(1_123));
}

#[tokio::test]
async fn upto_payments_that_are_refused() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let payment = upto(&harness, 100);
    let permit = || usdc_permit(&harness, &payer, U256::from(100));
    let refused = async |payment: &UptoPayment, amount: u64, error: Vec<u8>| {
        let plain = payment.settle(&payer, amount);
        harness.reverts_with(FACILITATOR, UPTO_PERMIT2_PROXY, &plain, error.clone()).await;
        let with_permit = payment.settle_with_permit(&payer, permit(), amount);
        harness.reverts_with(FACILITATOR, UPTO_PERMIT2_PROXY, &with_permit, error).await;
    };
    refused(&payment, 101, Proxy::AmountExceedsPermitted {}.abi_encode()).await;
    refused(&payment, 0, Proxy::InvalidAmount {}.abi_encode()).await;
    let nowhere = UptoPayment { to: Address::ZERO, ..payment.clone() };
    refused(&nowhere, 1, Proxy::InvalidDestination {}.abi_encode()).await;
    // Only the facilitator that the payer named, and nobody can put another name in its place.
    let others = UptoPayment { facilitator: dev_signer(STRANGER).address(), ..payment.clone() };
    refused(&others, 1, Proxy::UnauthorizedFacilitator {}.abi_encode()).await;
    let mut renamed = others.settle(&payer, 1);
    renamed.witness.facilitator = dev_signer(FACILITATOR).address();
    let error = Permit2::InvalidSigner {}.abi_encode();
    harness.reverts_with(FACILITATOR, UPTO_PERMIT2_PROXY, &renamed, error).await;
    let mut nobody = payment.settle(&payer, 1);
    nobody.owner = Address::ZERO;
    let error = Proxy::InvalidOwner {}.abi_encode();
    harness.reverts_with(FACILITATOR, UPTO_PERMIT2_PROXY, &nobody, error).await;
    // A permit for the one proxy is none for the other, even if their witnesses were alike.
    let mut crossed = payment.clone();
    crossed.permit.spender = EXACT_PERMIT2_PROXY;
    let error = Permit2::InvalidSigner {}.abi_encode();
    refused(&crossed, 1, error).await;
    assert!(
        harness.send(FACILITATOR, UPTO_PERMIT2_PROXY, &payment.settle(&payer, 100)).await.status()
    );
}

#[tokio::test]
async fn upto_with_a_permit() {
    let harness = Harness::new();
    let payer = dev_signer(PAYER);
    let permit = usdc_permit(&harness, &payer, U256::from(700));
    let call = upto(&harness, 700).settle_with_permit(&payer, permit, 300);
    let receipt = harness.send(FACILITATOR, UPTO_PERMIT2_PROXY, &call).await;
    assert!(receipt.status());
    assert_eq!(transfer(&receipt), (payer.address(), PAYEE, U256::from(300)));
    assert_eq!(count::<Proxy::SettledWithPermit>(&receipt, UPTO_PERMIT2_PROXY), 1);
    assert_eq!(count::<Proxy::Settled>(&receipt, UPTO_PERMIT2_PROXY), 0);
}
