//! Messages whose time is over. It is looked at before a call: one that was never attempted expires, one that
//! was becomes a dead letter. What an operator redrives is delivered however late it is.

use std::sync::Arc;

use crate::log::{DeadRow, Settlement};
use crate::message::Millis;
use crate::outcome::{DeadReason, History};

use super::Dispatcher;
use super::item::Item;
use super::settling::leave_place;

/// Whether a message may no longer be delivered.
pub(super) fn is_over(item: &Item, now_ms: Millis) -> bool {
    let expires_ms = item.message.event.expires_ms();
    expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
        && item.history().is_none_or(|history| history.redrives == 0)
}

fn was_attempted(history: &History) -> bool {
    history.first_attempt_ms != 0
}

impl Dispatcher {
    /// Messages that were taken are over before their call began: they are settled without one.
    pub(super) fn expired(&mut self, items: Vec<Item>, now_ms: Millis, settlement: &mut Settlement) {
        for mut item in items {
            self.find_place(&mut item);
            self.did_not_begin(item.message.offset);
            let had_retry_row = leave_place(&item, settlement);
            let message = &item.message;
            let offset = message.offset;
            match item.history().filter(|history| was_attempted(history)) {
                None => settlement.counts.expired += 1,
                Some(history) => {
                    settlement.counts.dead += 1;
                    settlement.counts.died[DeadReason::Expired as usize] += 1;
                    let row = DeadRow::of(message, DeadReason::Expired, now_ms, history.clone());
                    settlement.events.extend(self.announcement(message, &row));
                    settlement.dead.push((offset, Some(Arc::new(row))));
                }
            }
            if had_retry_row {
                settlement.retries.push((offset, None));
            }
            self.vacate(&item);
            if let Some(key) = item.lane {
                self.wake_lane(key);
            }
        }
    }
}
