//! From rounds to one line per bench: medians, the ratio to the reference, and the worst round.
//!
//! **Invariant:** a ratio above 1 means better than the reference, whatever the unit.

use serde_json::json;

/// What a figure counts, and which way is better.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unit {
    /// Finished per second: more is better.
    PerSecond,
    /// Microseconds each: fewer is better.
    Microseconds,
    /// Gas each: fewer is better.
    Gas,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "per_second",
            Self::Microseconds => "microseconds",
            Self::Gas => "gas",
        }
    }
}

/// One round: subject and reference, measured one right after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// What is being judged.
    pub(crate) subject: f64,
    /// What it is held against.
    pub(crate) reference: f64,
}

impl Round {
    fn ratio(self, unit: Unit) -> f64 {
        match unit {
            Unit::PerSecond => self.subject / self.reference,
            Unit::Microseconds | Unit::Gas => self.reference / self.subject,
        }
    }
}

/// The rounds of one bench.
#[derive(Debug)]
pub(crate) struct Bench {
    /// What is measured.
    pub(crate) name: &'static str,
    /// What the reference is, for people.
    pub(crate) against: &'static str,
    /// Of both figures.
    pub(crate) unit: Unit,
    /// At least one.
    pub(crate) rounds: Vec<Round>,
}

impl Bench {
    /// The median figure of the subject, that of the reference, the median ratio, the worst ratio.
    fn figures(&self) -> [f64; 4] {
        let all = |pick: &dyn Fn(&Round) -> f64| sorted(self.rounds.iter().map(pick).collect());
        let ratios = all(&|round| round.ratio(self.unit));
        [
            median(&all(&|round| round.subject)),
            median(&all(&|round| round.reference)),
            median(&ratios),
            ratios[0],
        ]
    }

    /// One line for people.
    pub(crate) fn text(&self) -> String {
        let [value, reference, ratio, worst] = self.figures();
        format!(
            "{:<34} {value:>10.1} {} against {reference:>10.1} ({}): ratio {ratio:.4}, worst {worst:.4}",
            self.name,
            self.unit.name(),
            self.against,
        )
    }

    /// One JSON object.
    pub(crate) fn json(&self) -> String {
        let [value, reference, ratio, worst] = self.figures();
        json!({
            "bench": self.name,
            "value": rounded(value, 1),
            "unit": self.unit.name(),
            "reference": rounded(reference, 1),
            "against": self.against,
            "ratio": rounded(ratio, 5),
            "worst": rounded(worst, 5),
            "rounds": self.rounds.len(),
        })
        .to_string()
    }
}

fn sorted(mut figures: Vec<f64>) -> Vec<f64> {
    figures.sort_by(f64::total_cmp);
    figures
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

fn rounded(figure: f64, places: i32) -> f64 {
    let scale = 10_f64.powi(places);
    (figure * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(unit: Unit) -> Bench {
        let round = |subject, reference| Round { subject, reference };
        let rounds = vec![round(50.0, 100.0), round(20.0, 100.0), round(90.0, 100.0)];
        Bench { name: "b", against: "r", unit, rounds }
    }

    #[test]
    fn higher_is_better_in_every_unit() {
        assert_eq!(bench(Unit::PerSecond).figures(), [50.0, 100.0, 0.5, 0.2]);
        let [value, reference, ratio, worst] = bench(Unit::Microseconds).figures();
        assert_eq!([value, reference, ratio], [50.0, 100.0, 2.0]);
        assert!(worst > 1.1 && worst < 1.2, "{worst}");
    }

    #[test]
    fn a_line_is_one_json_object() {
        let line: serde_json::Value = serde_json::from_str(&bench(Unit::PerSecond).json()).unwrap();
        assert_eq!(line["bench"], "b");
        assert_eq!(line["ratio"], 0.5);
        assert_eq!(line["worst"], 0.2);
        assert_eq!(line["reference"], 100.0);
    }

    #[test]
    fn the_median_of_two_lies_between() {
        assert_eq!(median(&[1.0, 3.0]), 2.0);
    }
}
