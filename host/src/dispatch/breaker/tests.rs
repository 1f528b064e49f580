use proptest::prelude::*;

use super::*;

const CONCURRENCY: u32 = 8;

fn policy(failures: u32) -> BreakerPolicy {
    BreakerPolicy { failures, pause: Duration::from_millis(100), pause_max: Duration::from_millis(500) }
}

fn breaker(failures: u32) -> Breaker {
    Breaker::new(Some(policy(failures)))
}

fn failure(offset: Offset, key: Option<u64>) -> Failure {
    let source = key.map_or(Source::Message(offset), |key| Source::Key(KeyHash(key)));
    let outcome = OutcomeKind::Trapped;
    Failure {
        offset,
        source,
        charged: true,
        died: false,
        failing_since_ms: 0,
        outcome,
        text: format!("{offset} failed\nmore"),
    }
}

/// One that is open, since time 0.
fn opened() -> Breaker {
    let mut breaker = breaker(2);
    assert_eq!(breaker.failed(failure(1, None), 0), None);
    breaker.failed(failure(2, None), 0).expect("two messages failed");
    breaker
}

#[test]
fn different_messages_that_fail_in_a_row_open_it_and_their_attempts_are_handed_out() {
    let mut breaker = breaker(3);
    assert_eq!(breaker.failed(failure(1, None), 0), None);
    assert_eq!(breaker.failed(failure(1, None), 0), None, "the same message once more");
    assert_eq!(breaker.failed(failure(5, Some(9)), 0), None);
    assert_eq!(breaker.failed(Failure { died: true, ..failure(6, Some(9)) }, 0), None, "the same key once more");
    let unavailable = Failure { charged: false, ..failure(7, None) };
    let streak = breaker.failed(unavailable, 40).expect("three sources failed in a row");
    assert_eq!(streak.charged, BTreeMap::from([(1, 2), (5, 1), (6, 1)]));
    assert_eq!(streak.dead, BTreeSet::from([6]));
    assert_eq!((breaker.open_until_ms(), breaker.allowance()), (Some(140), 0));
    let view = breaker.view().unwrap();
    assert_eq!((view.state, view.opened, view.until_ms), ("open", 1, Some(140)));
    assert_eq!(view.last_failures.last().unwrap().text, "7 failed");
}

#[test]
fn a_success_ends_the_row() {
    let mut breaker = breaker(2);
    assert_eq!(breaker.failed(failure(1, None), 0), None);
    breaker.succeeded(3, CONCURRENCY, 1);
    assert_eq!(breaker.failed(failure(2, None), 0), None);
    let streak = breaker.failed(failure(4, None), 0).expect("two in a row");
    assert_eq!(streak.charged, BTreeMap::from([(2, 1), (4, 1)]));
}

#[test]
fn messages_that_failed_while_others_succeeded_do_not_count() {
    let mut breaker = breaker(2);
    breaker.succeeded(9, CONCURRENCY, 70);
    let old = |offset| Failure { failing_since_ms: 60, ..failure(offset, None) };
    assert!((0..100).all(|offset| breaker.failed(old(offset), 80).is_none()), "they would have failed all the same");
    let since = |offset| Failure { failing_since_ms: 75, ..failure(offset, None) };
    assert_eq!(breaker.failed(since(101), 90), None);
    let streak = breaker.failed(since(102), 90).expect("two failed first since the last success");
    assert_eq!(streak.charged.len(), 102, "all that failed in the row is taken back");
}

#[test]
fn it_closes_by_degrees() {
    let mut breaker = opened();
    breaker.tick(99);
    assert_eq!(breaker.allowance(), 0);
    breaker.tick(100);
    let mut next = 10;
    let mut allowed = Vec::new();
    while !breaker.is_closed() {
        let probes: Vec<Offset> = (next..).take(breaker.allowance()).collect();
        allowed.push(probes.len());
        next += probes.len() as u64;
        probes.iter().for_each(|probe| breaker.begins(*probe));
        assert_eq!(breaker.allowance(), 0, "no more at once");
        breaker.succeeded(probes[0], CONCURRENCY, 100);
        probes[1..].iter().for_each(|probe| breaker.says_nothing(*probe));
    }
    assert_eq!(allowed, [1, 2, 4]);
    assert_eq!(breaker.allowance(), usize::MAX);
    assert_eq!(breaker.failed(failure(1, None), 500), None, "it begins anew");
}

#[test]
fn each_failed_probe_makes_the_pause_longer_up_to_a_bound() {
    let mut breaker = opened();
    let mut pauses = Vec::new();
    let mut now_ms = 0;
    for probe in 10..15 {
        let until_ms = breaker.open_until_ms().expect("it is open");
        pauses.push(until_ms - now_ms);
        now_ms = until_ms;
        breaker.tick(now_ms);
        breaker.begins(probe);
        assert_eq!(breaker.avoids(), Some(probe));
        assert_eq!(breaker.failed(failure(probe, None), now_ms), None, "nothing is charged, so nothing is refunded");
    }
    assert_eq!(pauses, [100, 200, 400, 500, 500]);
    assert_eq!(breaker.view().unwrap().opened, 1);
}

#[test]
fn calls_that_began_before_it_opened_change_nothing() {
    let mut breaker = opened();
    breaker.succeeded(7, CONCURRENCY, 1);
    assert_eq!(breaker.failed(failure(8, None), 50), None);
    assert_eq!(breaker.open_until_ms(), Some(100));
    breaker.tick(100);
    breaker.begins(9);
    breaker.succeeded(7, CONCURRENCY, 1);
    assert_eq!(breaker.failed(failure(8, None), 110), None);
    assert_eq!(breaker.allowance(), 0, "the probe still runs");
    breaker.succeeded(9, CONCURRENCY, 1);
    assert_eq!(breaker.allowance(), 2);
}

#[test]
fn a_probe_that_says_nothing_makes_room_for_another() {
    let mut breaker = opened();
    breaker.tick(100);
    breaker.begins(3);
    breaker.says_nothing(3);
    assert_eq!((breaker.allowance(), breaker.avoids()), (1, Some(3)));
}

#[test]
fn what_leaves_the_dead_letters_is_forgotten() {
    let mut breaker = breaker(2);
    breaker.failed(Failure { died: true, ..failure(1, None) }, 0);
    breaker.forget(1);
    let streak = breaker.failed(failure(2, None), 0).expect("it failed in the row all the same");
    assert_eq!((streak.charged, streak.dead), (BTreeMap::from([(2, 1)]), BTreeSet::new()));
}

#[test]
fn switched_off_it_never_opens() {
    let mut breaker = opened();
    breaker.configure(None);
    assert!(breaker.is_closed() && breaker.view().is_none());
    assert!((0..5_000).all(|offset| breaker.failed(failure(offset, None), 0).is_none()));
}

#[test]
fn one_poison_key_costs_little_memory() {
    let mut breaker = breaker(2);
    for offset in 0..3 * BREAKER_STREAK_MESSAGES_MAX as u64 {
        assert_eq!(breaker.failed(Failure { died: true, ..failure(offset, Some(1)) }, 0), None);
    }
    assert!(breaker.streak.charged.len() <= BREAKER_STREAK_MESSAGES_MAX);
    assert!(breaker.streak.dead.len() <= BREAKER_STREAK_MESSAGES_MAX);
    assert!(breaker.view().unwrap().last_failures.len() <= BREAKER_EVIDENCE_MAX);
}

proptest! {
    /// A closed one against the list of all that happened: it opens when, and only when, enough different
    /// keys (or messages without one) failed since the last success, and hands out exactly what was charged.
    #[test]
    fn it_opens_as_a_list_of_calls_says(
        failures in 2..5u32,
        calls in prop::collection::vec((0..12u64, prop::option::of(0..4u64), 0..8u8, any::<bool>()), 1..80),
    ) {
        let mut breaker = breaker(failures);
        let mut row: Vec<Failure> = Vec::new();
        for (offset, key, kind, charged) in calls {
            match kind {
                0 => {
                    breaker.succeeded(offset, CONCURRENCY, 1);
                    row.clear();
                }
                1 => breaker.says_nothing(offset),
                _ => {
                    let failure = Failure { charged, ..failure(offset, key) };
                    row.push(failure.clone());
                    let sources: BTreeSet<Source> = row.iter().map(|failure| failure.source).collect();
                    let opens = sources.len() >= failures as usize;
                    let streak = breaker.failed(failure, 0);
                    prop_assert_eq!(streak.is_some(), opens);
                    if let Some(streak) = streak {
                        let mut charged: BTreeMap<Offset, u32> = BTreeMap::new();
                        for failure in row.iter().filter(|failure| failure.charged) {
                            *charged.entry(failure.offset).or_default() += 1;
                        }
                        prop_assert_eq!(streak.charged, charged);
                        return Ok(());
                    }
                }
            }
            prop_assert!(breaker.is_closed());
        }
    }

    #[test]
    fn one_poison_message_or_key_never_opens_it(key in prop::option::of(any::<u64>()), offsets in prop::collection::vec(0..50u64, 1..200)) {
        let mut breaker = breaker(2);
        for offset in offsets {
            let offset = if key.is_some() { offset } else { 7 };
            prop_assert_eq!(breaker.failed(failure(offset, key), 0), None);
        }
    }
}
