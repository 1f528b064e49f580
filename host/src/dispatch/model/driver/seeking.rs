//! An operator moves the subscription, as the edge does it; what lies where is counted message by message.

use std::collections::BTreeSet;

use crate::dispatch::seek::{Survey, returned, selection_from};
use crate::log::{Change, LoadedSubscription, Parks};
use crate::message::Offset;
use crate::policy::OnExhausted;

use super::{World, takes};

impl World {
    pub(super) fn seek(&mut self) {
        // At a standstill: calls end without effect, and everything is synced.
        self.leave_ghost();
        self.forget_hands();
        self.sync_first(self.journal.unsynced());
        let end = self.journal.end();
        let target = self.random.u64(0..=end);
        let loaded = self.journal.load();
        let survey = self.survey(&loaded, target);
        let sought = survey.sought();
        trace!(self, "seek to {target}: {survey:?}, {sought:?}");
        let returned: BTreeSet<Offset> = survey.redriven.iter().map(|(offset, _, _)| *offset).collect();
        let Change::Seek { record, position, counts, dead, parks, .. } = survey.change(&loaded, target, end) else {
            panic!("a seek is a seek");
        };
        let selection = record.selection.clone();
        let entry = self.journal.seek(record, position, counts, dead, parks);
        let parks_now = self.policy.retry.on_exhausted != OnExhausted::DeadLetter;
        self.auditor.sought(entry, target, selection, |offset| returned.contains(&offset), parks_now);
        self.sync_first(self.journal.unsynced());
        self.reload_dispatcher();
        self.set_active(self.active);
        assert_eq!(self.dispatcher.pending(), sought.pending, "what was told to be pending is");
    }

    fn survey(&self, loaded: &LoadedSubscription, target: Offset) -> Survey {
        let account = &self.journal.synced;
        let (before, position) = (&loaded.record.selection, &loaded.position);
        let after = selection_from(before, target);
        let held: BTreeSet<Offset> =
            account.held.values().flat_map(|row| row.offsets[row.front as usize..].iter().copied()).collect();
        let parks_now = self.policy.retry.on_exhausted != OnExhausted::DeadLetter;
        let mut survey = Survey::default();
        for message in self.journal.messages(0, self.journal.end()) {
            let offset = message.offset;
            let (taken, taken_after) = (takes(before, message), takes(&after, message));
            let (passed, dead) = (position.contains(offset), account.dead.contains_key(&offset));
            let retry = account.retries.get(&offset);
            let redriven = retry.and_then(|row| Some((row, row.redrive?)));
            let in_row = (retry.is_some() && redriven.is_none()) || held.contains(&offset);
            if let Some((row, redrive)) = redriven {
                let parks: Option<Parks> = redrive.parks.filter(|_| parks_now);
                survey.redriven.push((offset, returned(message, row, redrive), parks));
            }
            if offset < target {
                let passed_over = dead && offset < loaded.record.passes_dead_before;
                survey.unread_before += u64::from(taken && !passed && !passed_over);
                survey.rows_before += u64::from(in_row);
                continue;
            }
            survey.taken += u64::from(taken);
            survey.taken_in_gaps += u64::from(taken && !passed);
            survey.dead_passed += u64::from(taken && dead && passed);
            survey.rows_taken += u64::from(in_row && taken);
            survey.rows_left += u64::from(in_row && !taken);
            survey.redriven_taken += u64::from(redriven.is_some() && taken);
            let dead_then = dead || redriven.is_some();
            survey.taken_after += u64::from(taken_after);
            survey.dead_after += u64::from(taken_after && dead_then);
            survey.passes_dead |= dead_then;
        }
        survey
    }
}
