//! Nothing is lost, nothing is invented, and nothing waits for ever.

use super::{Auditor, Seen, State};
use crate::log::Counts;
use crate::message::{Offset, SharedMessage};

impl Auditor {
    /// Every matched message with its state, as a number of each; and how many of the pending ones are leaving.
    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for seen in self.messages.iter().filter(|seen| seen.matched) {
            tally.matched += 1;
            match self.state(seen.message.offset) {
                State::Acked => tally.acked += 1,
                State::Dead { .. } => tally.dead += 1,
                State::Expired => tally.expired += 1,
                State::Dropped => tally.dropped += 1,
                State::Pending { .. } if seen.leaving => tally.leaving += 1,
                State::Pending { .. } => tally.pending += 1,
            }
        }
        tally
    }

    /// Nothing is lost and nothing is invented.
    pub(in crate::dispatch::model) fn check_conservation(&self, matched: u64, counts: &Counts, pending: u64) {
        let tally = self.tally();
        let seen = format!("{tally:?}, {counts:?}, {pending} pending");
        let past = &self.past;
        assert_eq!(matched, tally.matched + past.matched, "matched: {seen}");
        let settled = counts.dead + counts.acked + counts.expired + counts.skipped;
        assert_eq!(matched, pending + settled - counts.reopened, "conserved: {seen}");
        assert_eq!((counts.acked, counts.dead), (tally.acked + past.acked, tally.dead), "{seen}");
        assert_eq!((counts.expired, counts.reopened), (tally.expired + past.expired, past.reopened), "{seen}");
        let skipped = tally.dropped + past.dropped + past.skipped;
        assert!(counts.skipped >= skipped, "{seen}");
        assert!(counts.skipped <= skipped + tally.leaving, "skipped what nobody took out: {seen}");
    }

    /// What is charged to messages in retry is what was charged and not taken back.
    pub(in crate::dispatch::model) fn check_charges(&self, rows: impl Iterator<Item = (Offset, u32)>) {
        for (offset, charged) in rows {
            let State::Pending { charged: charges, .. } = self.state(offset) else { panic!("{offset} is over") };
            assert_eq!(charged, u32::try_from(charges.count).unwrap(), "charged to {offset}");
        }
    }

    /// Everything that is left pending must be among what is excused.
    pub(in crate::dispatch::model) fn check_done(&self, counts: &Counts, excused: impl Fn(&SharedMessage) -> bool) {
        let pending = |seen: &&Seen| matches!(self.state(seen.message.offset), State::Pending { .. });
        let waits = self.messages.iter().filter(|seen| seen.matched && !seen.leaving).filter(pending);
        let stuck: Vec<_> = waits.filter(|seen| !excused(&seen.message)).map(|seen| seen.message.offset).collect();
        assert!(stuck.is_empty(), "stuck: {stuck:?} with {counts:?}");
    }

    pub(in crate::dispatch::model) fn check_all_done(&self, counts: &Counts) {
        self.check_done(counts, |_| false);
        let tally = self.tally();
        let skipped = tally.dropped + self.past.dropped + self.past.skipped + tally.leaving;
        assert_eq!(counts.skipped, skipped, "what was taken out is skipped in the end");
    }
}

#[derive(Debug, Default)]
struct Tally {
    matched: u64,
    pending: u64,
    dead: u64,
    acked: u64,
    expired: u64,
    dropped: u64,
    leaving: u64,
}
