//! What was measured: numbers by name, one for each round.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Figures(BTreeMap<String, Vec<f64>>);

/// The middle of some numbers, and how far they spread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Figures {
    pub(crate) fn add(&mut self, name: &str, value: f64) {
        self.0.entry(name.to_owned()).or_default().push(value);
    }

    /// Adds what another program measured and wrote.
    ///
    /// # Errors
    /// Where the file is not what such a program writes.
    pub(crate) fn read(&mut self, file: &Path) -> Result<()> {
        let others: Self = serde_json::from_slice(&std::fs::read(file)?)?;
        self.0.extend(others.0);
        Ok(())
    }

    pub(crate) fn of(&self, name: &str) -> &[f64] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn summary(&self, name: &str) -> Option<Summary> {
        summary(self.of(name))
    }

    /// How many times one is the other, round by round.
    pub(crate) fn ratio(&self, name: &str, to: &str) -> Option<Summary> {
        let ratios: Vec<f64> = self.of(name).iter().zip(self.of(to)).map(|(one, other)| one / other).collect();
        summary(&ratios)
    }
}

fn summary(values: &[f64]) -> Option<Summary> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(Summary { median: *sorted.get(sorted.len() / 2)?, least: *sorted.first()?, most: *sorted.last()? })
}

/// The value below which this share of the values lies.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let mut figures = Figures::default();
        for (one, other) in [(10.0, 5.0), (90.0, 30.0), (40.0, 10.0)] {
            figures.add("one", one);
            figures.add("other", other);
        }
        let ratio = figures.ratio("one", "other").unwrap();
        assert_eq!((ratio.least, ratio.median, ratio.most), (2.0, 3.0, 4.0));
        assert!(figures.summary("none").is_none());
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let mut values: Vec<f64> = (0..1000).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut values, 0.5), 500.0);
        assert_eq!(quantile(&mut values, 0.999), 999.0);
        assert_eq!(quantile(&mut values, 1.0), 999.0);
    }
}
