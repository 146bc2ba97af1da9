//! Verifications that share a look at the chain.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alloy::primitives::{Address, B256, U256};
use pay402_core::network::{Network as _, Unverified};
use pay402_core::refusal::Reason;
use pay402_core::{Payment, Refusal};
use pay402_devchain::genesis::{DEV_ACCOUNTS, DEV_USDC, USDC_ADDRESS, dev_signer};
use pay402_evm::EvmNetwork;
use pay402_evm::network::glance::{LOOKS_MAX, PAYMENTS_MAX};
use tokio::task::JoinSet;

use crate::agent as account;
use crate::faults::{Meddling, is_shared, over};
use crate::support::{
    House, PAYER, PENNILESS, STRANGER, authorization, payment, payment_by, signed, terms,
};

/// Verifies all of them at once; the answers in their order.
async fn all_at_once(
    network: &Arc<EvmNetwork>,
    payments: &[Payment],
) -> Vec<Result<(), Unverified>> {
    let mut asked = JoinSet::new();
    for (index, payment) in payments.iter().cloned().enumerate() {
        let network = Arc::clone(network);
        asked.spawn(async move { (index, network.verify(&payment).await.map(drop)) });
    }
    let mut told = asked.join_all().await;
    told.sort_by_key(|(index, _)| *index);
    told.into_iter().map(|(_, told)| told).collect()
}

fn refused_as(told: &Result<(), Unverified>, refusal: Refusal) -> bool {
    matches!(told, Err(Unverified::Invalid(refused)) if refused.reason == Reason::Known(refusal))
}

/// A network that counts what it asks: questions that are shared, and others.
fn counted(house: &House) -> (Arc<EvmNetwork>, Arc<[AtomicUsize; 2]>) {
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counting = Arc::clone(&counts);
    let network = over(house, move |method, params| {
        counting[usize::from(!is_shared(method, params))].fetch_add(1, Ordering::SeqCst);
        Meddling::Pass
    });
    (Arc::new(network), counts)
}

fn read(counts: &[AtomicUsize; 2]) -> (usize, usize) {
    (counts[0].load(Ordering::SeqCst), counts[1].load(Ordering::SeqCst))
}

#[tokio::test]
async fn one_verification_asks_one_question_and_many_share_a_few() {
    let house = House::new();
    let (network, counts) = counted(&house);
    network.verify(&payment()).await.unwrap();
    assert_eq!(read(&counts), (1, 0));
    let payments: Vec<Payment> = (0..64).map(|_| payment()).collect();
    for told in all_at_once(&network, &payments).await {
        told.unwrap();
    }
    let (shared, others) = read(&counts);
    // Those that come first go alone, at most so many; the others fill what follows.
    let most = 1 + LOOKS_MAX + 64_usize.div_ceil(PAYMENTS_MAX) + 1;
    assert!(shared <= most && others == 0, "{shared} shared questions, {others} others");
}

#[tokio::test]
async fn each_is_judged_as_if_it_were_alone() {
    let house = House::new();
    let (network, counts) = counted(&house);
    let spent = payment();
    let verified = house.verify(&spent).await.unwrap();
    house.submit(&verified.plan).await;
    let poor = payment_by(PENNILESS, 10_000);
    let forged = {
        let terms = terms(10_000);
        signed(&terms, authorization(&terms, dev_signer(PAYER).address()), &dev_signer(STRANGER))
    };
    // Signed for more than its account has, with another that would bring it there.
    let rich = payment_by(STRANGER, DEV_USDC + 1);
    let payments =
        [payment(), spent, payment(), poor, forged, payment_by(STRANGER, 10_000), rich, payment()];
    let told = all_at_once(&network, &payments).await;
    for index in [0, 2, 5, 7] {
        assert_eq!(told[index], Ok(()), "{index}");
    }
    assert!(refused_as(&told[1], Refusal::NonceAlreadyUsed), "{:?}", told[1]);
    assert!(refused_as(&told[3], Refusal::InsufficientFunds), "{:?}", told[3]);
    assert!(refused_as(&told[4], Refusal::InvalidSignature), "{:?}", told[4]);
    assert!(refused_as(&told[6], Refusal::InsufficientFunds), "{:?}", told[6]);
    // Beyond the shared ones: where the used nonce was used, and what the chain says to a signature
    // that is not the payer's.
    assert!(read(&counts).0 <= 1 + LOOKS_MAX, "{:?}", read(&counts));
}

#[tokio::test]
async fn no_payment_sees_what_another_would_move() {
    let house = House::new();
    let (network, _) = counted(&house);
    // The penniless account is paid by the one and pays by the other: neither is settled.
    let poor = DEV_ACCOUNTS[PENNILESS];
    let terms_to = |to: Address| {
        let mut terms = terms(10_000);
        terms.pay_to = to.to_checksum(None);
        terms
    };
    let to_poor = terms_to(poor);
    let payer = dev_signer(PAYER);
    let mut payments = Vec::new();
    for _ in 0..LOOKS_MAX {
        payments.push(payment());
    }
    payments.push(signed(&to_poor, authorization(&to_poor, payer.address()), &payer));
    payments.push(payment_by(PENNILESS, 10_000));
    // All that an account has, twice: each could be settled, and both pass.
    payments.extend([payment_by(STRANGER, DEV_USDC), payment_by(STRANGER, DEV_USDC)]);
    let told = all_at_once(&network, &payments).await;
    assert_eq!(told[LOOKS_MAX], Ok(()));
    let poor = &told[LOOKS_MAX + 1];
    assert!(refused_as(poor, Refusal::InsufficientFunds), "{poor:?}");
    assert_eq!((&told[LOOKS_MAX + 2], &told[LOOKS_MAX + 3]), (&Ok(()), &Ok(())));
}

#[tokio::test]
async fn a_node_that_does_not_take_the_question_is_asked_as_before() {
    let house = House::new();
    for answer in [
        Meddling::Refuse("execution reverted"),
        Meddling::Refuse("method handler crashed"),
        Meddling::Answer("0x".into()),
        Meddling::Answer(format!("0x{}", "00".repeat(64)).into()),
        Meddling::Answer("nonsense".into()),
    ] {
        let network = over(&house, move |method, params| match is_shared(method, params) {
            true => answer.clone(),
            false => Meddling::Pass,
        });
        network.verify(&payment()).await.unwrap();
    }
}

#[tokio::test]
async fn whoever_leaves_takes_nobody_along() {
    let house = House::new();
    let (network, _) = counted(&house);
    for _ in 0..20 {
        let mut asked = JoinSet::new();
        for _ in 0..16 {
            let network = Arc::clone(&network);
            asked.spawn(async move { network.verify(&payment()).await.map(drop) });
        }
        let leaving: Vec<_> = (0..16)
            .map(|_| {
                let network = Arc::clone(&network);
                tokio::spawn(async move { network.verify(&payment()).await.map(drop) })
            })
            .collect();
        tokio::task::yield_now().await;
        for task in leaving {
            task.abort();
        }
        for told in asked.join_all().await {
            told.unwrap();
        }
    }
    network.verify(&payment()).await.unwrap();
}

#[tokio::test]
async fn an_account_with_code_is_asked_in_its_own_way() {
    let house = House::new();
    let root = account::signer("somebody");
    house.fund(root.address());
    let paid = |nonce: u64| {
        let terms = terms(10_000);
        let nonce = B256::from(U256::from(nonce));
        let authorization = pay402_evm::typed_data::Authorization {
            nonce,
            ..authorization(&terms, root.address())
        };
        signed(&terms, authorization, &root)
    };
    house.verify(&paid(1)).await.unwrap();
    // Code that burns everything it is given: it is not run beside others' payments.
    house.chain.set_code(root.address(), vec![0x5b, 0x60, 0x00, 0x56].into());
    let (network, _) = counted(&house);
    let payments = [payment(), paid(2), payment()];
    let told = all_at_once(&network, &payments).await;
    assert_eq!((&told[0], &told[2]), (&Ok(()), &Ok(())));
    assert!(refused_as(&told[1], Refusal::InvalidSignature), "{:?}", told[1]);
}

#[tokio::test]
async fn a_token_that_burns_gas_stops_only_its_own_payment() {
    let house = House::new();
    let good = house.verify(&payment()).await.unwrap();
    // From now on the token burns all gas that it is given.
    house.chain.set_code(USDC_ADDRESS, vec![0x5b, 0x60, 0x00, 0x56].into());
    let (network, _) = counted(&house);
    let told = all_at_once(&network, &[payment(), payment()]).await;
    assert!(told.iter().all(Result::is_err), "{told:?}");
    let status = house.network.status(&good.plan, None).await;
    assert!(status.is_err(), "{status:?}");
}

#[tokio::test]
async fn gas_is_offered_as_it_was_tried_and_signing_shares_its_looks_too() {
    use alloy::consensus::{Transaction as _, TxEnvelope};
    use alloy::eips::eip2718::Decodable2718 as _;
    use alloy::providers::Provider as _;
    let house = House::new();
    let (network, counts) = counted(&house);
    let payments: Vec<Payment> = (0..16).map(|_| payment()).collect();
    let mut plans = Vec::new();
    for payment in &payments {
        plans.push(house.verify(payment).await.unwrap().plan);
    }
    let before = read(&counts);
    let mut signing = JoinSet::new();
    let signer = network.signers().remove(0);
    for (nonce, plan) in (0..).zip(plans) {
        let (network, signer) = (Arc::clone(&network), signer.clone());
        signing.spawn(
            async move { (nonce, network.sign(&signer, nonce, &plan, None).await.unwrap()) },
        );
    }
    let mut signed = signing.join_all().await;
    signed.sort_by_key(|(nonce, _)| *nonce);
    let (shared, others) = read(&counts);
    assert!(shared - before.0 <= LOOKS_MAX + 2, "{shared} shared questions");
    assert_eq!(others - before.1, 2, "the fees, once");
    for (_, signed) in signed {
        let transaction = TxEnvelope::decode_2718(&mut signed.raw.expose()).unwrap();
        house.network.send(&signed.raw).await.unwrap();
        let hash = signed.transaction.parse().unwrap();
        let receipt = house.chain.provider().get_transaction_receipt(hash).await.unwrap().unwrap();
        assert!(receipt.status());
        let (limit, used) = (transaction.gas_limit(), receipt.gas_used);
        assert!(used * 6 / 5 <= limit && limit <= used * 2, "{limit} offered, {used} used");
    }
}
