//! Webhooks in, notes of them out, under both manifests.

use sandpost_sdk::prelude::*;
use sandpost_sdk::testing::{TestBus, json_message};
use serde_json::json;
use webhook_log::{Seen, handle};

#[test]
fn a_webhook_is_noted_under_its_key() {
    for (manifest, topic) in
        [(include_str!("../github-all.toml"), "seen.all"), (include_str!("../github-issues.toml"), "seen.issues")]
    {
        let mut bus = TestBus::with_manifest(manifest);
        let payload = json!({ "action": "opened", "sender": { "login": "Codertocat", "id": 21_031_067 } });
        let message = Message {
            id: "117".into(),
            key: Some("Codertocat/Hello-World".into()),
            ..json_message("github.issues.opened", &payload)
        };
        let run = bus.deliver(handle, &message);
        assert_eq!(run.outcome, Ok(()));
        let expected = Seen {
            id: "117".into(),
            topic: "github.issues.opened".into(),
            sequence: 1,
            key: message.key.clone(),
            sender: Some("Codertocat".into()),
        };
        assert_eq!(run.published_json::<Seen>(topic), [expected]);
        assert_eq!(run.published[0].key, message.key);
    }
}

#[test]
fn a_webhook_that_nobody_sent_is_noted_too() {
    let mut bus = TestBus::with_manifest(include_str!("../github-all.toml"));
    let run =
        bus.deliver(handle, &json_message("github.security_advisory.published", &json!({ "action": "published" })));
    let seen = run.published_json::<Seen>("seen.all");
    assert_eq!((seen.len(), &seen[0].sender, &seen[0].key), (1, &None, &None));
}
