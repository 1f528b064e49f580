//! What must hold after every step, and that everything comes to its end.

use crate::log::position::Position;
use crate::message::SharedMessage;
use crate::outcome::Outcome;

use super::working::Run;
use super::{TOPICS, World};

impl World {
    fn in_hand(&self) -> u64 {
        let of = |run: &Run| run.waiting.len() + usize::from(run.calling.is_some()) + run.acked.len();
        self.runs.iter().map(of).sum::<usize>() as u64
    }

    /// What must hold after every step.
    pub(super) fn check(&self) {
        // A message counts for the subscription when it is told of it, or found by it.
        let known = self.dispatcher.known_end().min(self.journal.end());
        let untold = self.journal.count(self.dispatcher.selection(), known, self.journal.end());
        let matched = self.journal.matched();
        let pending = self.dispatcher.pending();
        self.auditor.check_conservation(matched, &self.journal.sequenced.counts, pending + untold);

        self.auditor.check_told(self.journal.told());
        let rows = self.journal.sequenced.retries.iter();
        self.auditor.check_charges(rows.map(|(offset, row)| (*offset, row.history.charged)));
        let in_hand = |offset| self.runs.iter().any(|run| run.has(offset));
        let forgotten = self.dispatcher.gate.breaker.probes().find(|offset| !in_hand(*offset));
        assert_eq!(forgotten, None, "a probe that no worker has keeps its slot");

        let explanation = self.dispatcher.explain();
        let waiting = explanation.waiting;
        assert_eq!(explanation.pending, pending);
        assert_eq!(waiting.total(), pending, "every message has a reason: {waiting:?}");
        if self.active {
            assert_eq!(waiting.running, self.in_hand(), "{waiting:?}");
            let timed = waiting.due_later + waiting.full.values().sum::<u64>();
            let moves = waiting.running + waiting.runnable + timed + waiting.breaker + waiting.over_rate;
            assert!(waiting.behind_key == 0 || moves > 0, "behind no message: {waiting:?}");
            let all = pending - waiting.running - waiting.parked;
            let until_ms = self.dispatcher.gate.breaker.open_until_ms();
            if self.dispatcher.is_paused() {
                assert_eq!(waiting.paused, all, "{waiting:?}");
            } else if until_ms.is_some() {
                assert_eq!((waiting.breaker, waiting.breaker_until_ms), (all, until_ms), "{waiting:?}");
            } else {
                assert_eq!((waiting.paused, waiting.breaker_until_ms), (0, None), "{waiting:?}");
            }
            assert_eq!(timed > 0, waiting.next_due_ms.is_some(), "{waiting:?}");
        }
        assert!(explanation.oldest_ms.is_none_or(|oldest_ms| oldest_ms <= self.now_ms));

        let window = &self.dispatcher.window;
        let message_bytes_max = 400 + 64 + size_of::<crate::message::Message>();
        assert!(window.len() <= self.bounds.window_messages_max, "{} in the window", window.len());
        assert!(window.bytes() <= self.bounds.window_bytes_max + message_bytes_max, "{} bytes", window.bytes());
    }

    /// Everything comes to its end, with one call that does not end for a while.
    pub(in crate::dispatch::model) fn come_to_rest(&mut self) {
        for index in 0..self.runs.len() {
            let rest = self.runs[index].waiting.drain(..).collect();
            self.settle_acked(index, rest);
        }
        self.runs.retain(|run| run.calling.is_some());
        if self.dispatcher.is_paused() {
            self.stay_paused();
        }
        self.free_all();
        // Behind what leads, and behind a probe of the breaker, all else waits.
        let led = self.auditor.is_led() || !self.dispatcher.gate.breaker.is_closed();
        if let Some(run) = self.runs.last_mut() {
            run.stuck = true;
            let item = &run.calling.as_ref().unwrap().item;
            let (stuck, has_lane) = (item.message.clone(), item.lane.is_some());
            trace!(self, "{} is stuck", stuck.offset);
            self.drive_on(|message| {
                let together = message.event.key == stuck.event.key || message.event.topic == stuck.event.topic;
                led || message.offset == stuck.offset || (has_lane && together)
            });
            self.runs.iter_mut().for_each(|run| run.stuck = false);
            trace!(self, "{} is no longer stuck", stuck.offset);
        }
        self.drive_on(|_| false);
        self.auditor.check_all_done(&self.journal.sequenced.counts);
        self.check_nothing_is_kept();
        self.check_position();
        self.sync_first(self.journal.unsynced());
        self.crash();
        self.check();
        assert_eq!(self.dispatcher.pending(), 0, "what was over is not met again");
        self.check_nothing_is_kept();
    }

    /// An operator looks after every dead letter that holds something back.
    fn free_all(&mut self) {
        self.sync_first(self.journal.unsynced());
        for offset in self.journal.synced.parks.keys().copied().collect::<Vec<_>>() {
            if self.random.bool() {
                self.redrive_letters(vec![offset]);
            } else {
                self.drop_these(vec![offset]);
            }
        }
    }

    /// When one more message is done, everything is behind the floor: the position does not grow with time.
    fn check_position(&mut self) {
        let selection = self.dispatcher.selection();
        let topic = TOPICS.into_iter().find(|topic| selection.from_offset(topic).is_some());
        self.append(topic.expect("every filter takes one of the topics"), None, 0, None);
        self.drive_on(|_| false);
        assert_eq!(self.journal.sequenced.position, Position::starting_at(self.journal.end()));
    }

    fn check_nothing_is_kept(&self) {
        let dispatcher = &self.dispatcher;
        assert_eq!(dispatcher.pending(), 0);
        assert_eq!(dispatcher.lanes.iter().count(), 0, "lanes");
        assert_eq!(dispatcher.running.total(), 0, "running");
        assert!(dispatcher.ready.is_empty());
        assert_eq!((dispatcher.retries.len(), dispatcher.retries.due().0), (0, 0), "retries");
        assert_eq!((dispatcher.window.len(), dispatcher.window.bytes()), (0, 0));
        assert_eq!(self.journal.sequenced.counts.rows, 0, "rows");
    }

    /// A subscription that is paused waits, and says why, until it is resumed.
    fn stay_paused(&mut self) {
        self.drive_on(|_| true);
        let explanation = self.dispatcher.explain();
        assert_eq!(explanation.waiting.paused + explanation.waiting.parked, explanation.pending, "{explanation:?}");
        assert_eq!(self.dispatcher.next_due_ms(), None, "there is nothing to wake up for");
        self.pause();
    }

    /// All that can happen without a person happens, and every call is acked, until nothing goes on. What
    /// `excused` names may then still wait.
    fn drive_on(&mut self, excused: impl Fn(&SharedMessage) -> bool) {
        if !self.active {
            self.set_active(true);
        }
        // Every message takes a few rounds at most.
        for _ in 0..40 * (self.journal.end() + 10) {
            self.sync_first(self.journal.unsynced());
            self.tell_to(self.journal.end());
            let busy = !self.asked.is_empty() || !self.answers.is_empty();
            while !self.asked.is_empty() {
                self.read();
            }
            while !self.answers.is_empty() {
                self.answer();
            }
            let runs = self.runs.len();
            self.take();
            let took = self.runs.len() > runs;
            let acked = self.ack_all();
            self.check();
            if !(busy || took || acked) {
                if self.dispatcher.next_due_ms().is_none() {
                    break;
                }
                self.timer();
            }
        }
        self.auditor.check_done(&self.journal.sequenced.counts, excused);
    }

    /// Lets all runs but a stuck one go to their end. True if anything went on.
    fn ack_all(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.runs.len() {
            if self.runs[index].stuck {
                continue;
            }
            loop {
                any = true;
                if self.runs[index].calling.is_none() {
                    if self.runs[index].waiting.is_empty() {
                        break;
                    }
                    self.begin(index);
                }
                let Some(call) = self.runs[index].calling.take() else { continue };
                self.ended(index, call, Outcome::Acked, false);
            }
            self.settle_acked(index, Vec::new());
        }
        self.runs.retain(|run| run.stuck);
        any
    }
}
