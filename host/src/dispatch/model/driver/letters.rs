//! What an operator does with dead letters.

use super::World;
use crate::dispatch::Event;
use crate::message::Offset;

impl World {
    /// Synced dead letters that no command is about.
    fn some_letters(&mut self) -> Vec<Offset> {
        let free = self.journal.synced.dead.keys().filter(|offset| !self.busy_letters.contains_key(offset));
        let mut letters: Vec<_> = free.copied().collect();
        self.random.shuffle(&mut letters);
        letters.truncate(self.random.usize(1..4));
        letters
    }

    pub(super) fn redrive(&mut self) {
        let letters = self.some_letters();
        if !letters.is_empty() {
            self.redrive_letters(letters);
        }
    }

    pub(super) fn redrive_letters(&mut self, letters: Vec<Offset>) {
        trace!(self, "redrive {letters:?}");
        let letter =
            |offset: &Offset| (self.journal.message(*offset).clone(), self.journal.synced.dead[offset].clone());
        let rows = letters.iter().map(letter).collect();
        self.command(&letters, Event::Redriven(rows));
        for offset in letters {
            self.auditor.redriven(self.busy_letters[&offset], offset);
        }
    }

    pub(super) fn drop_letters(&mut self) {
        let letters = self.some_letters();
        if !letters.is_empty() {
            self.drop_these(letters);
        }
    }

    pub(super) fn drop_these(&mut self, letters: Vec<Offset>) {
        trace!(self, "drop {letters:?}");
        self.command(&letters, Event::Dropped(letters.clone()));
        for offset in letters {
            self.auditor.dropped(self.busy_letters[&offset], offset);
        }
    }

    /// Carries out a command about dead letters; they are let go when it is synced.
    fn command(&mut self, letters: &[Offset], event: Event<'_>) {
        self.step(event);
        let entry = self.journal.sequenced_to();
        self.busy_letters.extend(letters.iter().map(|offset| (*offset, entry)));
    }
}
