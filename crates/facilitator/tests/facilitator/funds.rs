//! Signers that run out of what they pay gas with.

use std::time::Duration;

use alloy::primitives::U256;
use alloy::providers::Provider as _;
use pay402_core::error::Unavailable;
use pay402_core::facilitator::Settled;
use pay402_devchain::genesis::DEV_ACCOUNTS;
use pay402_devchain::{Devchain, Mining};
use pay402_facilitator::{Engine, Options};

use crate::bed::{LONG, SHORT, done, options, pending, settle, until};
use crate::evm::{SIGNERS, chain, payment, start};

fn watchful() -> Options {
    Options { funds_every: Duration::from_millis(20), lease: Duration::from_secs(3), ..options() }
}

async fn try_settle(engine: &Engine, number: u64) -> Result<Settled, Unavailable> {
    engine.settle_for(None, payment(number).await, LONG).await
}

async fn nonce(chain: &Devchain, signer: usize) -> u64 {
    chain.provider().get_transaction_count(DEV_ACCOUNTS[signer]).await.unwrap()
}

/// Enough for a settlement, and not for twenty.
fn little() -> U256 {
    U256::from(2_000_000_000_000_000_u64)
}

#[tokio::test]
async fn a_signer_that_has_too_little_rests_and_all_of_them_accept_nothing_new() {
    let chain = chain();
    let folder = tempfile::tempdir().unwrap();
    let engine = start(&chain, &folder.path().join("journal.db"), watchful()).await;
    let [first, second] = SIGNERS;
    chain.set_balance(DEV_ACCOUNTS[first], little());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = nonce(&chain, first).await;
    for number in 1..=4 {
        done(&try_settle(&engine, number).await.unwrap());
    }
    assert_eq!(nonce(&chain, first).await, before, "a signer with too little was used");
    assert_eq!(nonce(&chain, second).await, 4);

    chain.set_balance(DEV_ACCOUNTS[second], little());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let refused = try_settle(&engine, 5).await.unwrap_err();
    assert!(refused.problem.contains("too little"), "{refused}");
    assert_eq!(nonce(&chain, first).await + nonce(&chain, second).await, 4, "sent all the same");
    // The same payment is good again once there is gas.
    chain.set_balance(DEV_ACCOUNTS[first], U256::from(10).pow(U256::from(18)));
    until("it is accepted again", || async { try_settle(&engine, 5).await.is_ok() }).await;
}

#[tokio::test]
async fn what_was_accepted_is_settled_out_of_the_floor() {
    let chain = chain();
    let folder = tempfile::tempdir().unwrap();
    let engine = start(&chain, &folder.path().join("journal.db"), watchful()).await;
    chain.set_mining(Mining::Manual);
    let paid = payment(1).await;
    pending(settle(&engine, paid.clone(), SHORT).await);
    for signer in SIGNERS {
        chain.set_balance(DEV_ACCOUNTS[signer], little());
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Restarted, it finds what it entered, and signers with little.
    engine.crash();
    drop(engine);
    let engine = start(&chain, &folder.path().join("journal.db"), watchful()).await;
    chain.set_mining(Mining::Instant);
    chain.mine(1);
    done(&settle(&engine, paid, LONG).await);
    assert!(try_settle(&engine, 2).await.is_err());
}
