//! The rate of a subscription: how many calls may begin in a time.
//!
//! A bucket of tokens, kept as one number: until when those that were taken are paid for. Time is counted
//! in parts so small that a token is a whole number of them, so nothing is lost by rounding.

use crate::message::Millis;
use crate::policy::Rate;

pub(super) struct Bucket {
    rate: Rate,
    /// What was taken is paid for until then, in parts.
    paid_until: u128,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, paid_until: 0 }
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// Tokens that may be taken now.
    pub(super) fn tokens(&self, now_ms: Millis) -> usize {
        let free = self.parts(now_ms) + self.burst_parts() - self.paid(now_ms);
        usize::try_from(free / self.token_parts()).unwrap_or(usize::MAX)
    }

    /// When there is a token again.
    pub(super) fn next_ms(&self, now_ms: Millis) -> Millis {
        let from = (self.paid(now_ms) + self.token_parts()).saturating_sub(self.burst_parts());
        u64::try_from(from.div_ceil(u128::from(self.rate.count))).unwrap_or(u64::MAX)
    }

    pub(super) fn take(&mut self, tokens: usize, now_ms: Millis) {
        self.paid_until = self.paid(now_ms) + self.token_parts() * tokens as u128;
    }

    /// What was taken was not used.
    pub(super) fn give_back(&mut self, tokens: usize) {
        self.paid_until = self.paid_until.saturating_sub(self.token_parts() * tokens as u128);
    }

    /// Until when is paid, as it counts now. A clock that was set back must not stop everything until it has
    /// caught up, so no more than a full bucket is ever owed.
    fn paid(&self, now_ms: Millis) -> u128 {
        let now = self.parts(now_ms);
        self.paid_until.clamp(now, now + self.burst_parts())
    }

    fn parts(&self, ms: Millis) -> u128 {
        u128::from(ms) * u128::from(self.rate.count)
    }

    fn token_parts(&self) -> u128 {
        self.rate.per.as_millis()
    }

    fn burst_parts(&self) -> u128 {
        self.token_parts() * u128::from(self.rate.burst())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn rate(count: u32, per_s: u64) -> Rate {
        Rate { count, per: Duration::from_secs(per_s) }
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_one_at_a_time() {
        let mut bucket = Bucket::new(rate(50, 1));
        assert_eq!(bucket.tokens(1_000), 5);
        bucket.take(5, 1_000);
        assert_eq!((bucket.tokens(1_000), bucket.next_ms(1_000)), (0, 1_020));
        assert_eq!((bucket.tokens(1_019), bucket.tokens(1_020)), (0, 1));
        assert_eq!(bucket.tokens(1_100), 5, "no more than its burst is saved up");
    }

    #[test]
    fn a_slow_rate_gives_one_at_a_time() {
        let mut bucket = Bucket::new(rate(7, 3_600));
        assert_eq!(bucket.tokens(0), 1);
        bucket.take(1, 0);
        let next_ms = bucket.next_ms(0);
        assert_eq!(next_ms, 514_286, "a seventh of an hour, rounded up");
        assert_eq!((bucket.tokens(next_ms - 1), bucket.tokens(next_ms)), (0, 1));
    }

    #[test]
    fn what_was_not_used_is_there_again() {
        let mut bucket = Bucket::new(rate(10, 1));
        bucket.take(1, 1_000);
        assert_eq!(bucket.tokens(1_000), 0);
        bucket.give_back(1);
        assert_eq!(bucket.tokens(1_000), 1);
        bucket.give_back(1);
        assert_eq!(bucket.tokens(1_000), 1, "a bucket does not overflow");
    }

    #[test]
    fn a_clock_that_is_set_back_stops_nothing_for_long() {
        let mut bucket = Bucket::new(rate(10, 1));
        bucket.take(1, 1_000_000);
        assert!(bucket.next_ms(5) <= 5 + 100, "{}", bucket.next_ms(5));
    }

    proptest! {
        /// Whoever takes all that there is, whenever there is some, takes as many as the rate says.
        #[test]
        fn no_more_begin_than_the_rate_and_its_burst(
            count in 1..5_000u32, per_s in prop::sample::select(vec![1u64, 60, 3_600]), steps in prop::collection::vec(0..5_000u64, 1..60),
        ) {
            let rate = rate(count, per_s);
            let mut bucket = Bucket::new(rate);
            let (mut now_ms, mut taken) = (1_000_000, 0);
            for step in steps {
                now_ms += step;
                let tokens = bucket.tokens(now_ms);
                bucket.take(tokens, now_ms);
                taken += tokens as u64;
                prop_assert_eq!(bucket.tokens(now_ms), 0);
                let next_ms = bucket.next_ms(now_ms);
                prop_assert!(next_ms > now_ms);
                prop_assert!(bucket.tokens(next_ms) >= 1 && bucket.tokens(next_ms - 1) == 0);
            }
            let allowed = u64::from(count) * (now_ms - 1_000_000) / (per_s * 1_000) + u64::from(rate.burst());
            prop_assert!(taken <= allowed, "{} of {}", taken, allowed);
        }
    }
}
