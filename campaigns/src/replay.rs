//! `replay`: one payment, presented by many resources at every replica at once.
//!
//! **Violations:** another number than one of successes, or of transactions; an answer that a copy does
//! not have.

use std::sync::Arc;
use std::time::Duration;

use pay402_core::PaymentKey;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::Result;
use crate::payments::{Fate, ask, caller};
use crate::replicas::{Climate, REPLICAS, World};
use crate::rounds::{Extent, Plan};

/// Resources that present the payment, each as its own.
const RESOURCES: usize = 10;
const LONG_ROUNDS: u64 = 20;
const SHORT_ROUNDS: u64 = 3;

/// Runs the campaign and returns its line of figures.
pub(crate) async fn run(plan: &Plan) -> Result<String> {
    let (at_once, count) = match plan.extent {
        Extent::Short => (100, SHORT_ROUNDS),
        Extent::Long => (1_000, LONG_ROUNDS),
    };
    let climate = Climate { block_time: Duration::from_secs(1), lease_s: 10, payers: 8 };
    let mut world = None;
    let mut keys = Vec::new();
    let (mut rounds, mut copies, mut successes, mut transactions) = (0, 0, 0, 0);
    for number in plan.rounds(count) {
        rounds += 1;
        let figures = match plan.done(number) {
            Some(figures) => figures,
            None => {
                if world.is_none() {
                    world = Some(World::start(&plan.bin, climate).await?);
                }
                let world = world.as_mut().ok_or("a world was made")?;
                let figures = match round(world, at_once, &mut keys).await {
                    Ok(figures) => figures,
                    Err(error) => {
                        return Err(format!("round {number}: {error}; {:?}", world.keep()).into());
                    }
                };
                plan.note(number, &figures)?;
                eprintln!("round {number}: {figures}");
                figures
            }
        };
        copies += figures["copies"].as_u64().unwrap_or(0);
        successes += figures["successes"].as_u64().unwrap_or(0);
        transactions += figures["transactions"].as_u64().unwrap_or(0);
    }
    if let Some(world) = &world {
        world.books(&keys).await?;
    }
    Ok(format!(
        "replay: {rounds} rounds of 1 payment × {at_once} at once × {RESOURCES} resources × {REPLICAS} replicas: \
         {copies} copies, {successes} successes, {transactions} transactions, books equal the chain"
    ))
}

async fn round(world: &mut World, at_once: usize, keys: &mut Vec<PaymentKey>) -> Result<Value> {
    let signed = world.payers.sign().await?;
    keys.push(signed.key.clone());
    let before = world.transactions().await?;
    let client = caller()?;
    let places = Arc::new(Semaphore::new(at_once));
    let mut asking = JoinSet::new();
    for _ in 0..at_once {
        for resource in 0..RESOURCES {
            let body = signed.body_for(resource)?;
            for replica in &world.replicas {
                let (client, body) = (client.clone(), body.clone());
                let (url, places) = (format!("{}/settle", replica.url), Arc::clone(&places));
                asking.spawn(async move {
                    let _place = places.acquire().await;
                    ask(&client, &url, &body).await
                });
            }
        }
    }
    let (mut copies, mut successes) = (0_u64, 0_u64);
    while let Some(told) = asking.join_next().await {
        copies += 1;
        match told?? {
            Some(Fate::Told) => successes += 1,
            Some(Fate::Duplicate) | None => {}
            Some(Fate::Other(what)) => return Err(what.into()),
        }
    }
    world.all_finished().await?;
    let transactions = world.transactions().await? - before;
    if (successes, transactions) != (1, 1) {
        return Err(format!("{successes} successes and {transactions} transactions").into());
    }
    Ok(json!({ "copies": copies, "successes": successes, "transactions": transactions }))
}
