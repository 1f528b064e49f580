//! What may begin, and what follows from a call, worked out once more.

use super::{Auditor, Hand, State, Taken, millis};
use crate::dispatch::Finished;
use crate::dispatch::model::journal::Entry;
use crate::log::{KeyHash, Parks};
use crate::message::{Millis, Offset};
use crate::outcome::{DeadReason, Outcome};
use crate::policy::{OnExhausted, Policy};
use crate::settle::Decision;

/// What decides what follows from a call.
pub(in crate::dispatch::model) struct Terms<'a> {
    pub(in crate::dispatch::model) policy: &'a Policy,
    pub(in crate::dispatch::model) uncharged_reruns_max: u32,
    pub(in crate::dispatch::model) breaker_closed: bool,
    pub(in crate::dispatch::model) now_ms: Millis,
}

impl Auditor {
    /// Whether a message that parked the subscription comes before all others now.
    pub(in crate::dispatch::model) fn is_led(&self) -> bool {
        self.now.values().any(|state| matches!(state, State::Pending { was: Some(Parks::Subscription), .. }))
    }

    /// Nothing is handed out that a dead letter holds back.
    fn check_is_free(&self, offset: Offset, lane: Option<KeyHash>) {
        for (letter, state) in &self.now {
            match state {
                State::Dead { parks: Some(Parks::Subscription) } => {
                    panic!("{offset} is handed out, parked by {letter}")
                }
                State::Dead { parks: Some(Parks::Key(key)) } => {
                    assert_ne!(lane, Some(*key), "{offset} is handed out, its key parked by {letter}");
                }
                State::Pending { leads: true, .. } if !self.messages[*letter as usize].leaving => {
                    let State::Pending { leads, was, .. } = self.state(offset) else { panic!("{offset} is over") };
                    // One that a policy set free leads again after a restart, where the policy of then parks.
                    let leads = leads || was == Some(Parks::Subscription);
                    let before_it = lane.is_some() && offset < *letter;
                    assert!(leads || before_it, "{offset} is handed out before {letter}, which leads");
                }
                _ => {}
            }
        }
    }

    pub(in crate::dispatch::model) fn was_taken(&mut self, offset: Offset, lane: Option<KeyHash>) {
        self.check_is_free(offset, lane);
        self.steps += 1;
        assert!(self.messages[offset as usize].matched, "{offset} was never matched");
        let State::Pending { .. } = self.state(offset) else { panic!("{offset} is {:?}", self.state(offset)) };
        let before = self.taken.insert(offset, Taken { hand: Hand::Waiting, at: self.steps });
        assert!(before.is_none(), "{offset} was taken twice at once");
    }

    pub(in crate::dispatch::model) fn started(&mut self, offset: Offset, now_ms: Millis) {
        let seen = &self.messages[offset as usize];
        let taken_at = self.taken[&offset].at;
        let State::Pending { not_before_ms, redriven, .. } = self.state(offset) else { panic!("{offset} is over") };
        let expires_ms = seen.message.event.expires_ms();
        assert!(redriven || expires_ms.is_none_or(|ms| now_ms < ms), "{offset} begins at {now_ms}, {expires_ms:?}");
        assert!(now_ms >= not_before_ms, "{offset} begins at {now_ms}, and asked for {not_before_ms}");
        if seen.leaving {
            assert!(taken_at < self.reselected_at, "{offset} is offered after its topic was taken out");
        }
        if let Some(lane) = self.lane(seen) {
            let others = self.messages.iter().filter(|other| other.matched && self.lane(other) == Some(lane));
            for other in others {
                let at = other.message.offset;
                let hand = self.taken.get(&at).map(|taken| taken.hand);
                assert_ne!(hand, Some(Hand::Calling), "{at} and {offset} of {lane:?} at once");
                let waits = at < offset && matches!(self.state(at), State::Pending { .. }) && hand != Some(Hand::Acked);
                let redriven_later = self.redriven.get(&at).is_some_and(|redriven_at| *redriven_at > taken_at);
                // What is redriven comes before what waits, and so before what a seek has met again.
                let met_again = redriven && at >= self.sought;
                let excused = redriven_later || met_again || other.leaving;
                assert!(!waits || excused, "{offset} of {lane:?} begins before {at}");
            }
        }
        self.taken.get_mut(&offset).unwrap().hand = Hand::Calling;
    }

    pub(in crate::dispatch::model) fn acked(&mut self, offset: Offset) {
        self.taken.get_mut(&offset).unwrap().hand = Hand::Acked;
    }

    /// It has to run again.
    pub(in crate::dispatch::model) fn conflicted(&mut self, offset: Offset) {
        *self.conflicts.entry(offset).or_default() += 1;
        self.returned(offset);
    }

    /// It was given back.
    pub(in crate::dispatch::model) fn returned(&mut self, offset: Offset) {
        assert!(self.taken.remove(&offset).is_some(), "{offset} was not taken");
    }

    /// It was over before its call.
    pub(in crate::dispatch::model) fn expired(&mut self, entry: Entry, offset: Offset, now_ms: Millis) {
        self.returned(offset);
        let State::Pending { attempted, redriven, .. } = self.state(offset) else { panic!("{offset} is over") };
        let expires_ms = self.messages[offset as usize].message.event.expires_ms();
        assert!(!redriven && expires_ms.is_some_and(|ms| ms <= now_ms), "{offset} is not over at {now_ms}");
        if attempted {
            self.dies(entry, offset, State::Dead { parks: None });
        } else {
            self.set(entry, offset, State::Expired);
        }
    }

    /// What a policy holds back that kills a message.
    fn parks(policy: &Policy, lane: Option<KeyHash>) -> Option<Parks> {
        match policy.retry.on_exhausted {
            OnExhausted::DeadLetter => None,
            OnExhausted::ParkKey => lane.map(Parks::Key),
            OnExhausted::Park => Some(Parks::Subscription),
        }
    }

    /// A call was recorded. What must follow from it is worked out here once more.
    pub(in crate::dispatch::model) fn recorded(
        &mut self,
        entry: Entry,
        call: &Finished,
        rolled_back: bool,
        terms: &Terms<'_>,
    ) {
        let (offset, decision) = (call.item.message.offset, call.decision.unwrap());
        self.steps += 1;
        self.returned(offset);
        let before = self.state(offset);
        let State::Pending { charged, reruns, redriven, leads, was, .. } = before else { panic!("{offset} is over") };
        let version = call.digest.0[0];
        let charged = charged.after(version);
        let dead = State::Dead { parks: Self::parks(terms.policy, call.item.lane) };
        if call.outcome == Outcome::Acked {
            assert_eq!(decision, Decision::Acked);
            return self.set(entry, offset, State::Acked);
        }
        let (fails, after) = match &call.outcome {
            Outcome::Unavailable { after, .. } => (false, *after),
            Outcome::TopicFull { .. } => (false, None),
            Outcome::Retry { after, .. } => (true, *after),
            _ => (true, None),
        };
        let not_before_ms = after.map_or(terms.now_ms, |after| terms.now_ms + millis(after));
        let held = |charges: bool, not_before_ms: Millis| {
            let Decision::Held { due_ms, charged } = decision else { panic!("{offset} is {decision:?}") };
            assert_eq!(charged, charges, "{offset} after {:?}", call.outcome);
            assert!(due_ms >= not_before_ms, "{offset} is due at {due_ms}, and asked for {not_before_ms}");
        };
        // Of conflicts this knows no less than the dispatcher, which forgets some; of failures as many.
        let conflicts = self.conflicts.get(&offset).copied().unwrap_or(0);
        let may_be_free = reruns < terms.uncharged_reruns_max;
        let must_be_free = reruns + conflicts < terms.uncharged_reruns_max;
        let is_free = matches!(decision, Decision::Held { charged: false, .. });
        let excused = rolled_back || (!terms.breaker_closed && call.outcome.is_failure());
        if fails && excused && (must_be_free || (may_be_free && is_free)) {
            let not_before_ms = if rolled_back { terms.now_ms } else { not_before_ms };
            held(false, not_before_ms);
            let reruns = reruns + 1;
            let state = State::Pending { charged, reruns, not_before_ms, attempted: true, redriven, leads, was };
            return self.set(entry, offset, state);
        }
        if let Outcome::Reject { .. } = call.outcome {
            assert_eq!(decision, Decision::Dead { reason: DeadReason::Rejected });
            return self.dies(entry, offset, dead);
        }
        if fails && charged.count as u32 + 1 >= terms.policy.retry.max_attempts {
            assert_eq!(
                decision,
                Decision::Dead { reason: DeadReason::AttemptsExhausted },
                "{offset} after {charged:?}"
            );
            return self.dies(entry, offset, dead);
        }
        held(fails, not_before_ms);
        let charged = if fails { charged.with(version) } else { charged };
        self.set(
            entry,
            offset,
            State::Pending { charged, reruns, not_before_ms, attempted: true, redriven, leads, was },
        );
    }

    fn dies(&mut self, entry: Entry, offset: Offset, dead: State) {
        self.died.insert(offset, self.steps);
        self.tells(entry, offset);
        self.set(entry, offset, dead);
    }
}
