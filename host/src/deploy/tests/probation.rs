//! New versions that have to prove themselves, and what brings the old ones back.

use crate::dispatch::{Finished, Item, Origin};
use crate::message::{Event as Published, Message};
use crate::outcome::{DeadReason, Digest, Outcome};
use crate::settle::Decision;
use crate::topic::TopicName;

use super::*;

/// Proven after three messages, of which one may fail.
const STRICT: &str =
    "[[subscription]]\ntopics = [\"order.placed\"]\n[deploy]\nprobation = { messages = 3, max_failures = 1 }\n";

impl Bus {
    /// A call of what runs ends.
    fn ends(&self, stem: &str, outcome: Outcome) {
        let (witness, digest) = {
            let state = self.lock();
            let witness = state.witnesses[stem].clone().unwrap_or_else(|| panic!("`{stem}` is not watched"));
            (witness, digest_of(state.running[stem].as_bytes()))
        };
        let decision = match outcome {
            Outcome::Acked => Decision::Acked,
            _ => Decision::Dead { reason: DeadReason::Rejected },
        };
        witness.ended(&finished(digest, outcome, decision));
    }

    fn is_watched(&self, stem: &str) -> bool {
        self.lock().witnesses[stem].is_some()
    }
}

fn finished(digest: Digest, outcome: Outcome, decision: Decision) -> Finished {
    let event = Published {
        topic: TopicName::any("order.placed").unwrap(),
        id: "1".to_owned(),
        source: "/tests".to_owned(),
        kind: "test".to_owned(),
        subject: None,
        key: None,
        content_type: None,
        attributes: Vec::new(),
        data: bytes::Bytes::new(),
        hops: 0,
        named: false,
        deliver_at_ms: None,
    };
    let message = Message { offset: 1, sequence: 1, topic_id: crate::message::TopicId(1), accepted_ms: 1, event };
    let item = Item { message: Arc::new(message), lane: None, origin: Origin::Window { covers_from: 1 }, conflicts: 0 };
    let duration = Duration::from_millis(1);
    Finished { item, outcome, began_ms: 1, duration, digest, forced: None, of_host: false, decision: Some(decision) }
}

fn bad() -> Outcome {
    Outcome::Reject { reason: "all wrong\nwith details".to_owned() }
}

/// A consumer that ran `one`, and runs `two` on probation.
fn on_probation(bench: &Bench) -> Deployments {
    let deployments = bench.start();
    // What lies there at the first look is deployed by the start, and not by the folder.
    wait_for(&deployments, "looked", |_| deployments.has_looked());
    bench.put("email.toml", STRICT);
    bench.put("email.wasm", "one");
    wait_running(&deployments, "email", "one");
    assert!(!bench.bus.is_watched("email"), "the first version has nothing to go back to");
    bench.put("email.wasm", "two");
    wait_running(&deployments, "email", "two");
    deployments
}

fn probation(deployments: &Deployments) -> (u64, u64) {
    let view = deployments.views().remove(0);
    let probation = view.probation.as_ref().unwrap_or_else(|| panic!("it is on probation: {view:#?}"));
    assert_eq!((probation.messages_max, probation.max_failures), (3, 1));
    assert_eq!(probation.back_to, digest_of(b"one").to_string());
    (probation.messages, probation.failures)
}

/// Waits until `one` is back, and answers the problem of the files that lie in the folder.
#[track_caller]
fn wait_rolled_back(deployments: &Deployments) -> String {
    let view = wait_problem(deployments, "email", "was rolled back");
    assert_eq!((view.status, view.digest), ("running", Some(digest_of(b"one").to_string())));
    view.problem.unwrap()
}

#[test]
fn a_bad_version_is_rolled_back_and_not_deployed_again_though_its_files_lie_there() {
    let bench = Bench::new();
    let deployments = on_probation(&bench);
    bench.bus.ends("email", bad());
    bench.bus.ends("email", Outcome::Acked);
    assert_eq!(probation(&deployments), (2, 1));
    bench.bus.ends("email", bad());
    let problem = wait_rolled_back(&deployments);
    assert!(problem.contains("2 of 3 messages failed on probation; the last: reject: all wrong; "), "{problem}");
    assert_eq!(bench.bus.history(), ["email=one", "email=two", "email=one"]);
    let record = bench.bus.lock().records["email"].clone();
    assert_eq!(bench.bus.lock().refunded, [("email".to_owned(), DueRefund { digest: digest_of(b"two"), since_ms: 1 })]);
    assert_eq!((record.refunds, record.back_to), (vec![], None));
    assert!(!bench.bus.is_watched("email"), "it was proven before");

    // Not by itself, whatever wakes the worker, and not over a restart.
    bench.put("email.wasm", "two");
    bench.put_pair("stock", "one");
    wait_running(&deployments, "stock", "one");
    deployments.stop();
    let deployments = bench.start();
    wait_rolled_back(&deployments);
    wait_for(&deployments, "looked", |_| deployments.has_looked());
    assert_eq!(bench.bus.lock().running["email"], "one");

    let told: Vec<_> = deployments.history("email").unwrap();
    let short: Vec<_> =
        told.iter().map(|one| (one.number, one.deployed_by, one.probation.as_ref().map(|p| p.status))).collect();
    assert_eq!(short, [(3, "probation", None), (2, "folder", Some("failed")), (1, "folder", None)]);
    assert_eq!(told[1].probation.as_ref().unwrap().last_failures, "reject: all wrong; reject: all wrong");
    assert_eq!(
        (told[0].changed.as_slice(), told[2].changed.as_slice()),
        (&["component"][..], &["component", "manifest"][..])
    );
    // A version that is new takes its turn.
    bench.put("email.wasm", "three");
    wait_running(&deployments, "email", "three");
    assert_eq!(probation(&deployments), (0, 0));
}

#[test]
fn a_good_version_is_proven_for_good() {
    let bench = Bench::new();
    let deployments = on_probation(&bench);
    for outcome in [Outcome::Acked, bad(), Outcome::Acked] {
        bench.bus.ends("email", outcome);
    }
    wait_for(&deployments, "proved it", |views| views[0].probation.is_none());
    assert_eq!(bench.bus.lock().records["email"].back_to, None);
    let first = deployments.history("email").unwrap().remove(0).probation.unwrap();
    assert_eq!((first.status, first.messages, first.failures), ("proven", 3, 1));
    // Its calls are of no interest any more.
    for _ in 0..5 {
        bench.bus.ends("email", bad());
    }
    deployments.stop();
    let deployments = bench.start();
    wait_running(&deployments, "email", "two");
    assert!(!bench.bus.is_watched("email"));
    assert_eq!(bench.bus.history(), ["email=one", "email=two", "email=two"]);
}

#[test]
fn a_version_on_probation_is_on_probation_after_a_restart_and_can_still_fail() {
    let bench = Bench::new();
    let deployments = on_probation(&bench);
    bench.bus.ends("email", bad());
    deployments.stop();
    let deployments = bench.start();
    assert_eq!(probation(&deployments), (0, 0), "it is counted anew");
    bench.bus.ends("email", bad());
    bench.bus.ends("email", bad());
    wait_rolled_back(&deployments);
    assert_eq!(bench.bus.history(), ["email=one", "email=two", "email=two", "email=one"]);
}

#[test]
fn a_refund_that_a_crash_left_undone_is_done_at_the_next_start() {
    let bench = Bench::new();
    let deployments = on_probation(&bench);
    deployments.stop();
    // As a crash between the rollback and its refund leaves it.
    let before = bench.bus.lock().records["email"].clone();
    let record = record::gone_back(&before, 1, 9, crate::log::Cause::Probation, None, "bad".to_owned()).unwrap();
    let due = record.refunds[0];
    bench.bus.lock().records.insert("email".to_owned(), record);
    let deployments = bench.start();
    wait_rolled_back(&deployments);
    assert_eq!(bench.bus.lock().refunded, [("email".to_owned(), due)]);
    assert_eq!(bench.bus.lock().records["email"].refunds, []);
}

#[test]
fn a_rollback_does_not_wait_for_a_compiler() {
    let bench = Bench::new();
    let deployments = on_probation(&bench);
    bench.put_pair("stock", "slow");
    bench.loader.wait_for_someone_at_the_gate();
    bench.bus.ends("email", bad());
    bench.bus.ends("email", bad());
    let began = Instant::now();
    while bench.bus.lock().running["email"] != "one" {
        assert!(began.elapsed() < PATIENCE, "it is rolled back while another component compiles");
        thread::yield_now();
    }
    let stock = |view: &PluginView| (view.status, view.compiling.clone());
    let views = deployments.views();
    let slow = views.iter().find(|view| view.name == "stock").map(stock);
    assert_eq!(slow, Some(("compiling", Some(digest_of(b"slow").to_string()))));
    bench.loader.open_gate();
    wait_running(&deployments, "stock", "slow");
    assert!(deployments.views().iter().all(|view| view.compiling.is_none()));
    wait_rolled_back(&deployments);
}

#[test]
fn a_changed_pair_that_is_being_compiled_is_shown_beside_what_runs() {
    let bench = Bench::new();
    let deployments = bench.start();
    bench.put_pair("email", "one");
    wait_running(&deployments, "email", "one");
    bench.put("email.wasm", "slow two");
    bench.loader.wait_for_someone_at_the_gate();
    let view = deployments.views().remove(0);
    let (one, two) = (digest_of(b"one").to_string(), digest_of(b"slow two").to_string());
    assert_eq!((view.status, view.digest, view.compiling), ("running", Some(one), Some(two)));
    bench.loader.open_gate();
    wait_running(&deployments, "email", "slow two");
    assert_eq!(deployments.views()[0].compiling, None);
}

#[test]
fn a_verdict_that_cannot_be_carried_out_now_is_carried_out_later() {
    let mut bench = Bench::new();
    bench.rescan = Duration::from_millis(50);
    let deployments = on_probation(&bench);
    bench.bus.lock().refuse_next = Some(ActivateError::Unavailable { reason: "the disk is full".to_owned() });
    bench.bus.ends("email", bad());
    bench.bus.ends("email", bad());
    wait_rolled_back(&deployments);
    assert!(bench.bus.lock().refuse_next.is_none());
    assert_eq!(bench.bus.lock().records["email"].refunds, []);
}

#[test]
fn a_version_that_could_not_be_rolled_back_goes_on_and_says_so() {
    let bench = Bench::new();
    let deployments = on_probation(&bench);
    deployments.stop();
    fs::remove_file(bench.folders.path().join("data/components").join(copy_of("one"))).unwrap();
    let deployments = bench.start();
    let view = wait_problem(&deployments, "email", "it is on probation, and the version before it could not be loaded");
    assert_eq!((view.status, view.digest), ("running", Some(digest_of(b"two").to_string())));
    bench.bus.ends("email", bad());
    bench.bus.ends("email", bad());
    wait_problem(&deployments, "email", "2 of 2 messages failed on probation, and it could not be rolled back");
    assert_eq!(bench.bus.lock().running["email"], "two");
    bench.put_pair("email", "three");
    wait_running(&deployments, "email", "three");
}

#[test]
fn an_operator_goes_back_and_by_command_forward_again() {
    let bench = Bench::new();
    let deployments = bench.start();
    let (one, two) = (digest_of(b"one"), digest_of(b"two"));
    let gone_back = |to: Option<&str>| deployments.roll_back("email", to.map(str::to_owned));
    let refused = gone_back(None).unwrap_err();
    assert!(matches!(refused, CommandError::UnknownPlugin { .. }), "{refused}");
    bench.put_pair("email", "one");
    wait_running(&deployments, "email", "one");
    let refused = gone_back(None).unwrap_err();
    assert!(matches!(refused, CommandError::NoTarget { reason: TargetError::Nothing, .. }), "{refused}");
    let refused = gone_back(Some("zz")).unwrap_err();
    assert!(matches!(refused, CommandError::NoTarget { reason: TargetError::NotKept { .. }, .. }), "{refused}");
    bench.put("email.wasm", "two");
    wait_running(&deployments, "email", "two");

    let went = gone_back(None).unwrap();
    assert_eq!((went.from, went.to, went.refunded, went.excused), (two.to_string(), one.to_string(), 2, 1));
    // It is shown by the time that it is answered.
    let view = deployments.views().remove(0);
    assert_eq!((view.digest, view.deployed_by), (Some(one.to_string()), Some("operator")));
    let problem = wait_rolled_back(&deployments);
    assert!(problem.contains("was rolled back (by an operator)") && problem.contains("plugins deploy"), "{problem}");
    let refused = gone_back(None).unwrap_err();
    assert!(matches!(refused, CommandError::NoTarget { reason: TargetError::Nothing, .. }), "{refused}");

    assert!(matches!(deployments.permit("emial", two), Err(CommandError::UnknownPlugin { .. })));
    deployments.permit("email", two).unwrap();
    wait_running(&deployments, "email", "two");
    assert_eq!(deployments.views()[0].rolled_back, []);
    // The bytes of the one before are lost.
    fs::write(bench.folders.path().join("data/components").join(copy_of("one")), "onf").unwrap();
    let refused = gone_back(None).unwrap_err();
    assert!(matches!(&refused, CommandError::Unusable { problem, .. } if problem.contains("is damaged")), "{refused}");
    assert_eq!(bench.bus.lock().running["email"], "two");
    assert_eq!(bench.bus.history(), ["email=one", "email=two", "email=one", "email=two"]);
}

#[test]
fn a_manifest_that_is_rolled_back_leaves_its_component_free() {
    let bench = Bench::new();
    let deployments = bench.start();
    bench.put_pair("email", "one");
    wait_running(&deployments, "email", "one");
    bench.put("email.toml", &STRICT.replace("order.placed", "order.>"));
    wait_for(&deployments, "took the manifest", |views| views[0].probation.is_some());
    bench.bus.ends("email", bad());
    bench.bus.ends("email", bad());
    wait_rolled_back(&deployments);
    assert_eq!(bench.bus.lock().records["email"].manifest, MANIFEST);
    bench.put("email.toml", STRICT);
    wait_for(&deployments, "took another manifest", |views| views[0].problem.is_none() && views[0].probation.is_some());
    assert_eq!(bench.bus.lock().records["email"].manifest, STRICT);
}
