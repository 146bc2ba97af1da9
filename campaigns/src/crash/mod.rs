//! `crash`: the facilitator's process is killed at every failpoint and at random moments, started again on
//! the same journal and chain, and asked again for the same payments.
//!
//! **Violations:** a payment that was presented and is not settled, or is on the chain and not in the books,
//! to the wei (`pay402 reconcile`'s own check too); an authorization that was used twice, or paid for by two
//! transactions; a success told to two callers; anything unresolved [`RESOLVED_MAX`] after a restart; a
//! failpoint that is not reached; an event that a webhook was never sent.

mod hook;
pub(crate) mod scene;
pub(crate) mod shop;

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use pay402_facilitator::failpoint::Failpoint;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::hook::Receiver;
use self::scene::Scene;
use self::shop::Shop;
use crate::Result;
use crate::rounds::{Extent, Plan, Random};
use crate::site::{Ground, Site};

/// Longest until everything is resolved after a restart.
pub(crate) const RESOLVED_MAX: Duration = Duration::from_secs(60);
/// Longest until a process comes to its failpoint.
const REACHED_MAX: Duration = Duration::from_secs(40);
/// The same where a signer stands still for half a minute first, or fees are looked at again: that may take two
/// attempts.
const REACHED_SLOW_MAX: Duration = Duration::from_secs(120);
pub(crate) const BLOCK_TIME: Duration = Duration::from_millis(100);
pub(crate) const PAYERS: usize = 16;
/// Successes that one kill may take with it: those that were marked as told, in one commit, and had not
/// left yet.
const UNTOLD_MAX: u64 = 16;
/// Kills on one site: the chain shows balances of so many blocks.
const STRIKES_PER_SITE: u64 = 5;
/// How often a failpoint may be passed before the process aborts there.
const PASSES: u64 = 3;
/// Rounds that go on beside one another: most of them wait.
const AT_ONCE: usize = 4;
/// Random kills come within so many milliseconds after the process can be sent payments.
const ALIVE_MS: u64 = 600;
/// Payments that are presented between two random kills.
pub(crate) const LOAD: u64 = 6;

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Kills at each failpoint.
    each: u64,
    /// Rounds of kills at random moments, and how many in each.
    random: (u64, u64),
}

const SHORT: Shape = Shape { each: 2, random: (2, 15) };
const LONG: Shape = Shape { each: 25, random: (40, 25) };

/// What happened in a round.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Kills at failpoints, and others.
    struck: u64,
    pub(crate) killed: u64,
    pub(crate) payments: u64,
    pub(crate) settled: u64,
    /// Failed because the payer had spent the money meanwhile, or time went by, which two scenes are about.
    failed: u64,
    /// Settled, and nobody was told: the success was lost with a process that was killed.
    pub(crate) untold: u64,
    events: u64,
    slowest_ms: u64,
    /// Time between two kills at random moments.
    cycle_ms: u64,
}

impl Figures {
    fn json(&self) -> Value {
        json!({
            "struck": self.struck, "killed": self.killed, "payments": self.payments,
            "settled": self.settled, "failed": self.failed, "untold": self.untold,
            "events": self.events, "slowest_ms": self.slowest_ms, "cycle_ms": self.cycle_ms,
        })
    }

    fn add(&mut self, round: &Value) {
        let figure = |name: &str| round[name].as_u64().unwrap_or(0);
        self.struck += figure("struck");
        self.killed += figure("killed");
        self.payments += figure("payments");
        self.settled += figure("settled");
        self.failed += figure("failed");
        self.untold += figure("untold");
        self.events += figure("events");
        self.slowest_ms = self.slowest_ms.max(figure("slowest_ms"));
        self.cycle_ms = self.cycle_ms.max(figure("cycle_ms"));
    }
}

/// What a round is about: a failpoint, or random moments.
type Target = Option<(Failpoint, Scene)>;

/// Runs the campaign and returns its line of figures.
pub(crate) async fn run(plan: &Plan) -> Result<String> {
    let shape = match plan.extent {
        Extent::Short => SHORT,
        Extent::Long => LONG,
    };
    let struck = Failpoint::ALL.iter().filter_map(|point| Some((*point, scene::of(*point)?)));
    // Minutes for a kill each would not fit into the short form.
    let struck = struck.filter(|(_, scene)| plan.extent == Extent::Long || !scene.is_slow());
    let targets: Vec<Target> = struck.map(Some).chain((0..shape.random.0).map(|_| None)).collect();
    let points = targets.iter().flatten().count();
    let mut all = Figures::default();
    let (mut rounds, mut violations) = (0, Vec::new());
    let numbers: Vec<u64> = plan.rounds(u64::try_from(targets.len())?).collect();
    let run = |number: u64| {
        let target = targets[usize::try_from(number).unwrap_or(0)];
        async move {
            match plan.done(number) {
                Some(figures) => (number, target, Ok(figures)),
                None => {
                    (number, target, round(plan, number, target, shape).await.map(|it| it.json()))
                }
            }
        }
    };
    let mut ending = stream::iter(numbers).map(run).buffer_unordered(AT_ONCE);
    while let Some((number, target, ended)) = ending.next().await {
        let name = target.map_or("random moments", |(point, _)| point.name());
        match ended {
            Ok(figures) => {
                rounds += 1;
                plan.note(number, &figures)?;
                eprintln!("crash: round {number}, {name}: {figures}");
                all.add(&figures);
            }
            Err(error) => {
                let seed = plan.seed;
                let line = format!("round {number}, {name}, seed {seed}: {error}");
                eprintln!("VIOLATION {line}");
                violations.push(line);
            }
        }
    }
    let line = format!(
        "crash: {}, seed {}: {rounds} rounds, {points} of {} failpoints × {} kills and {} at random moments: \
         {} struck, {} killed, {} payments, {} settled, {} failed, 0 lost, 0 duplicated, 0 granted twice, {} told \
         to nobody, {} events, slowest resolved {:.1} s after its restart, at most {} ms from one random kill to the \
         next, books equal the chain",
        plan.store.name(),
        plan.seed,
        Failpoint::ALL.len(),
        shape.each,
        shape.random.0 * shape.random.1,
        all.struck,
        all.killed,
        all.payments,
        all.settled,
        all.failed,
        all.untold,
        all.events,
        Duration::from_millis(all.slowest_ms).as_secs_f64(),
        all.cycle_ms,
    );
    match violations.len() {
        0 => Ok(line),
        count => {
            let again = plan.again();
            Err(format!("{count} rounds with violations: {violations:?}; run again: {again}")
                .into())
        }
    }
}

async fn round(plan: &Plan, number: u64, target: Target, shape: Shape) -> Result<Figures> {
    let mut random = Random(plan.seed_of(number));
    let Some((point, scene)) = target else {
        return at_random(plan, shape.random.1, &mut random).await;
    };
    let most = if scene.is_once() { 1 } else { STRIKES_PER_SITE };
    let mut figures = Figures::default();
    let mut left = shape.each;
    while left > 0 {
        let count = left.min(most);
        figures.add(&strikes(plan, point, scene, count, &mut random).await?.json());
        left -= count;
    }
    Ok(figures)
}

/// Kills at one failpoint, on a site of their own.
async fn strikes(
    plan: &Plan,
    point: Failpoint,
    scene: Scene,
    count: u64,
    random: &mut Random,
) -> Result<Figures> {
    let receiver = Receiver::start().await?;
    let hook = if scene.has_hook() { receiver.lines() } else { String::new() };
    let lines = format!("{hook}{}", scene.lines());
    let ground = Ground { store: plan.store, block_time: BLOCK_TIME, payers: PAYERS, lines };
    let mut site = Site::new(&plan.bin, &ground).await?;
    let mut shop = Shop::open(&site, scene)?;
    let mut figures = Figures::default();
    for strike in 0..count {
        let done = strike_once(&mut site, &mut shop, (point, scene), random, &mut figures).await;
        if let Err(error) = done {
            return Err(format!("strike {strike}: {error}; {:?}", site.keep()).into());
        }
    }
    if scene.has_hook() {
        // What was not sent when the last process was killed is sent by the next.
        site.start(None)?;
        figures.events = receiver.all_of(figures.settled).await?;
    }
    Ok(figures)
}

async fn strike_once(
    site: &mut Site,
    shop: &mut Shop,
    (point, scene): (Failpoint, Scene),
    random: &mut Random,
    figures: &mut Figures,
) -> Result<()> {
    if scene == Scene::Leftovers {
        // Something has to be unfinished when the next process begins.
        site.start(None)?;
        site.until_ready().await?;
        site.chain.hold_mempool();
        shop.offer(site, LOAD, random).await?;
        tokio::time::sleep(BLOCK_TIME * 3).await;
        site.process.kill()?;
        site.chain.release_mempool();
        figures.killed += 1;
    }
    let passes = if scene.is_passed_often() { random.below(PASSES) } else { 0 };
    site.start(Some(&format!("{point}@{passes}")))?;
    let longest = if scene.is_slow() { REACHED_SLOW_MAX } else { REACHED_MAX };
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = site.process.ended()? {
            break status;
        }
        if begun.elapsed() > longest {
            return Err(format!("{point} is not reached in {longest:?}").into());
        }
        scene.stir(site, shop, random).await?;
    };
    scene.calm(site);
    if status.signal() != Some(ABORTED) {
        return Err(format!("the process ended by itself: {status}").into());
    }
    figures.struck += 1;
    resolve(site, shop, scene, figures).await
}

/// `SIGABRT`.
const ABORTED: i32 = 6;

/// Starts the process again, has everything resolved, judges, and kills it once more.
pub(crate) async fn resolve(
    site: &mut Site,
    shop: &mut Shop,
    scene: Scene,
    figures: &mut Figures,
) -> Result<()> {
    site.start(None)?;
    let restarted = Instant::now();
    shop.all_answered(restarted + RESOLVED_MAX).await?;
    let settled = site.resolved(shop.keys(), restarted, RESOLVED_MAX).await?;
    figures.slowest_ms = figures.slowest_ms.max(u64::try_from(restarted.elapsed().as_millis())?);
    figures.payments = u64::try_from(shop.keys().len())?;
    figures.settled = u64::try_from(settled)?;
    shop.present_again().await?;
    site.process.kill()?;
    figures.killed += 1;
    shop.judge(figures, scene)
}

/// Kills at random moments under load, on a site of their own.
async fn at_random(plan: &Plan, kills: u64, random: &mut Random) -> Result<Figures> {
    let ground =
        Ground { store: plan.store, block_time: BLOCK_TIME, payers: PAYERS, lines: String::new() };
    let mut site = Site::new(&plan.bin, &ground).await?;
    let mut shop = Shop::open(&site, Scene::Burst)?;
    let mut figures = Figures::default();
    let begun = Instant::now();
    let died = async {
        for _ in 0..kills {
            site.start(None)?;
            shop.offer(&mut site, LOAD, random).await?;
            // One of several dies before it is ready.
            if !random.happens(200) {
                site.until_ready().await?;
            }
            tokio::time::sleep(Duration::from_millis(random.below(ALIVE_MS))).await;
            site.process.kill()?;
            figures.killed += 1;
        }
        figures.cycle_ms = u64::try_from(begun.elapsed().as_millis())? / kills.max(1);
        resolve(&mut site, &mut shop, Scene::Burst, &mut figures).await
    };
    let died = died.await;
    died.map_err(|error| format!("{error}; {:?}", site.keep()))?;
    Ok(figures)
}
