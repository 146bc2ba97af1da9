//! A payer's money is promised once.

use std::time::Duration;

use alloy::primitives::U256;
use alloy::providers::Provider as _;
use pay402_core::facilitator::{Settled, Verdict};
use pay402_core::{Payment, Refusal};
use pay402_devchain::Devchain;
use pay402_devchain::genesis::{DEV_ACCOUNTS, USDC_ADDRESS, usdc_balance_slot};
use pay402_facilitator::{Engine, Options};

use crate::bed::{LONG, done, options, pending, refused, settle};
use crate::evm::{PAYER, PRICE, SIGNERS, balance, chain, payee, payment, start};

/// Leaves the payer with the money for so many payments.
fn leave(chain: &Devchain, payments: u64) {
    let slot = usdc_balance_slot(DEV_ACCOUNTS[PAYER]);
    chain.set_storage(USDC_ADDRESS, slot, U256::from(PRICE * payments));
}

/// Verifies; the refusal's message.
async fn verify(engine: &Engine, payment: &Payment) -> Result<(), String> {
    match engine.verify_for(None, payment).await.unwrap() {
        Verdict::Valid { .. } => Ok(()),
        Verdict::Invalid(told) => {
            assert!(told.reason.is(Refusal::InsufficientFunds), "{told}");
            Err(told.message)
        }
    }
}

/// Presents a hundred payments of a payer who has the money for one. Each presents one, and settles it
/// if `verifies` and it is told that it is valid, or at once.
async fn overdraw(verifies: bool) {
    const PAYLOADS: u64 = 100;
    let chain = chain();
    leave(&chain, 1);
    let folder = tempfile::tempdir().unwrap();
    let engine = start(&chain, &folder.path().join("journal.db"), options()).await;
    let mut asked = Vec::new();
    for number in 0..PAYLOADS {
        let (engine, payment) = (engine.clone(), payment(number).await);
        asked.push(tokio::spawn(async move {
            if verifies && verify(&engine, &payment).await.is_err() {
                return false;
            }
            match settle(&engine, payment, LONG).await {
                Settled::Done(_) => true,
                told => {
                    refused(told, Refusal::InsufficientFunds);
                    false
                }
            }
        }));
    }
    let mut granted = 0;
    for told in asked {
        granted += u64::from(told.await.unwrap());
    }
    assert_eq!(granted, 1);
    assert_eq!(balance(&chain, payee()).await, U256::from(PRICE));
    let mut sent = 0;
    for signer in SIGNERS {
        let provider = chain.provider();
        sent += provider.get_transaction_count(DEV_ACCOUNTS[signer]).await.unwrap();
    }
    assert_eq!(sent, 1, "gas was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_verified_at_once_one_is_granted() {
    overdraw(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_settled_at_once_one_is_granted() {
    overdraw(false).await;
}

#[tokio::test]
async fn who_has_enough_is_never_refused_for_what_is_settled_or_asked_twice() {
    const PAYMENTS: u64 = 6;
    let chain = chain();
    leave(&chain, PAYMENTS);
    let folder = tempfile::tempdir().unwrap();
    let engine = start(&chain, &folder.path().join("journal.db"), options()).await;
    for number in 0..PAYMENTS {
        let payment = payment(number).await;
        for _ in 0..3 {
            verify(&engine, &payment).await.unwrap();
        }
        done(&settle(&engine, payment, LONG).await);
    }
    assert_eq!(balance(&chain, payee()).await, U256::from(PRICE * PAYMENTS));
}

#[tokio::test]
async fn what_is_being_settled_is_reserved_after_a_crash_too() {
    let chain = chain();
    leave(&chain, 2);
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.db");
    let options = Options { lease: Duration::from_secs(3), ..options() };
    chain.hold_mempool();
    let engine = start(&chain, &journal, options.clone()).await;
    let first = payment(1).await;
    pending(settle(&engine, first.clone(), Duration::from_millis(300)).await).unwrap();
    // It takes one of two.
    verify(&engine, &payment(2).await).await.unwrap();
    let told = verify(&engine, &payment(3).await).await.unwrap_err();
    assert!(told.contains("has 20000") && told.contains("20000 are reserved"), "{told}");
    engine.crash();
    drop(engine);

    let engine = start(&chain, &journal, options).await;
    verify(&engine, &payment(3).await).await.unwrap();
    verify(&engine, &payment(2).await).await.unwrap_err();
    refused(settle(&engine, payment(4).await, LONG).await, Refusal::InsufficientFunds);
    chain.release_mempool();
    done(&settle(&engine, first, LONG).await);
    done(&settle(&engine, payment(3).await, LONG).await);
    assert_eq!(balance(&chain, payee()).await, U256::from(PRICE * 2));
}
