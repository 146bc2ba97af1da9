//! `overdraft`: a wallet that holds the price of one payment, and a hundred distinct payments of it presented at
//! once, half of them verified before.
//!
//! **Violations:** another number than one that is granted; a transaction more than that one, which would
//! have been at our cost; books that differ from the chain.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::Result;
use crate::payments::{Fate, PRICE_ATOMIC, ask, caller, is_verified};
use crate::replicas::{Climate, Replica, World, transactions};
use crate::rounds::{Extent, Plan, Store};
use crate::site::{Ground, Site};

/// Distinct payments of one wallet.
const AT_ONCE: usize = 100;
const BLOCK_TIME: Duration = Duration::from_millis(200);
const SHORT_ROUNDS: u64 = 5;
const LONG_ROUNDS: u64 = 50;
/// Longest until everything is final after a round.
const RESOLVED_MAX: Duration = Duration::from_secs(60);
/// Pause before somebody asks again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Where the facilitators are.
enum Place {
    /// One, with its journal in SQLite.
    One(Box<Site>),
    /// Three on one PostgreSQL database.
    Three(Box<World>),
}

/// Runs the campaign and returns its line of figures.
pub(crate) async fn run(plan: &Plan) -> Result<String> {
    let count = match plan.extent {
        Extent::Short => SHORT_ROUNDS,
        Extent::Long => LONG_ROUNDS,
    };
    let (mut rounds, mut granted, mut verified, mut transactions) = (0, 0, 0, 0);
    let mut violations = Vec::new();
    for number in plan.rounds(count) {
        rounds += 1;
        let figures = match plan.done(number) {
            Some(figures) => figures,
            None => {
                let figures = round(plan).await?;
                let figure = |name: &str| figures[name].as_u64().unwrap_or(0);
                if (figure("granted"), figure("transactions")) == (1, 1) {
                    plan.note(number, &figures)?;
                } else {
                    eprintln!("VIOLATION round {number}: {figures}");
                    violations.push(number);
                }
                eprintln!("overdraft: round {number}: {figures}");
                figures
            }
        };
        let figure = |name: &str| figures[name].as_u64().unwrap_or(0);
        granted += figure("granted");
        verified += figure("verified");
        transactions += figure("transactions");
    }
    let line = format!(
        "overdraft: {}, {rounds} wallets with 1 price × {AT_ONCE} distinct payments at once: {granted} granted, \
         {verified} verified, {transactions} transactions, {} at our cost, books equal the chain",
        plan.store.name(),
        transactions - granted.min(transactions),
    );
    match violations.len() {
        0 => Ok(line),
        count => Err(format!("{count} violations; {line}; run again: {}", plan.again()).into()),
    }
}

/// A wallet, on a chain and a journal of its own.
async fn round(plan: &Plan) -> Result<Value> {
    let mut place = match plan.store {
        Store::Sqlite => {
            let lines = String::new();
            let ground = Ground { store: plan.store, block_time: BLOCK_TIME, payers: 1, lines };
            let mut site = Site::new(&plan.bin, &ground).await?;
            site.start(None)?;
            site.until_ready().await?;
            Place::One(Box::new(site))
        }
        Store::Postgres => {
            let climate = Climate { block_time: BLOCK_TIME, lease_s: 10, payers: 1 };
            Place::Three(Box::new(World::start(&plan.bin, climate).await?))
        }
    };
    let (chain, payers, urls) = match &mut place {
        Place::One(site) => (&site.chain, &mut site.payers, vec![site.process.url.clone()]),
        Place::Three(world) => {
            let urls = world.replicas.iter().map(|replica| replica.url.clone()).collect();
            (&world.chain, &mut world.payers, urls)
        }
    };
    let mut keys = Vec::new();
    let (client, start) = (caller()?, Arc::new(Barrier::new(AT_ONCE)));
    let mut asking = JoinSet::new();
    for number in 0..AT_ONCE {
        let signed = payers.sign().await?;
        keys.push(signed.key.clone());
        if number == 0 {
            payers.fund_last(chain, PRICE_ATOMIC)?;
        }
        let (client, start) = (client.clone(), Arc::clone(&start));
        let url = urls[number % urls.len()].clone();
        let looks = number % 2 == 0;
        asking.spawn(async move {
            start.wait().await;
            let verified = looks && is_verified(&client, &url, &signed.verify_body()).await?;
            let (settle, body) = (format!("{url}/settle"), signed.body());
            let begun = tokio::time::Instant::now();
            loop {
                match ask(&client, &settle, &body).await {
                    Ok(Some(fate)) => return Ok::<_, String>((verified, fate)),
                    Ok(None) => {}
                    // A machine that is busy elsewhere may take too long to be connected to.
                    Err(_) if begun.elapsed() < RESOLVED_MAX => {}
                    Err(problem) => return Err(problem),
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        });
    }
    let (mut granted, mut verified) = (0_u64, 0_u64);
    while let Some(told) = asking.join_next().await {
        let (was_verified, fate) = told??;
        verified += u64::from(was_verified);
        granted += u64::from(fate == Fate::Told);
    }
    let ended = match &mut place {
        Place::One(site) => site.process.has_ended(),
        Place::Three(world) => world.replicas.iter_mut().any(Replica::has_ended),
    };
    if ended {
        return Err("a facilitator ended by itself".into());
    }
    let (settled, transactions) = match &place {
        Place::One(site) => {
            let now = tokio::time::Instant::now();
            let settled = site.resolved(&keys, now, RESOLVED_MAX).await?;
            (settled, transactions(&site.chain).await?)
        }
        Place::Three(world) => {
            world.all_finished().await?;
            (world.books(&keys).await?, world.transactions().await?)
        }
    };
    Ok(json!({
        "granted": granted, "verified": verified, "settled": settled, "transactions": transactions,
    }))
}
