//! The disk's own floor: what an append of one message, synced, takes where both sides keep their files.

use std::fs::File;
use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::figures::{Figures, quantile};
use crate::rows::MESSAGE_BYTES;

pub(crate) const MEDIAN_US: &str = "append + fdatasync, us";
pub(crate) const P99_US: &str = "append + fdatasync p99, us";
const APPENDS: usize = 500;

/// Measures it now. Both sides take the same temporary folder, the one of the environment.
pub(crate) fn measure(figures: &mut Figures) -> Result<()> {
    let mut times_us = appends_us()?;
    figures.add(P99_US, quantile(&mut times_us, 0.99));
    figures.add(MEDIAN_US, quantile(&mut times_us, 0.5));
    Ok(())
}

/// The median now, in microseconds.
pub(crate) fn median_us() -> Result<f64> {
    Ok(quantile(&mut appends_us()?, 0.5))
}

fn appends_us() -> Result<Vec<f64>> {
    let folder = tempfile::tempdir().context("a folder for the disk's own figure")?;
    let mut file = File::create(folder.path().join("appended"))?;
    let mut times_us = Vec::with_capacity(APPENDS);
    for _ in 0..APPENDS {
        let began = Instant::now();
        file.write_all(&[7; MESSAGE_BYTES])?;
        file.sync_data()?;
        times_us.push(began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times_us)
}
