//! What a paid request costs from end to end: client, resource server, facilitator and chain, with
//! every durable write on disk. Held against the same request unpaid for and free, and against the
//! least that moves a token: one `transfer`, sent to the chain and mined.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use alloy::network::{EthereumWallet, TransactionBuilder as _};
use alloy::primitives::{Address, U256};
use alloy::providers::{DynProvider, Provider as _, ProviderBuilder};
use alloy::rpc::types::TransactionRequest;
use alloy::sol;
use alloy::sol_types::SolCall as _;
use pay402_devchain::genesis;
use tokio::task::JoinSet;

use crate::report::{Bench, Round, Unit};
use crate::stack::Stack;
use crate::{Extent, Result, bare};

pub(crate) const NAMES: &[&str] =
    &["paid_latency_vs_free", "paid_latency_vs_transfer", "paid_rate_vs_transfer"];

// The books are compared at the end from block 0 on, so all rounds together stay below the number
// of blocks whose state the embedded chain keeps.
/// Purchases one after the other, per round.
const SEQUENTIAL: usize = 12;
/// Purchases at once.
const BUYERS: usize = 8;
/// Purchases of each, per round.
const EACH: usize = 6;
/// Position of the account that makes the raw transfers; it has no part in the payments.
const TRANSFER_INDEX: usize = 5;

sol! {
    function transfer(address to, uint256 value) external returns (bool);
}

/// Buys, asks for nothing, and transfers, in turns.
pub(crate) async fn run(extent: Extent) -> Result<Vec<Bench>> {
    let stack = Stack::start().await?;
    let free = format!("http://{}/data", bare::serve().await?);
    let client = reqwest::Client::new();
    let chain = Transfers::new(&stack);
    let counter = AtomicUsize::new(0);
    let sequential = extent.count(SEQUENTIAL);
    buy_us(&stack, &counter, 2).await?;
    chain.transfers_us(2).await?;
    free_us(&client, &free, sequential).await?;

    let (mut to_free, mut to_transfer, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..extent.rounds {
        let subject = buy_us(&stack, &counter, sequential).await?;
        to_free.push(Round { subject, reference: free_us(&client, &free, sequential).await? });
        let transfer = chain.transfers_us(sequential).await?;
        to_transfer.push(Round { subject, reference: transfer });
        let subject = buy_rate(&stack, &counter, extent.count(EACH)).await?;
        rates.push(Round { subject, reference: 1_000_000.0 / transfer });
    }
    stack.finish().await?;
    let bench = |name, against, unit, rounds| Bench { name, against, unit, rounds };
    let free = "the same request to a bare axum route";
    let transfer = "a raw token transfer, sent and mined, one after the other";
    Ok(vec![
        bench(NAMES[0], free, Unit::Microseconds, to_free),
        bench(NAMES[1], transfer, Unit::Microseconds, to_transfer),
        bench(NAMES[2], transfer, Unit::PerSecond, rates),
    ])
}

/// How long one purchase takes when one follows the other, in microseconds.
async fn buy_us(stack: &Stack, counter: &AtomicUsize, count: usize) -> Result<f64> {
    let buyer = stack.buyer();
    let began = Instant::now();
    for _ in 0..count {
        buyer.buy(counter.fetch_add(1, Ordering::Relaxed)).await?;
    }
    Ok(began.elapsed().as_secs_f64() * 1_000_000.0 / count as f64)
}

/// How many purchases a second many buyers make at once.
async fn buy_rate(stack: &Stack, counter: &AtomicUsize, each: usize) -> Result<f64> {
    let first = counter.fetch_add(BUYERS * each, Ordering::Relaxed);
    let began = Instant::now();
    let mut running = JoinSet::new();
    for index in 0..BUYERS {
        let buyer = stack.buyer();
        running.spawn(async move {
            for count in 0..each {
                buyer.buy(first + index * each + count).await?;
            }
            Ok::<_, crate::Failure>(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok((BUYERS * each) as f64 / began.elapsed().as_secs_f64())
}

/// How long one free request takes, in microseconds.
async fn free_us(client: &reqwest::Client, url: &str, count: usize) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..count {
        let answer = client.get(url).send().await?.error_for_status()?;
        if !answer.text().await?.contains("temperature") {
            return Err("the free route answered something else".into());
        }
    }
    Ok(began.elapsed().as_secs_f64() * 1_000_000.0 / count as f64)
}

/// Raw transfers from an account of its own.
struct Transfers {
    provider: DynProvider,
}

impl Transfers {
    fn new(stack: &Stack) -> Self {
        let wallet = EthereumWallet::from(genesis::dev_signer(TRANSFER_INDEX));
        let client = stack.chain().rpc_client();
        let provider = ProviderBuilder::new().wallet(wallet).connect_client(client).erased();
        Self { provider }
    }

    /// How long one transfer takes from signing to its receipt, in microseconds.
    async fn transfers_us(&self, count: usize) -> Result<f64> {
        let began = Instant::now();
        for _ in 0..count {
            let call = transferCall { to: Address::repeat_byte(0x42), value: U256::ONE };
            let request = TransactionRequest::default()
                .with_to(genesis::USDC_ADDRESS)
                .with_input(call.abi_encode());
            let receipt = self.provider.send_transaction(request).await?.get_receipt().await?;
            if !receipt.status() || receipt.logs().len() != 1 {
                return Err("a raw transfer failed".into());
            }
        }
        Ok(began.elapsed().as_secs_f64() * 1_000_000.0 / count as f64)
    }
}
