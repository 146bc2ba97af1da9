//! `cluster`: replicas on shared signers under a steady load; one is killed every ten seconds, and now
//! and then the one that leads is frozen.
//!
//! **Violations:** a nonce recorded for two payments; a payment whose success two callers were told; a
//! minute without a settlement; books that differ from the chain; anything unfinished at the end; an
//! answer that a good payment does not have.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pay402_core::PaymentKey;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Result;
use crate::payments::{ASK_AGAIN, Fate, buy, caller};
use crate::replicas::{Climate, REPLICAS, World};
use crate::rounds::{Extent, Plan, Random};

/// Longest time without a settlement.
const GAP_MAX: Duration = Duration::from_secs(60);
/// A new payment comes so often.
const PAYMENT_EVERY: Duration = Duration::from_millis(100);
/// One payment of so many is brought to another replica as well, at the same moment.
const COPY_OF: u64 = 10;
/// One replica is killed so often.
const KILL_EVERY: Duration = Duration::from_secs(10);
/// Successes that one kill may take with it: those that were marked as told, in one commit, and had
/// not left yet.
const UNTOLD_MAX: u64 = 16;
/// How long the place of a killed one is empty.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// One round.
#[derive(Clone, Copy, Debug)]
struct Shape {
    lasts: Duration,
    lease_s: u64,
    /// When, after the beginning, the one that leads is frozen, and for how long.
    freeze: (Duration, Duration),
}

const SHORT: Shape = Shape {
    lasts: Duration::from_secs(60),
    lease_s: 3,
    freeze: (Duration::from_secs(13), Duration::from_secs(15)),
};
/// Six of them are half an hour.
const LONG: Shape = Shape {
    lasts: Duration::from_secs(300),
    lease_s: 10,
    freeze: (Duration::from_secs(93), Duration::from_secs(60)),
};
const LONG_ROUNDS: u64 = 6;

/// What happened in a round.
#[derive(Debug, Default)]
struct Figures {
    payments: u64,
    settled: u64,
    /// Settled, and nobody was told: the success was lost with a process that was killed.
    untold: u64,
    kills: u64,
    freezes: u64,
    tenures: u64,
    gap_ms: u64,
    nonces_reused: u64,
    double_grants: u64,
}

impl Figures {
    fn json(&self) -> Value {
        json!({
            "payments": self.payments, "settled": self.settled, "untold": self.untold,
            "kills": self.kills, "freezes": self.freezes, "tenures": self.tenures,
            "gap_ms": self.gap_ms, "nonces_reused": self.nonces_reused,
            "double_grants": self.double_grants,
        })
    }

    /// Adds the figures of another round.
    fn add(&mut self, round: &Value) {
        let figure = |name: &str| round[name].as_u64().unwrap_or(0);
        self.payments += figure("payments");
        self.settled += figure("settled");
        self.untold += figure("untold");
        self.kills += figure("kills");
        self.freezes += figure("freezes");
        self.tenures += figure("tenures");
        self.gap_ms = self.gap_ms.max(figure("gap_ms"));
        self.nonces_reused += figure("nonces_reused");
        self.double_grants += figure("double_grants");
    }
}

/// Runs the campaign and returns its line of figures.
pub(crate) async fn run(plan: &Plan) -> Result<String> {
    let (shape, count) = match plan.extent {
        Extent::Short => (SHORT, 1),
        Extent::Long => (LONG, LONG_ROUNDS),
    };
    let mut all = Figures::default();
    let mut rounds = 0;
    for number in plan.rounds(count) {
        rounds += 1;
        let figures = match plan.done(number) {
            Some(figures) => figures,
            None => {
                let figures = round(plan, number, shape).await?.json();
                plan.note(number, &figures)?;
                eprintln!("round {number}: {figures}");
                figures
            }
        };
        all.add(&figures);
    }
    let seconds = Duration::from_millis(all.gap_ms).as_secs_f64();
    Ok(format!(
        "cluster: {rounds} rounds of {} s on PostgreSQL, seed {}: {} payments, {} settled, {} of them told to \
         nobody, {} kills, {} freezes, {} tenures, longest gap {seconds:.1} s, {} nonces reused, {} double \
         grants, books equal the chain",
        shape.lasts.as_secs(),
        plan.seed,
        all.payments,
        all.settled,
        all.untold,
        all.kills,
        all.freezes,
        all.tenures,
        all.nonces_reused,
        all.double_grants,
    ))
}

async fn round(plan: &Plan, number: u64, shape: Shape) -> Result<Figures> {
    let climate =
        Climate { block_time: Duration::from_millis(500), lease_s: shape.lease_s, payers: 64 };
    let mut world = World::start(&plan.bin, climate).await?;
    let seed = plan.seed_of(number);
    let figures = match live(&mut world, shape, Random(seed)).await {
        Ok(figures) => figures,
        Err(error) => {
            let kept = world.keep();
            return Err(format!("round {number}, seed {}: {error}; {kept:?}", plan.seed).into());
        }
    };
    Ok(figures)
}

/// What was told, and when.
#[derive(Default)]
struct Told {
    successes: HashMap<PaymentKey, u64>,
    strange: Vec<String>,
    /// The longest time without a success, and the last one.
    gap: Duration,
    last: Option<Instant>,
}

impl Told {
    fn take(&mut self, (key, fate, at): (PaymentKey, Fate, Instant)) {
        match fate {
            Fate::Told => {
                *self.successes.entry(key).or_default() += 1;
                if let Some(last) = self.last {
                    self.gap = self.gap.max(at.saturating_duration_since(last));
                }
                self.last = self.last.max(Some(at));
            }
            Fate::Duplicate => {}
            Fate::Other(what) => self.strange.push(format!("{key}: {what}")),
        }
    }
}

async fn live(world: &mut World, shape: Shape, mut random: Random) -> Result<Figures> {
    let client = caller()?;
    let urls: Arc<[String]> = world.replicas.iter().map(|replica| replica.url.clone()).collect();
    let mut figures = Figures::default();
    let mut told = Told { last: Some(Instant::now()), ..Told::default() };
    let mut keys = Vec::new();
    let mut buyers = JoinSet::new();
    let mut troubles = Troubles::new(shape);
    let begun = Instant::now();
    let mut next = tokio::time::interval(PAYMENT_EVERY);
    while begun.elapsed() < shape.lasts {
        next.tick().await;
        troubles.make(world, begun.elapsed(), &mut figures).await?;
        let signed = world.payers.sign().await?;
        keys.push(signed.key.clone());
        figures.payments += 1;
        let first = usize::try_from(random.below(REPLICAS as u64))?;
        let copies = if random.below(COPY_OF) == 0 { 2 } else { 1 };
        for copy in 0..copies {
            let (client, urls) = (client.clone(), Arc::clone(&urls));
            let (key, body) = (signed.key.clone(), signed.body());
            buyers.spawn(async move {
                let fate = buy(&client, &urls, first + copy, &body, ASK_AGAIN).await;
                (key, fate, Instant::now())
            });
        }
        while let Some(done) = buyers.try_join_next() {
            told.take(done?);
        }
    }
    // A gap that has not ended counts too.
    told.gap = told.gap.max(told.last.map_or(Duration::ZERO, |last| last.elapsed()));
    world.all_ready().await?;
    while let Some(done) = buyers.join_next().await {
        told.take(done?);
    }
    world.all_finished().await?;
    figures.settled = u64::try_from(world.books(&keys).await?)?;
    figures.nonces_reused = world.nonces_reused().await?;
    figures.tenures = world.tenures()?;
    figures.gap_ms = u64::try_from(told.gap.as_millis())?;
    figures.double_grants =
        u64::try_from(told.successes.values().filter(|count| **count > 1).count())?;
    figures.untold = figures.settled.saturating_sub(u64::try_from(told.successes.len())?);
    judge(&figures, &told)?;
    Ok(figures)
}

fn judge(figures: &Figures, told: &Told) -> Result<()> {
    let mut violations = told.strange.clone();
    if figures.settled != figures.payments {
        violations.push(format!("{} payments, {} settled", figures.payments, figures.settled));
    }
    if figures.untold > (figures.kills + figures.freezes) * UNTOLD_MAX {
        violations.push(format!("{} successes were told to nobody", figures.untold));
    }
    if told.gap > GAP_MAX {
        violations.push(format!("nothing was settled for {:?}", told.gap));
    }
    if figures.nonces_reused > 0 {
        violations.push(format!("{} nonces were used again", figures.nonces_reused));
    }
    if figures.double_grants > 0 {
        violations.push(format!("{} payments were told twice", figures.double_grants));
    }
    if violations.is_empty() { Ok(()) } else { Err(violations.join("; ").into()) }
}

/// What is done to the processes, and when next.
struct Troubles {
    shape: Shape,
    kill_at: Duration,
    /// Whose turn it is to be killed.
    turn: usize,
    restart: Option<(usize, Duration)>,
    frozen: Option<(usize, Duration)>,
    has_frozen: bool,
}

impl Troubles {
    fn new(shape: Shape) -> Self {
        let kill_at = KILL_EVERY;
        Self { shape, kill_at, turn: 0, restart: None, frozen: None, has_frozen: false }
    }

    async fn make(
        &mut self,
        world: &mut World,
        now: Duration,
        figures: &mut Figures,
    ) -> Result<()> {
        if let Some((place, _)) = self.restart.take_if(|(_, at)| now >= *at) {
            world.replicas[place].start()?;
        }
        if let Some((place, _)) = self.frozen.take_if(|(_, until)| now >= *until) {
            world.replicas[place].wake();
        }
        let (at, lasts) = self.shape.freeze;
        if now >= at
            && !self.has_frozen
            && let Some(leader) = world.leader().await
        {
            world.replicas[leader].freeze();
            self.frozen = Some((leader, now + lasts));
            self.has_frozen = true;
            figures.freezes += 1;
        }
        if now >= self.kill_at && self.restart.is_none() {
            self.kill_at += KILL_EVERY;
            let is_frozen = |place| self.frozen.is_some_and(|(frozen, _)| frozen == place);
            if is_frozen(self.turn % REPLICAS) {
                self.turn += 1;
            }
            let place = self.turn % REPLICAS;
            self.turn += 1;
            world.replicas[place].kill()?;
            self.restart = Some((place, now + RESTART_AFTER));
            figures.kills += 1;
        }
        Ok(())
    }
}
