//! The facilitator as operators run it: the released program in a process of its own, over HTTP, with
//! its journal on disk, and anvil as its node in another process.
//!
//! What counts is the CPU time of the facilitator's process, so that neither the load nor the node is
//! part of a figure. The reference of a verification is the least that any server must do for one: read
//! the JSON, hash the authorization, recover the signer.

mod anvil;
mod footprint;
mod growth;
mod limit;
mod process;
mod proxy;
mod settle;
mod town;
mod verify;

use serde_json::json;

pub(crate) use limit::{ARGUMENT as LIMIT_ARGUMENT, serve as serve_limit};

use crate::{Extent, Result};

/// One figure and the bound that it is held against.
#[derive(Debug)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    bound: Bound,
    /// What was done to get it.
    load: String,
}

/// What a figure has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// At most so much.
    AtMost(f64),
    /// At least so much.
    AtLeast(f64),
    /// Reported only.
    None,
}

impl Figure {
    const fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtMost(bound) => self.value <= bound,
            Bound::AtLeast(bound) => self.value >= bound,
            Bound::None => true,
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let bound = match self.bound {
            Bound::AtMost(bound) => format!("at most {bound}"),
            Bound::AtLeast(bound) => format!("at least {bound}"),
            Bound::None => "no bound".to_owned(),
        };
        let verdict = if self.is_met() { "" } else { "  MISSED" };
        let Self { name, value, unit, load, .. } = self;
        format!("{name:<34} {value:>10.3} {unit} ({bound}){verdict}; {load}")
    }

    /// One JSON object.
    pub(crate) fn json(&self) -> String {
        let (at_most, at_least) = match self.bound {
            Bound::AtMost(bound) => (Some(bound), None),
            Bound::AtLeast(bound) => (None, Some(bound)),
            Bound::None => (None, None),
        };
        json!({
            "bench": self.name,
            "value": (self.value * 1_000.0).round() / 1_000.0,
            "unit": self.unit,
            "at_most": at_most,
            "at_least": at_least,
            "met": self.is_met(),
            "load": self.load,
        })
        .to_string()
    }
}

pub(crate) const NAMES: &[&str] =
    &["speed_verify", "speed_settle", "speed_footprint", "speed_growth"];

/// Runs what is chosen by name.
///
/// # Errors
/// When an answer is not as expected, or the program or anvil is not there.
pub(crate) async fn run(extent: Extent, chosen: impl Fn(&str) -> bool) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if chosen(NAMES[0]) {
        figures.extend(verify::run(extent).await?);
    }
    if chosen(NAMES[1]) {
        figures.extend(settle::run(extent).await?);
    }
    if chosen(NAMES[2]) {
        figures.extend(footprint::run(extent).await?);
    }
    if chosen(NAMES[3]) {
        figures.extend(growth::run(extent).await?);
    }
    Ok(figures)
}

/// Whether what these benches start is installed.
pub(crate) fn is_installed() -> bool {
    anvil::program().is_some()
}

/// The middle one of figures.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_bound_shows() {
        let figure = |value, bound| Figure {
            name: "x".into(),
            value,
            unit: "ms",
            bound,
            load: "none".into(),
        };
        assert!(!figure(2.0, Bound::AtMost(1.0)).is_met());
        assert!(figure(1.0, Bound::AtMost(1.0)).is_met());
        assert!(!figure(0.9, Bound::AtLeast(1.0)).is_met());
        assert!(figure(2.0, Bound::AtMost(1.0)).text().contains("MISSED"));
        assert!(figure(2.0, Bound::AtMost(1.0)).json().contains("\"met\":false"));
    }
}
