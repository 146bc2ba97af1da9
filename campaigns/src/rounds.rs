//! What a campaign runs: which rounds, from which seed, and what an earlier run has done.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{Result, USAGE};

/// How much is run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Extent {
    /// About a minute.
    Short,
    /// What a release is judged by.
    Long,
}

/// Where a campaign that runs on both has its journal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Store {
    Sqlite,
    Postgres,
}

impl Store {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// The command line.
#[derive(Debug)]
pub(crate) struct Plan {
    verb: String,
    /// The built `pay402`.
    pub(crate) bin: PathBuf,
    pub(crate) extent: Extent,
    pub(crate) seed: u64,
    pub(crate) store: Store,
    /// The one seed of `sim` that is run, and told step by step.
    pub(crate) only: Option<u64>,
    resume: bool,
    /// Which of how many shares of the rounds, from 1 on.
    shard: (u64, u64),
}

impl Plan {
    /// Reads the arguments after the verb.
    pub(crate) fn read(verb: &str, arguments: &[String]) -> Result<Self> {
        let mut plan = Self {
            verb: verb.to_owned(),
            bin: PathBuf::new(),
            extent: Extent::Short,
            seed: 1,
            store: Store::Sqlite,
            only: None,
            resume: false,
            shard: (1, 1),
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().ok_or(format!("{argument} lacks its value\n{USAGE}"));
            match argument.as_str() {
                "--bin" => plan.bin = PathBuf::from(value()?),
                "--short" => plan.extent = Extent::Short,
                "--long" => plan.extent = Extent::Long,
                "--resume" => plan.resume = true,
                "--seed" => plan.seed = value()?.parse()?,
                "--store" => {
                    plan.store = match value()?.as_str() {
                        "sqlite" => Store::Sqlite,
                        "postgres" => Store::Postgres,
                        other => return Err(format!("no store `{other}`\n{USAGE}").into()),
                    }
                }
                "--only" => plan.only = Some(value()?.parse()?),
                "--shard" => {
                    let text = value()?;
                    let numbers = text.split_once('/');
                    let numbers =
                        numbers.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
                    let shard = numbers.filter(|(i, n)| (1..=*n).contains(i));
                    plan.shard = shard.ok_or(format!("--shard is 1/3, 2/3 or 3/3, not {text}"))?;
                }
                other => return Err(format!("cannot read `{other}`\n{USAGE}").into()),
            }
        }
        if !plan.bin.is_file() {
            return Err(format!("--bin names no file\n{USAGE}").into());
        }
        Ok(plan)
    }

    /// The seed of a round: other rounds, and other seeds, have others.
    pub(crate) const fn seed_of(&self, round: u64) -> u64 {
        self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(round)
    }

    /// The rounds of `count` that are this run's.
    pub(crate) fn rounds(&self, count: u64) -> impl Iterator<Item = u64> + use<> {
        let (share, of) = self.shard;
        (0..count).filter(move |round| round % of == share - 1)
    }

    /// The figures of a round that an earlier run finished.
    pub(crate) fn done(&self, round: u64) -> Option<Value> {
        if !self.resume {
            return None;
        }
        read(&self.record())?.get(&self.name(round)).cloned()
    }

    /// Keeps the figures of a round, for [`Plan::done`].
    pub(crate) fn note(&self, round: u64, figures: &Value) -> Result<()> {
        let record = self.record();
        let mut all = read(&record).unwrap_or_default();
        all.insert(self.name(round), figures.clone());
        // In full or not at all, whenever this process ends.
        let new = record.with_extension("new");
        std::fs::write(&new, Value::Object(all).to_string())?;
        std::fs::rename(new, record)?;
        Ok(())
    }

    /// The command that does the same again.
    pub(crate) fn again(&self) -> String {
        let Self { verb, extent, seed, store, .. } = self;
        let extent = format!("{extent:?}").to_lowercase();
        format!("cargo xtask {verb} --{extent} --store {} --seed {seed}", store.name())
    }

    fn name(&self, round: u64) -> String {
        format!("{:?} {} {} {round}", self.extent, self.store.name(), self.seed)
    }

    /// Beside the binary: it goes with the build.
    fn record(&self) -> PathBuf {
        let folder = self.bin.parent().unwrap_or(Path::new("."));
        folder.join(format!("campaign-{}.json", self.verb))
    }
}

fn read(record: &Path) -> Option<Map<String, Value>> {
    serde_json::from_slice(&std::fs::read(record).ok()?).ok()
}

/// Numbers that look random and are the same for the same seed (`SplitMix64`).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// For one of several things that draw beside one another, so that none disturbs another's draws.
    pub(crate) fn of(seed: u64, what: &str) -> Self {
        // FNV-1a.
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(seed ^ what.bytes().fold(0xcbf2_9ce4_8422_2325, mix))
    }

    /// Whether something happens that does so many times in a thousand.
    pub(crate) const fn happens(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// A number below `bound`.
    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan> {
        let bin = std::env::current_exe()?;
        let bin = ["--bin", bin.to_str().ok_or("a path")?];
        let arguments: Vec<_> =
            bin.iter().chain(arguments).map(|text| (*text).to_owned()).collect();
        Plan::read("test", &arguments)
    }

    #[test]
    fn shards_are_all_rounds_once() {
        let mut seen = Vec::new();
        for shard in ["1/3", "2/3", "3/3"] {
            seen.extend(plan(&["--shard", shard]).unwrap().rounds(20));
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
        for bad in ["0/3", "4/3", "1", "a/b"] {
            assert!(plan(&["--shard", bad]).is_err(), "{bad}");
        }
        assert!(
            plan(&["--seed"]).is_err()
                && plan(&["--fast"]).is_err()
                && plan(&["--store", "x"]).is_err()
        );
    }

    #[test]
    fn a_seed_says_it_all_and_rates_are_kept() {
        let draws = |seed, what| {
            let mut random = Random::of(seed, what);
            (0..4).map(|_| random.below(u64::MAX)).collect::<Vec<_>>()
        };
        assert_eq!(draws(1, "a"), draws(1, "a"));
        assert_ne!(draws(1, "a"), draws(1, "b"));
        assert_ne!(draws(1, "a"), draws(2, "a"));
        let mut random = Random::of(7, "rate");
        let often = (0..10_000).filter(|_| random.happens(100)).count();
        assert!((900..1_100).contains(&often), "{often}");
    }

    #[test]
    fn what_is_done_is_left_out_when_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("pay402");
        std::fs::write(&bin, "").unwrap();
        let plan = |resume| Plan { bin: bin.clone(), resume, ..plan(&["--seed", "7"]).unwrap() };
        plan(false).note(3, &Value::from(42)).unwrap();
        plan(false).note(4, &Value::from(43)).unwrap();
        assert_eq!(plan(true).done(3), Some(Value::from(42)));
        assert_eq!(plan(true).done(5), None);
        assert_eq!(plan(false).done(3), None, "not resumed");
        assert_eq!(Plan { seed: 8, ..plan(true) }.done(3), None, "another seed");
    }
}
