//! How messages come in: what was synced, and what was read back from the log.

use std::sync::Arc;

use crate::log::{Batch, HeldAt, HeldRow, RetryRow, Settlement};
use crate::message::{Millis, Offset, SharedMessage};

use super::item::{Item, Origin};
use super::{Dispatcher, Ready};

impl Dispatcher {
    /// Messages became durable. A dispatcher that keeps up takes them from here and never reads the log.
    pub(super) fn synced(&mut self, messages: &[SharedMessage], settlement: &mut Settlement) {
        for message in messages {
            if message.offset < self.known_end {
                continue;
            }
            self.known_end = message.offset + 1;
            let keeps_up = self.active && self.unread == 0 && !self.fetching && !self.window_is_full();
            if keeps_up {
                self.cursor = self.known_end;
                self.admit(message, settlement);
            } else {
                self.unread += 1;
            }
        }
    }

    /// Messages were read from the cursor on.
    pub(super) fn fetched(&mut self, batch: Batch, settlement: &mut Settlement) {
        self.fetching = false;
        if std::mem::take(&mut self.fetch_is_stale) || !self.active {
            return;
        }
        for message in &batch.messages {
            if message.offset < self.cursor {
                continue;
            }
            self.cursor = message.offset + 1;
            if self.passed_before.contains(message.offset) {
                continue;
            }
            if message.offset < self.known_end {
                self.unread = self.unread.saturating_sub(1);
            } else {
                self.known_end = message.offset + 1;
            }
            self.admit(message, settlement);
        }
        self.cursor = self.cursor.max(batch.next);
        if self.cursor >= self.known_end {
            self.known_end = self.cursor;
            debug_assert_eq!(self.unread, 0, "what was counted is found");
            self.unread = 0;
        }
        if self.cursor >= self.passed_before.end() {
            self.passed_before = crate::log::position::Position::starting_at(self.cursor);
        }
    }

    /// Finds the place of a message that was read for the first time.
    fn admit(&mut self, message: &SharedMessage, settlement: &mut Settlement) {
        let covers_from = self.admitted_to;
        self.admitted_to = message.offset + 1;
        let lane = self.lane_of(message);
        if let Some(key) = lane
            && self.lanes.open(key).is_blocked()
        {
            self.lanes.join(key, message, self.id, settlement);
            self.held += 1;
            pass(settlement, covers_from, message.offset + 1);
            settlement.counts.passed += 1;
            settlement.counts.rows += 1;
            return;
        }
        self.window.push(message.clone(), lane, covers_from);
        let item = Item { message: message.clone(), lane, origin: Origin::Window { covers_from }, conflicts: 0 };
        match lane {
            None => self.ready.push_back(Ready::Loose(item)),
            Some(key) => {
                self.lanes.get(key).queue.push_back(item);
                self.wake_lane(key);
            }
        }
    }

    /// Retries that are due were read.
    pub(super) fn retries_loaded(&mut self, loaded: Vec<(SharedMessage, Arc<RetryRow>)>, settlement: &mut Settlement) {
        for (message, row) in loaded {
            let offset = message.offset;
            if !self.retries.is_loading(offset) {
                continue;
            }
            let lane = self.retries.lane(offset);
            let item = Item { message, lane, origin: Origin::Retry(row), conflicts: 0 };
            if self.takes(&item.message) {
                self.place_retry(item);
            } else {
                self.skip(item, settlement);
            }
            if let Some(key) = lane {
                self.wake_lane(key);
            }
        }
        self.retries.ask_again();
    }

    /// Some messages of a lane's first held row were read, from the row's front on.
    pub(super) fn row_loaded(
        &mut self,
        at: HeldAt,
        row: &Arc<HeldRow>,
        messages: Vec<SharedMessage>,
        settlement: &mut Settlement,
    ) {
        if self.lanes.row_came(at) {
            let mut skipped_to = row.front;
            for (index, message) in (row.front..).zip(messages) {
                if !self.takes(&message) {
                    // Its topic is no longer taken. It leaves the row in order: at the front.
                    if !self.lanes.get(at.key).queue.is_empty() {
                        break;
                    }
                    skipped_to = index + 1;
                    self.held -= 1;
                    self.lanes.get(at.key).row_advanced(at.first);
                    settlement.counts.rows -= 1;
                    settlement.counts.skipped += 1;
                    continue;
                }
                let origin = Origin::Row { at, row: row.clone(), index };
                let item = Item { message, lane: Some(at.key), origin, conflicts: 0 };
                self.lanes.get(at.key).queue.push_back(item);
            }
            if skipped_to > row.front {
                settlement.held.push((at, advanced(row, skipped_to)));
            }
        }
        self.wake_lane(at.key);
    }

    /// Items were taken and did not run: they stand where they stood.
    pub(super) fn returned(&mut self, items: Vec<Item>, settlement: &mut Settlement) {
        for item in items.into_iter().rev() {
            self.did_not_begin(item.message.offset);
            self.put_back(item, settlement);
        }
    }

    /// A call has to be made again.
    pub(super) fn conflicted(&mut self, mut item: Item, settlement: &mut Settlement) {
        item.conflicts += 1;
        self.reruns += 1;
        self.gate.breaker.says_nothing(item.message.offset);
        self.put_back(item, settlement);
    }

    /// A call has to be made again when there is room for what it does.
    pub(super) fn found_no_room(&mut self, item: Item, settlement: &mut Settlement) {
        self.reruns += 1;
        self.gate.breaker.says_nothing(item.message.offset);
        self.put_back(item, settlement);
    }

    fn put_back(&mut self, mut item: Item, settlement: &mut Settlement) {
        self.find_place(&mut item);
        *self.running.of(&item.origin) -= 1;
        let lane = item.lane;
        if let Some(key) = lane {
            self.lanes.get(key).taken -= 1;
        }
        let is_taken = self.takes(&item.message);
        match (&item.origin, lane) {
            (Origin::Row { .. }, Some(key)) if !is_taken => {
                // It leaves its row in order: it and all after it are read again when their turn comes.
                self.lanes.get(key).forget_row();
            }
            _ if !is_taken => self.skip(item, settlement),
            (Origin::Retry(_), _) => self.place_retry(item),
            (_, None) => self.ready.push_front(Ready::Loose(item)),
            (_, Some(key)) => self.lanes.get(key).queue.push_front(item),
        }
        if let Some(key) = lane {
            self.wake_lane(key);
        }
    }

    /// Where the window is full of messages that wait behind running ones, and slots idle, the longest
    /// queues make room: their messages go to held rows, and the window takes other keys.
    pub(super) fn relieve_starvation(&mut self, now_ms: Millis, settlement: &mut Settlement) {
        if !self.is_starved() {
            self.starved_since_ms = None;
            return;
        }
        let since = *self.starved_since_ms.get_or_insert(now_ms);
        if now_ms < since.saturating_add(self.bounds.starved_ms_max) {
            return;
        }
        self.starved_since_ms = None;
        let mut longest: Vec<_> = self.lanes.iter().map(|(key, lane)| (lane.queue.len(), *key)).collect();
        longest.sort_unstable();
        let mut enough = self.window.len() / 2;
        while let Some((length, key)) = longest.pop().filter(|(length, _)| enough > 0 && *length > 0) {
            self.spill(key, settlement);
            enough = enough.saturating_sub(length);
        }
    }

    /// Moves a lane's messages from the window to held rows.
    pub(super) fn spill(&mut self, key: crate::log::KeyHash, settlement: &mut Settlement) {
        for item in self.lanes.spill(key, self.id, settlement) {
            let Origin::Window { covers_from } = item.origin else { unreachable!("only the window spills") };
            let offset = item.message.offset;
            self.window.settle(offset);
            self.held += 1;
            pass(settlement, covers_from, offset + 1);
            settlement.counts.passed += 1;
            settlement.counts.rows += 1;
        }
    }
}

/// Adds a range to what the position passes; ranges that touch become one.
pub(super) fn pass(settlement: &mut Settlement, from: Offset, to: Offset) {
    match settlement.passed.last_mut() {
        Some(last) if last.1 == from => last.1 = to,
        _ => settlement.passed.push((from, to)),
    }
}

/// A row of which all before `front` is gone; `None` where nothing is left.
pub(super) fn advanced(row: &HeldRow, front: u32) -> Option<Arc<HeldRow>> {
    let left = (front as usize) < row.offsets.len();
    left.then(|| Arc::new(HeldRow { offsets: row.offsets.clone(), front, accepted_ms: row.accepted_ms }))
}
