//! What a seed decides: the weather, how long things take, when a process ends, who asks for what. Time
//! stands still while anybody has something to do, so that nothing else decides.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pay402_core::journal::Journal;
use pay402_core::network::{Network, Packing};
use pay402_core::time::{Clock, UnixTime};
use pay402_facilitator::options::IN_FLIGHT_PER_SIGNER_MAX;
use pay402_facilitator::{Engine, Options};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::chain::{EPOCH, LEVEL_MAX, Port, State};
use super::journal::{Handle, Store};
use crate::rounds::Random;

/// How likely faults are, in so many of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    /// A node does not answer, and did nothing.
    pub(super) node_fails: u64,
    /// A node takes a transaction and its answer is lost.
    pub(super) answer_lost: u64,
    /// A node takes a transaction and forgets it at once.
    pub(super) node_forgets: u64,
    /// A node is some blocks behind.
    pub(super) stale: u64,
    /// A node makes a receipt up.
    pub(super) node_lies: u64,
    /// The journal does nothing.
    pub(super) journal_fails: u64,
    /// The journal commits and does not say so.
    pub(super) commit_untold: u64,
    /// A call takes long.
    pub(super) slow: u64,
}

/// What everybody in a world shares.
///
/// Whoever needs chance asks for a die by name, so that what is thrown does not depend on the order of those
/// who are woken at the same moment, which tokio leaves to chance.
pub(super) struct Sea {
    seed: u64,
    /// How often a die of each name was asked for.
    dice: Mutex<BTreeMap<String, u64>>,
    weather: Mutex<Weather>,
    trace: Mutex<Trace>,
    begun: Instant,
}

/// What happened, in short; in full where somebody wants to read it.
#[derive(Debug)]
struct Trace {
    digest: u64,
    steps: u64,
    is_told: bool,
}

/// Chance of one's own.
pub(super) struct Die(Random);

impl Die {
    pub(super) const fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// A place among `count`.
    pub(super) fn index(&mut self, count: usize) -> usize {
        let bound = u64::try_from(count).unwrap_or(u64::MAX);
        usize::try_from(self.below(bound)).expect("below a number of places")
    }

    pub(super) fn one_of<T: Copy, const N: usize>(&mut self, these: [T; N]) -> T {
        these[self.index(N)]
    }
}

/// A number for a text (FNV).
fn number_of(begin: u64, bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(begin ^ 0xcbf2_9ce4_8422_2325, |number, byte| {
        (number ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Sea {
    pub(super) fn new(seed: u64, is_told: bool) -> Self {
        let trace = Mutex::new(Trace { digest: 0, steps: 0, is_told });
        let begun = Instant::now();
        Self { seed, dice: Mutex::default(), weather: Mutex::default(), trace, begun }
    }

    /// A die for what is called so; another one each time.
    pub(super) fn die(&self, name: &str) -> Die {
        let mut dice = lock(&self.dice);
        let times = dice.entry(name.to_owned()).or_default();
        *times += 1;
        let bytes = name.bytes().chain(times.to_be_bytes());
        Die(Random(number_of(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), bytes)))
    }

    /// Whether what is so likely now happens.
    pub(super) fn happens(&self, die: &mut Die, of: impl Fn(&Weather) -> u64) -> bool {
        let likely = of(&lock(&self.weather));
        die.below(1_000) < likely
    }

    pub(super) fn set(&self, weather: Weather) {
        *lock(&self.weather) = weather;
    }

    /// A call takes its time: often none, mostly up to `usual`, seldom long.
    pub(super) async fn pass_time(&self, die: &mut Die, usual: Duration) {
        let usual_ms = u64::try_from(usual.as_millis()).unwrap_or(u64::MAX).max(1);
        let takes_ms = match die.below(4) {
            _ if self.happens(die, |weather| weather.slow) => 500 + die.below(12_000),
            0 => 0,
            _ => die.below(usual_ms),
        };
        match takes_ms {
            0 => tokio::task::yield_now().await,
            takes => tokio::time::sleep(Duration::from_millis(takes)).await,
        }
    }

    /// Adds to the trace. What happens at the same moment has no order.
    pub(super) fn note(&self, what: &str) {
        let at = self.begun.elapsed().as_millis();
        let mut trace = lock(&self.trace);
        trace.steps += 1;
        if trace.is_told {
            eprintln!("{at:>7} {what}");
        }
        let number = number_of(0, what.bytes().chain(at.to_be_bytes()));
        trace.digest = trace.digest.wrapping_add(number);
    }

    /// Tells what is too much for the trace, where somebody reads along.
    pub(super) fn note_with(&self, what: impl FnOnce() -> String) {
        if lock(&self.trace).is_told {
            eprintln!("{:>7}   {}", self.begun.elapsed().as_millis(), what());
        }
    }

    /// The trace in two numbers: a digest, and how many steps it has.
    pub(super) fn trace(&self) -> (u64, u64) {
        let trace = lock(&self.trace);
        (trace.digest, trace.steps)
    }

    /// Seconds since the beginning.
    pub(super) fn seconds(&self) -> u64 {
        self.begun.elapsed().as_secs()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Clock for Sea {
    fn now(&self) -> UnixTime {
        UnixTime(EPOCH + self.seconds())
    }
}

/// One process from its start to its end.
pub(super) struct Life {
    name: String,
    steps: AtomicU64,
    /// The step at which it ends.
    last: u64,
    dead: AtomicBool,
    /// Tells those who wait for its end, in the order in which they came.
    ended: Notify,
    stalled_until: Mutex<Option<Instant>>,
    sea: Arc<Sea>,
}

impl Life {
    pub(super) fn new(name: String, last: u64, sea: Arc<Sea>) -> Self {
        let steps = AtomicU64::new(0);
        let (dead, ended) = (AtomicBool::new(false), Notify::new());
        Self { name, steps, last, dead, ended, stalled_until: Mutex::default(), sea }
    }

    /// Whoever comes here when the process has ended goes no further.
    pub(super) async fn step(&self, what: &str) {
        let until = *lock(&self.stalled_until);
        if let Some(until) = until
            && Instant::now() < until
        {
            tokio::time::sleep_until(until).await;
        }
        if self.steps.fetch_add(1, Ordering::Relaxed) >= self.last && !self.is_over() {
            self.sea.note(&format!("{} ends at {what}", self.name));
            self.end();
        }
        if self.is_over() {
            std::future::pending::<()>().await;
        }
        self.sea.note(&format!("{} {what}", self.name));
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_over(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.ended.notify_waiters();
    }

    pub(super) async fn over(&self) {
        let mut ended = std::pin::pin!(self.ended.notified());
        ended.as_mut().enable();
        if !self.is_over() {
            ended.await;
        }
    }

    /// Nothing of it goes on for so long.
    pub(super) fn stall(&self, lasts: Duration) {
        *lock(&self.stalled_until) = Some(Instant::now() + lasts);
    }
}

/// A process that can be asked.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) engine: Engine,
    pub(super) life: Arc<Life>,
}

/// How a seed's world is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) replicas: u64,
    pub(super) signers: u64,
    pub(super) payments: u64,
    /// Until when things go wrong, in seconds.
    pub(super) trouble_s: u64,
    pub(super) block_ms: u64,
    pub(super) confirmations: u64,
    /// How many blocks more than that are taken out at a time, at most, less one.
    pub(super) deeper: u64,
    pub(super) weather: Weather,
    /// Whether processes end, are slow to answer, and are taken over.
    pub(super) crashes: bool,
    /// Whether others act on our payments.
    pub(super) meddled: bool,
    pub(super) pack_max: usize,
    pub(super) lease_s: u64,
    /// How long what is over is kept, in seconds; `None` for ever.
    pub(super) retain_s: Option<u64>,
    /// From when to when, in seconds, blocks ask for more than any payment offers. Payments end soon there.
    pub(super) spike: Option<(u64, u64)>,
    /// How many transactions of a signer may wait to be mined.
    pub(super) in_flight_max: usize,
}

/// How deep a block is buried where anything is forgotten, in blocks: deeper than any that is undone, and than any
/// node is behind.
pub(super) const BURIAL: u64 = 10;

impl Shape {
    /// What the dice say.
    pub(super) fn of(dice: &mut Die) -> Self {
        // Some seeds have one kind of fault alone, some all, some none.
        let kinds = dice.below(256);
        let strength = dice.one_of([0, 20, 60, 200]);
        let on = |bit: u64| if kinds >> bit & 1 == 1 { strength } else { 0 };
        let weather = Weather {
            node_fails: on(0),
            answer_lost: on(1),
            node_forgets: on(1) / 2,
            stale: on(2),
            node_lies: 0,
            journal_fails: on(3),
            commit_untold: on(4),
            slow: on(5) / 8,
        };
        Self {
            replicas: 1 + u64::from(dice.below(3) == 0),
            signers: 1 + dice.below(3),
            payments: 1 + dice.below(12),
            trouble_s: 10 + dice.below(50),
            block_ms: dice.one_of([250, 1_000, 2_000]),
            confirmations: 1 + dice.below(4),
            deeper: dice.one_of([0, 0, 0, 4]),
            weather,
            crashes: kinds >> 6 & 1 == 1,
            meddled: kinds >> 7 & 1 == 1,
            pack_max: dice.one_of([0, 0, 3, 5]),
            lease_s: 3 + dice.below(6),
            retain_s: None,
            spike: None,
            in_flight_max: IN_FLIGHT_PER_SIGNER_MAX,
        }
    }

    /// The same, with a spike of fees that outlasts payments if the dice say so.
    fn with_spike(self, dice: &mut Die) -> Self {
        if dice.below(4) > 0 {
            return self;
        }
        let (begin, trouble_s) = (3 + dice.below(20), 110 + dice.below(90));
        Self { spike: Some((begin, trouble_s - dice.below(25))), trouble_s, ..self }
    }
}

/// Chain, journal, and the processes.
pub(super) struct World {
    pub(super) sea: Arc<Sea>,
    pub(super) shape: Shape,
    pub(super) chain: Arc<Mutex<State>>,
    pub(super) store: Arc<Store>,
    /// Whether things still go wrong.
    pub(super) trouble: watch::Sender<bool>,
    running: Mutex<BTreeMap<u64, Running>>,
    lives: AtomicU64,
    /// Processes that ended otherwise than in peace.
    pub(super) crashes: AtomicU64,
}

impl World {
    pub(super) fn new(sea: Arc<Sea>) -> Arc<Self> {
        let mut die = sea.die("world");
        let mut shape = Shape::of(&mut die).with_spike(&mut sea.die("spike"));
        // Thrown apart, so that other worlds are as they were.
        shape.weather.node_lies = sea.die("lies").one_of([0, 0, 0, 10, 50]);
        shape.retain_s = sea.die("retention").one_of([None, None, Some(1), Some(15)]);
        shape.in_flight_max = sea.die("berths").one_of([shape.in_flight_max, 1, 2, 3]);
        let mut state = State::new(shape.confirmations);
        if shape.pack_max > 0 {
            let wait = Duration::from_millis(die.below(200));
            state.packing = Some(Packing { wait, members_max: shape.pack_max });
        }
        sea.set(shape.weather);
        Arc::new(Self {
            sea,
            shape,
            chain: Arc::new(Mutex::new(state)),
            store: Arc::default(),
            trouble: watch::Sender::new(true),
            running: Mutex::default(),
            lives: AtomicU64::new(0),
            crashes: AtomicU64::new(0),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.chain)
    }

    pub(super) fn in_trouble(&self) -> bool {
        *self.trouble.borrow()
    }

    /// A process that runs, whichever.
    pub(super) fn any_running(&self, die: &mut Die) -> Option<Running> {
        let running = lock(&self.running);
        let count = running.len();
        (count > 0).then(|| running.values().nth(die.index(count)).cloned()).flatten()
    }

    /// Mines, and lets happen on the chain what happens there.
    pub(super) async fn mine(self: Arc<Self>) {
        let mut die = self.sea.die("chain");
        loop {
            tokio::time::sleep(Duration::from_millis(self.shape.block_ms)).await;
            let time = EPOCH + self.sea.seconds();
            let trouble = self.in_trouble();
            let mut state = self.state();
            if trouble {
                self.upset(&mut state, &mut die);
            }
            // In peace everything that can be is mined.
            state.mine(time, || !trouble || die.below(8) > 0);
        }
    }

    fn upset(&self, state: &mut State, die: &mut Die) {
        let sea = &self.sea;
        let depth = self.shape.confirmations - 1 + self.shape.deeper;
        if depth > 0 && die.below(20) == 0 {
            let depth = 1 + die.below(depth);
            sea.note(&format!("the last {depth} blocks are gone"));
            state.reorganize(depth, || die.below(4) > 0);
            // The other branch is no shorter.
            for _ in 0..depth {
                let time = EPOCH + sea.seconds();
                state.mine(time, || die.below(3) > 0);
            }
        }
        match self.shape.spike {
            // Now and then what cancels a payment is mined, and no payment.
            Some((begin, end))
                if (begin..end).contains(&sea.seconds())
                    && (state.level <= LEVEL_MAX || die.below(15) == 0) =>
            {
                state.level = LEVEL_MAX + die.one_of([1, 2, 4]);
            }
            Some((begin, end)) if (begin..end).contains(&sea.seconds()) => {}
            Some((_, end)) if sea.seconds() >= end && state.level > LEVEL_MAX => state.level = 0,
            _ if die.below(15) == 0 => state.level = die.below(4),
            _ => {}
        }
        if self.shape.weather.node_forgets > 0 && die.below(10) == 0 {
            state.drop_one(die.below(64));
        }
        if self.shape.meddled && die.below(8) == 0 {
            state.meddle(die.below(64), die.below(3));
        }
    }

    /// Keeps one place for a process filled: starts one, and another when it ends.
    pub(super) async fn keep(self: Arc<Self>, place: u64) {
        loop {
            let number = self.lives.fetch_add(1, Ordering::Relaxed);
            let mut die = self.sea.die(&format!("life {place}"));
            let last = match self.shape.crashes && self.in_trouble() {
                // Early ends are as likely as late ones.
                true => {
                    let within = die.one_of([30, 300, 3_000]);
                    die.below(within)
                }
                false => u64::MAX,
            };
            let name = format!("{place}/{number}");
            let life = Arc::new(Life::new(name.clone(), last, Arc::clone(&self.sea)));
            self.live(place, &name, &life, &mut die).await;
            if life.is_over() {
                self.crashes.fetch_add(1, Ordering::Relaxed);
            }
            life.end();
            let pause_ms = 50 + die.below(8_000);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    async fn live(&self, place: u64, name: &str, life: &Arc<Life>, die: &mut Die) {
        let (chain, store, sea) =
            (Arc::clone(&self.chain), Arc::clone(&self.store), Arc::clone(&self.sea));
        let signers = (0..self.shape.signers).map(|index| format!("0xsigner{index}")).collect();
        let port =
            Port::new(signers, chain, Arc::clone(&store), Arc::clone(life), Arc::clone(&sea));
        let journal: Arc<dyn Journal> = Arc::new(Handle::new(store, Arc::clone(life), sea));
        let options = Options {
            holder: name.to_owned(),
            lease: Duration::from_secs(self.shape.lease_s),
            follows: self.shape.replicas > 1,
            in_flight_per_signer_max: [(port.id().clone(), self.shape.in_flight_max)].into(),
            ..self.keeping()
        };
        let networks: Vec<Arc<dyn Network>> = vec![Arc::new(port)];
        let starting = Engine::start(networks, journal, Arc::clone(&self.sea) as _, options);
        let started = tokio::select! {
            biased;
            () = life.over() => return,
            started = starting => started,
        };
        let engine = match started {
            Ok(engine) => engine,
            Err(error) => return self.sea.note(&format!("{name} does not start: {error}")),
        };
        let running = Running { engine: engine.clone(), life: Arc::clone(life) };
        lock(&self.running).insert(place, running);
        let mut trouble = self.trouble.subscribe();
        // Some stop as an operator stops them.
        let stops_at = Duration::from_secs(2 + die.below(40));
        let stops = self.shape.crashes && self.in_trouble() && die.below(3) == 0;
        tokio::select! {
            biased;
            () = life.over() => {}
            _ = engine.taken_over() => self.sea.note(&format!("{name} is taken over")),
            () = async { _ = trouble.wait_for(|trouble| !trouble).await; }, if stops => {}
            () = tokio::time::sleep(stops_at), if stops => {
                let grace = Duration::from_millis(die.below(3_000));
                tokio::select! {
                    biased;
                    () = life.over() => {}
                    () = engine.stop(grace) => self.sea.note(&format!("{name} has stopped")),
                }
            }
        }
        lock(&self.running).remove(&place);
    }

    /// How long things are kept.
    fn keeping(&self) -> Options {
        let Some(retain_s) = self.shape.retain_s else { return Options::default() };
        Options {
            retain: Some(Duration::from_secs(retain_s)),
            forget_every: Duration::from_secs(3),
            burial_blocks: BURIAL,
            ..Options::default()
        }
    }

    /// Stalls processes now and then.
    pub(super) async fn stall(self: Arc<Self>) {
        let mut die = self.sea.die("stalls");
        while self.in_trouble() {
            tokio::time::sleep(Duration::from_millis(500 + die.below(15_000))).await;
            if self.shape.crashes
                && self.in_trouble()
                && let Some(running) = self.any_running(&mut die)
            {
                let lasts = Duration::from_millis(die.below(20_000));
                running.life.stall(lasts);
            }
        }
    }
}
