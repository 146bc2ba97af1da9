//! What goes wrong between a facilitator and one of its nodes, and how often.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::rounds::Random;

/// How often, in a thousand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Odds {
    /// An answer comes late.
    pub(crate) delay: u64,
    /// No answer comes, and nothing was forwarded.
    pub(crate) timeout: u64,
    /// It was forwarded, and the answer is lost.
    pub(crate) lost: u64,
    /// The node answers with an error.
    pub(crate) error: u64,
    /// The node answers from some blocks ago.
    pub(crate) stale: u64,
    /// A receipt is made up.
    pub(crate) forged: u64,
    /// The node says that it is on another chain.
    pub(crate) other_chain: u64,
    /// A transaction is handed on twice.
    pub(crate) twice: u64,
    /// A transaction is taken and not handed on.
    pub(crate) dropped: u64,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    Delay,
    Timeout,
    Lost,
    Error,
    Stale { blocks: u64 },
    Forged,
    OtherChain,
    Twice,
    Dropped,
}

impl Fault {
    const NAMES: [&'static str; 9] = [
        "delayed",
        "timeouts",
        "lost",
        "errors",
        "stale",
        "forged",
        "other_chain",
        "twice",
        "dropped",
    ];

    const fn place(self) -> usize {
        match self {
            Self::Delay => 0,
            Self::Timeout => 1,
            Self::Lost => 2,
            Self::Error => 3,
            Self::Stale { .. } => 4,
            Self::Forged => 5,
            Self::OtherChain => 6,
            Self::Twice => 7,
            Self::Dropped => 8,
        }
    }
}

/// Fewest and most blocks that a stale answer is behind.
const STALE_BLOCKS: (u64, u64) = (2, 20);

/// The faults of one node. Which request meets which is drawn for each method on its own: what is asked
/// otherwise does not change it.
pub(crate) struct Faults {
    seed: u64,
    odds: Odds,
    is_on: AtomicBool,
    draws: Mutex<HashMap<String, Random>>,
    counts: [AtomicU64; 9],
}

impl Faults {
    pub(crate) fn new(seed: u64, odds: Odds) -> Self {
        let (is_on, draws) = (AtomicBool::new(false), Mutex::default());
        Self { seed, odds, is_on, draws, counts: Default::default() }
    }

    /// Begins, or ends, all faults. There are none at first.
    pub(crate) fn turn(&self, on: bool) {
        self.is_on.store(on, Ordering::SeqCst);
    }

    /// What happens to the whole of an HTTP request that begins with this method.
    pub(crate) fn of_request(&self, method: &str) -> Option<Fault> {
        self.draw(&format!("request {method}"), |odds, random| {
            let (least, most) = STALE_BLOCKS;
            let stale = Fault::Stale { blocks: least + random.below(most - least + 1) };
            one_of(
                random,
                &[
                    (odds.delay, Fault::Delay),
                    (odds.timeout, Fault::Timeout),
                    (odds.lost, Fault::Lost),
                    (odds.stale, stale),
                ],
            )
        })
    }

    /// What happens to one call of a request.
    pub(crate) fn of_call(&self, method: &str) -> Option<Fault> {
        self.draw(method, |odds, random| {
            let own: &[(u64, Fault)] = match method {
                "eth_sendRawTransaction" => {
                    &[(odds.twice, Fault::Twice), (odds.dropped, Fault::Dropped)]
                }
                "eth_getTransactionReceipt" => &[(odds.forged, Fault::Forged)],
                "eth_chainId" => &[(odds.other_chain, Fault::OtherChain)],
                _ => &[],
            };
            one_of(random, &[&[(odds.error, Fault::Error)], own].concat())
        })
    }

    fn draw(
        &self,
        what: &str,
        draw: impl FnOnce(&Odds, &mut Random) -> Option<Fault>,
    ) -> Option<Fault> {
        if !self.is_on.load(Ordering::SeqCst) {
            return None;
        }
        let mut draws = self.draws.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let random = draws.entry(what.to_owned()).or_insert_with(|| Random::of(self.seed, what));
        let fault = draw(&self.odds, random)?;
        self.counts[fault.place()].fetch_add(1, Ordering::Relaxed);
        Some(fault)
    }

    pub(crate) fn add_to(&self, counts: &mut Counts) {
        for (sum, count) in counts.0.iter_mut().zip(&self.counts) {
            *sum += count.load(Ordering::Relaxed);
        }
    }
}

/// At most one of these, each as often as it says.
fn one_of(random: &mut Random, odds: &[(u64, Fault)]) -> Option<Fault> {
    let mut drawn = random.below(1_000);
    for (per_mille, fault) in odds {
        match drawn.checked_sub(*per_mille) {
            None => return Some(*fault),
            Some(rest) => drawn = rest,
        }
    }
    None
}

/// How many faults there were of each kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts([u64; 9]);

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in Fault::NAMES.iter().zip(self.0) {
            write!(f, " {name}={count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODDS: Odds = Odds {
        delay: 0,
        timeout: 100,
        lost: 50,
        error: 50,
        stale: 50,
        forged: 20,
        other_chain: 5,
        twice: 10,
        dropped: 10,
    };

    #[test]
    fn faults_come_as_often_as_said_the_same_each_time_and_end() {
        let drawn = |order: &[&str]| {
            let faults = Faults::new(9, ODDS);
            faults.turn(true);
            let mut of_calls = Vec::new();
            for method in order {
                let fault = faults.of_call(method);
                of_calls.extend((*method == "eth_call").then_some(fault));
            }
            of_calls
        };
        let alone = drawn(&["eth_call"; 100]);
        assert_eq!(alone, drawn(&["eth_call", "eth_getLogs"].repeat(100)));

        let faults = Faults::new(9, ODDS);
        faults.turn(true);
        for _ in 0..10_000 {
            _ = faults.of_request("eth_call");
            _ = faults.of_call("eth_getTransactionReceipt");
        }
        let mut counts = Counts::default();
        faults.add_to(&mut counts);
        for (fault, expected) in [(Fault::Timeout, 1_000), (Fault::Lost, 500), (Fault::Forged, 200)]
        {
            let count = counts.0[fault.place()];
            assert!(count.abs_diff(expected) < expected / 4, "{fault:?}: {count}");
        }
        faults.turn(false);
        assert!((0..1_000).all(|_| faults.of_request("eth_call").is_none()));
    }
}
