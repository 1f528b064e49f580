use proptest::prelude::*;

use super::*;

fn version(digest: u8, text: &str) -> Version {
    Version { digest: Digest([digest; 32]), text: text.into() }
}

/// Versions that came from the folder one after the other, each without a probation.
fn after(versions: &[(u8, &str)]) -> PluginRecord {
    let mut record: Option<PluginRecord> = None;
    for (at, (digest, text)) in versions.iter().enumerate() {
        let now_ms = at as u64 + 1;
        record = Some(deployed(record.as_ref(), &version(*digest, text), now_ms, Cause::Folder, false, None));
    }
    record.expect("there was one")
}

fn back(record: &PluginRecord, to: Option<&str>) -> PluginRecord {
    let number = target(record, to).unwrap();
    gone_back(record, number, 100, Cause::Operator, None, "why".into()).unwrap()
}

fn trial(before: &PluginRecord, digest: u8) -> PluginRecord {
    deployed(Some(before), &version(digest, "m"), 50, Cause::Folder, true, None)
}

#[test]
fn the_first_version_of_a_consumer_has_no_probation() {
    let first = deployed(None, &version(1, "m"), 5, Cause::Start, true, None);
    assert_eq!((first.back_to, first.deployed), (None, [0, 1, 0, 0]));
    assert_eq!(target(&first, None), Err(TargetError::Nothing));
    let second = trial(&first, 2);
    assert_eq!(second.back_to, Some(1));
}

#[test]
fn a_rollback_is_recorded_as_one_with_its_mark_and_its_refund() {
    let second = trial(&after(&[(1, "m")]), 2);
    let standing = Standing { messages: 31, failures: 6, last: ["trapped: a".to_owned(), "b".to_owned()].into() };
    let record = gone_back(&second, 1, 60, Cause::Probation, Some(&standing), "6 of 31".into()).unwrap();
    assert_eq!((record.digest, record.manifest.as_str(), record.deployed_ms), (Digest([1; 32]), "m", 60));
    assert_eq!(record.refunds, [DueRefund { digest: Digest([2; 32]), since_ms: 50 }]);
    let [mark] = record.rolled_back.as_slice() else { panic!("{record:?}") };
    assert_eq!((mark.digest, mark.by, mark.why.as_str()), (Digest([2; 32]), Cause::Probation, "6 of 31"));
    assert_eq!(record.back_to, None);
    let told: Vec<_> = record.history.iter().map(|one| (one.number, one.cause)).collect();
    assert_eq!(told, [(1, Cause::Folder), (2, Cause::Folder), (3, Cause::Probation)]);
    let end = record.history[1].probation.as_ref().unwrap();
    assert_eq!((end.how, end.messages, end.failures), (ProbationEnded::Failed, 31, 6));
    assert_eq!(end.last, "trapped: a; b");
}

#[test]
fn what_is_on_probation_is_nothing_to_go_back_to() {
    let third = trial(&trial(&after(&[(1, "m")]), 2), 3);
    assert_eq!(third.back_to, Some(1));
    assert_eq!(third.history[1].probation.as_ref().unwrap().how, ProbationEnded::Replaced);
    // The one that was proven comes back by itself: it has nothing to prove.
    let again = deployed(Some(&third), &version(1, "m"), 70, Cause::Folder, true, None);
    assert_eq!(again.back_to, None);
}

#[test]
fn rollbacks_go_further_back_each_time_and_never_to_what_was_rolled_back() {
    let third = after(&[(1, "m"), (2, "m"), (3, "m")]);
    let second = back(&third, None);
    assert_eq!(second.digest, Digest([2; 32]));
    let first = back(&second, None);
    assert_eq!(first.digest, Digest([1; 32]));
    assert_eq!(target(&first, None), Err(TargetError::Nothing));
    // By name it can be had all the same, and then its mark is gone.
    let third = back(&first, Some("0303"));
    assert_eq!(third.digest, Digest([3; 32]));
    assert!(third.rolled_back.iter().all(|mark| mark.digest != Digest([3; 32])), "{third:?}");
}

#[test]
fn a_target_is_named_by_the_beginning_of_its_digest() {
    let record = after(&[(0x11, "m"), (0x12, "m"), (0x13, "m"), (0x13, "n")]);
    let error = |to| target(&record, Some(to)).unwrap_err();
    assert!(matches!(error("1"), TargetError::Ambiguous { found, .. } if found.len() == 3));
    assert!(matches!(error("99"), TargetError::NotKept { kept, .. } if kept.len() == 3));
    assert_eq!(target(&record, Some("1111")), Ok(1));
    // The same component under the manifest before.
    assert_eq!(target(&record, Some("13")), Ok(3));
    let one = after(&[(0x13, "m")]);
    assert!(matches!(target(&one, Some("13")), Err(TargetError::Runs { .. })));
}

#[test]
fn a_component_that_was_rolled_back_is_marked_under_every_manifest() {
    let record = back(&after(&[(1, "m"), (2, "m")]), None);
    for (digest, text, marked) in [(2, "m", true), (2, "other", true), (1, "other", false), (3, "m", false)] {
        assert_eq!(mark(&record, &version(digest, text)).is_some(), marked, "{digest} {text}");
    }
    assert_eq!(mark(&permitted(&record, Digest([2; 32])), &version(2, "m")), None);
    // Where only the manifest was rolled back, another one may be tried.
    let record = back(&after(&[(1, "good"), (1, "bad")]), None);
    assert_eq!(record.manifest, "good");
    assert!(mark(&record, &version(1, "bad")).is_some());
    assert!(mark(&record, &version(1, "better")).is_none());
}

#[derive(Clone, Debug)]
enum Change {
    Deploy(u8, bool),
    Prove,
    Fail,
    Back(Option<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0..12u8, any::<bool>()).prop_map(|(digest, probation)| Change::Deploy(digest, probation)),
        1 => Just(Change::Prove),
        1 => Just(Change::Fail),
        1 => prop::option::of(0..12u8).prop_map(Change::Back),
    ]
}

proptest! {
    #[test]
    fn a_record_stays_bounded_and_can_always_go_back_while_on_probation(
        changes in prop::collection::vec(change(), 1..150),
    ) {
        let mut record = after(&[(200, "m")]);
        for (at, change) in changes.into_iter().enumerate() {
            let now_ms = at as u64 + 10;
            let before = record.clone();
            match change {
                Change::Deploy(digest, probation) => {
                    let version = version(digest, "m");
                    if before.digest != version.digest && mark(&before, &version).is_none() {
                        record = deployed(Some(&before), &version, now_ms, Cause::Folder, probation, None);
                        prop_assert!(!probation || record.back_to.is_some() || before.back_to.is_some());
                    }
                }
                Change::Prove if before.back_to.is_some() => record = proven(&before, &Standing::default()),
                Change::Fail => if let Some(number) = before.back_to {
                    let back = gone_back(&before, number, now_ms, Cause::Probation, None, String::new());
                    record = back.expect("what to go back to is kept");
                    prop_assert!(mark(&record, &version(before.digest.0[0], "m")).is_some());
                },
                Change::Prove => {}
                Change::Back(to) => {
                    let to = to.map(|digest| Digest([digest; 32]).to_string());
                    if let Ok(number) = target(&before, to.as_deref()) {
                        let back = gone_back(&before, number, now_ms, Cause::Operator, None, String::new());
                        record = back.expect("a target is kept");
                        prop_assert!(record.digest != before.digest);
                    }
                }
            }
            let last = record.history.last().expect("what runs is in it");
            prop_assert_eq!((last.digest, last.manifest.as_deref()), (record.digest, Some(record.manifest.as_str())));
            prop_assert_eq!(last.number, record.deployed.iter().sum::<u64>());
            prop_assert!(record.history.len() <= DEPLOYMENTS_TOLD_MAX + 1);
            prop_assert!(kept(&record).collect::<BTreeSet<_>>().len() <= VERSIONS_KEPT_MAX + 1);
            prop_assert!(record.rolled_back.len() <= ROLLED_BACK_MAX);
            prop_assert!(record.rolled_back.iter().all(|mark| mark.digest != record.digest));
            if let Some(number) = record.back_to {
                let target = record.history.iter().find(|one| one.number == number).expect("it is there");
                prop_assert!(target.manifest.is_some() && target.digest != record.digest);
                prop_assert!(kept(&record).any(|digest| digest == target.digest));
            }
        }
    }
}
