use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::Stdout;
use crate::topic::TopicName;

const COMPLETE: &str = r#"
[[subscription]]
topics = ["order.placed"]
from = "now"
order = "key"
concurrency = 8
timeout = "5s"
lag_warn = "5m"
isolation = "fresh"
[subscription.retry]
max_attempts = 6
backoff = { initial = "1s", factor = 2.0, max = "5m", jitter = 1.0 }
on_exhausted = "dead-letter"

[[subscription]]
name = "email-audit"
topics = ["payment.>", "*.placed"]
from = "order.placed@17"
order = "none"
rate = "600/m"
[subscription.breaker]
failures = 20
pause = "10m"
[subscription.retry.backoff]
initial = "10m"
jitter = 0

[limits]
memory = "128MiB"
[grants]
publish = ["email.sent"]
[config]
from = "shop@example.com"
retries = 3
ratio = 0.5
dry = false
since = 2026-01-31
"#;

fn read(text: &str) -> Result<Manifest, ManifestError> {
    parse("email", Path::new("plugins/email.toml"), text)
}

/// The one key `key = value` in a subscription that is otherwise complete.
fn with(key: &str, value: &str) -> Result<SubscriptionSpec, ManifestError> {
    read(&format!("[[subscription]]\ntopics = [\"a\"]\n{key} = {value}\n")).map(|mut read| read.subscriptions.remove(0))
}

#[test]
fn everything_that_a_manifest_may_say_is_read() {
    let manifest = read(COMPLETE).unwrap();
    let filter = |text| TopicFilter::parse(text).unwrap();
    let [email, audit] = manifest.subscriptions.as_slice() else { panic!("{manifest:?}") };
    assert_eq!(email.name, "email");
    assert_eq!(email.topics, [filter("order.placed")]);
    assert_eq!(email.policy, Policy { isolation: Isolation::Fresh, ..Policy::default() });
    assert_eq!(audit.name, "email-audit");
    assert_eq!(audit.topics, [filter("payment.>"), filter("*.placed")]);
    assert_eq!(audit.from, StartAt::Sequence(TopicName::any("order.placed").unwrap(), 17));
    assert_eq!(audit.policy.order, Order::None);
    let slow = Backoff { initial: Duration::from_secs(600), factor: 2.0, max: Duration::from_secs(600), jitter: 0.0 };
    assert_eq!(audit.policy.retry.backoff, slow);
    assert_eq!(audit.policy.rate, Some(Rate { count: 600, per: Duration::from_secs(60) }));
    // A first pause above the default for the longest one means a constant pause.
    let (failures, pause) = (20, Duration::from_secs(600));
    assert_eq!(audit.policy.breaker, Some(BreakerPolicy { failures, pause, pause_max: pause }));
    assert_eq!(manifest.limits.memory_bytes, 128 * limits::MIB);
    assert_eq!(manifest.publish, [filter("email.sent")]);
    let config: Vec<_> = manifest.config.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let expected =
        [("dry", "false"), ("from", "shop@example.com"), ("ratio", "0.5"), ("retries", "3"), ("since", "2026-01-31")];
    assert_eq!(config, expected);
}

#[test]
fn topics_alone_are_enough() {
    let manifest = read("[[subscription]]\ntopics = [\">\"]").unwrap();
    assert_eq!(manifest.subscriptions[0].policy, Policy::default());
    assert_eq!(manifest.subscriptions[0].from, StartAt::Now);
    assert_eq!(manifest.limits, GuestLimits::default());
    assert!(manifest.publish.is_empty() && manifest.config.is_empty());
}

#[test]
fn a_start_is_a_word_a_place_or_a_time() {
    let topic = |name| TopicName::any(name).unwrap();
    let good = [
        ("\"now\"", StartAt::Now),
        ("\"beginning\"", StartAt::Beginning),
        ("0", StartAt::Offset(0)),
        ("\"1200\"", StartAt::Offset(1200)),
        ("0x10", StartAt::Offset(16)),
        ("\"order.placed@1\"", StartAt::Sequence(topic("order.placed"), 1)),
        ("\"$lag.email@3\"", StartAt::Sequence(topic("$lag.email"), 3)),
        ("\"1970-01-01T00:00:01Z\"", StartAt::Time(1000)),
        ("\"1970-01-01T02:00:01.5+02:00\"", StartAt::Time(1500)),
        ("1970-01-01T00:00:02Z", StartAt::Time(2000)),
    ];
    for (text, expected) in good {
        assert_eq!(with("from", text).unwrap().from, expected, "{text}");
    }
    let bad = [
        "\"\"",
        "\"later\"",
        "-1",
        "9007199254740993",
        "\"99999999999999999999\"",
        "\"order.placed@0\"",
        "\"order.placed@x\"",
        "\"order.*@1\"",
        "\"@1\"",
        "\"1969-12-31T00:00:00Z\"",
        "\"2026-01-31T12:00:00\"",
        "2026-01-31",
        "[\"now\"]",
    ];
    for text in bad {
        let error = with("from", text).expect_err(text);
        assert_eq!((error.key.as_str(), error.line), ("subscription.from", Some(3)), "{text}: {error}");
    }
}

#[test]
fn sizes_and_durations_carry_their_units() {
    let memory = |text: &str| {
        let manifest = read(&format!("subscription = [{{ topics = [\"a\"] }}]\n[limits]\nmemory = {text}"));
        manifest.map(|manifest| manifest.limits.memory_bytes)
    };
    for (text, bytes) in [
        ("\"64MiB\"", 64 << 20),
        ("\"64 KiB\"", 64 << 10),
        ("\"1GiB\"", 1 << 30),
        ("\"100MB\"", 100_000_000),
        ("65536", 1 << 16),
    ] {
        assert_eq!(memory(text).unwrap(), bytes, "{text}");
    }
    for text in ["\"64\"", "\"MiB\"", "\"64 parsecs\"", "\"63KiB\"", "\"4GiB\"", "0", "-1", "1.5", "\"99999999999GiB\""]
    {
        let error = memory(text).expect_err(text).to_string();
        assert!(error.starts_with("plugins/email.toml:3: `limits.memory`: "), "{error}");
    }
    assert_eq!(with("timeout", "\"1m 30s\"").unwrap().policy.timeout, Duration::from_secs(90));
    for text in ["\"0s\"", "\"5\"", "\"2h\"", "\"10us\"", "\"-5s\"", "5", "\"soon\""] {
        let error = with("timeout", text).expect_err(text).to_string();
        assert!(error.starts_with("plugins/email.toml:3: `subscription.timeout`: "), "{error}");
    }
}

/// Each manifest with what its refusal says, whole: place, key, reason, what is allowed.
#[test]
fn a_command_and_a_build_are_read() {
    let text = r#"
        [[subscription]]
        topics = ["a"]
        [grants]
        publish = ["out.*"]
        [command]
        args = ["-v", "--all"]
        stdout = { publish = "out.lines", content_type = "text/plain" }
        [build]
        command = "make"
        output = "build/email.wasm"
        watch = ["src"]
    "#;
    let manifest = parse("email", Path::new("email.toml"), text).unwrap();
    let command = manifest.command.unwrap();
    assert_eq!(command.args, ["-v", "--all"]);
    let Stdout::Publish { topic, content_type } = command.stdout else { panic!("{:?}", command.stdout) };
    assert_eq!((topic.as_str(), content_type.as_deref()), ("out.lines", Some("text/plain")));
    let build = manifest.build.unwrap();
    assert_eq!(build.command.as_deref(), Some("make"));
    assert_eq!(build.output, Path::new("build/email.wasm"));
    assert_eq!(build.watch, [Path::new("src")]);

    let refusal = |line: &str| {
        let text = format!("[[subscription]]\ntopics = [\"a\"]\n{line}\n");
        parse("email", Path::new("email.toml"), &text).unwrap_err().to_string()
    };
    let ungranted = refusal("[command]\nstdout = { publish = \"elsewhere\" }");
    assert!(ungranted.contains("email.toml:4") && ungranted.contains("[grants]"), "{ungranted}");
    assert!(refusal("[command]\nstdout = \"file\"").contains("{ publish = TOPIC }"));
    assert!(refusal("[command]\nstdout = { publish = \"$own\" }").contains("a topic"));
    assert!(refusal("[build]\ncommand = \"make\"").contains("output"));
}

#[test]
fn refusals_name_the_place_and_what_is_allowed() {
    let subscription = "[[subscription]]\ntopics = [\"a\"]\n";
    let table = [
        ("", "plugins/email.toml: `subscription`: it is missing; a manifest declares at least one [[subscription]] with its `topics`".to_owned()),
        ("[[subscription]]\nname = \"x\"", "plugins/email.toml:1: `subscription.topics`: it is missing; a list of topics and filters, such as [\"order.placed\", \"payment.>\"]".to_owned()),
        ("[[subscription]]\ntopics = []", "plugins/email.toml:2: `subscription.topics`: `[]` is not allowed; it must be a list of at least one topic or filter".to_owned()),
        ("[[subscription]]\ntopics = \"a\"", "plugins/email.toml:2: `subscription.topics`: it is a text; it must be a list of topics and filters, such as [\"order.placed\", \"payment.>\"]".to_owned()),
        ("[[subscription]]\ntopics = [\"a\", \"b..c\"]", format!("plugins/email.toml:2: `subscription.topics[2]`: `b..c` is not a topic: {}", crate::topic::TopicError::EmptyToken)),
        ("[[subscription]]\ntopics = [\"a\", \"a\"]", "plugins/email.toml:2: `subscription.topics[2]`: `a` is there twice".to_owned()),
        ("[subscription]\ntopics = [\"a\"]", "plugins/email.toml:1: `subscription`: it is a table; it must be a list of tables, each written as [[subscription]]".to_owned()),
        ("subscription = []", "plugins/email.toml:1: `subscription`: it is missing; a manifest declares at least one [[subscription]] with its `topics`".to_owned()),
        ("limit = 1", "plugins/email.toml:1: `limit`: there is no such key here; allowed are `subscription`, `limits`, `grants`, `config`, `secrets`, `deploy`, `command`, `build`; did you mean `limits`?".to_owned()),
        ("[[subscription]]\ntopics = [\"a\"]\nretry = { max_attempt = 3 }", "plugins/email.toml:3: `subscription.retry.max_attempt`: there is no such key here; allowed are `max_attempts`, `backoff`, `on_exhausted`; did you mean `max_attempts`?".to_owned()),
        ("[[subscription]]\ntopics = [\"a\"]\nretry = { max_attempts = 0 }", "plugins/email.toml:3: `subscription.retry.max_attempts`: `0` is not allowed; it must be a whole number from 1 to 1000".to_owned()),
        ("[[subscription]]\ntopics = [\"a\"]\nconcurrency = 1001", "plugins/email.toml:3: `subscription.concurrency`: `1001` is not allowed; it must be a whole number from 1 to 1000".to_owned()),
        ("[[subscription]]\ntopics = [\"a\"]\nconcurrency = \"8\"", "plugins/email.toml:3: `subscription.concurrency`: it is a text; it must be a whole number".to_owned()),
        ("[[subscription]]\ntopics = [\"a\"]\norder = \"keys\"", "plugins/email.toml:3: `subscription.order`: `keys` is not allowed; it must be \"key\", \"topic\", \"none\"; did you mean `key`?".to_owned()),
        ("[[subscription]]\ntopics = [\"a\"]\n[subscription.retry.backoff]\nfactor = 0.5", "plugins/email.toml:4: `subscription.retry.backoff.factor`: `0.5` is not allowed; it must be a number from 1 to 100".to_owned()),
        ("[[subscription]]\ntopics = [\"a\"]\n[subscription.retry.backoff]\njitter = nan", "plugins/email.toml:4: `subscription.retry.backoff.jitter`: `nan` is not allowed; it must be a number from 0 to 1".to_owned()),
        ("[[subscription]]\ntopics = [\"a\"]\n[subscription.retry.backoff]\ninitial = \"1m\"\nmax = \"30s\"", "plugins/email.toml:5: `subscription.retry.backoff.max`: `30s` is not allowed; it must be a duration with its unit, such as \"5s\", from 1m to 30days".to_owned()),
        ("[[subscription]]\ntopics = [\"a\"]\n[[subscription]]\ntopics = [\"b\"]", "plugins/email.toml:3: `subscription[2].name`: it is missing; every subscription after the first needs one".to_owned()),
        ("[[subscription]]\ntopics = [\"a\"]\n[[subscription]]\nname = \"email\"\ntopics = [\"b\"]", "plugins/email.toml:4: `subscription[2].name`: `email` is there twice".to_owned()),
        ("[[subscription]]\nname = \"e mail\"\ntopics = [\"a\"]", "plugins/email.toml:2: `subscription.name`: `e mail` is not allowed; it must be 1 to 100 letters, digits, `-` and `_`".to_owned()),
        ("[[subscription]]\ntopics = [\"a\"]\n[grants]\npublish = [\"$lag.x\"]", "plugins/email.toml:4: `grants.publish`: `$lag.x` is not allowed; it must be topics that do not begin with `$`; those are the bus's own".to_owned()),
        ("[[subscription]]\ntopics = [\"a\"]\n[config]\nlist = [1]", "plugins/email.toml:4: `config.list`: it is a list; it must be a single value, such as a text".to_owned()),
    ];
    for (text, expected) in table {
        assert_eq!(read(text).expect_err(text).to_string(), expected, "for:\n{text}");
    }
    let duplicate = read(&format!("{subscription}topics = [\"b\"]")).unwrap_err();
    assert!(matches!(*duplicate.problem, ManifestProblem::Syntax { .. }), "{duplicate}");
    assert_eq!(duplicate.line, Some(3), "{duplicate}");
}

#[test]
fn a_rate_is_a_number_in_a_unit_of_time() {
    for (text, count, seconds) in [("50/s", 50, 1), ("1/h", 1, 3_600), (" 1000000 / m ", 1_000_000, 60)] {
        let rate = with("rate", &format!("\"{text}\"")).unwrap().policy.rate;
        assert_eq!(rate, Some(Rate { count, per: Duration::from_secs(seconds) }), "{text}");
    }
    for text in ["\"50\"", "\"0/s\"", "\"1000001/s\"", "\"-1/s\"", "\"1.5/s\"", "\"5/d\"", "\"/s\"", "50"] {
        let error = with("rate", text).expect_err(text);
        assert_eq!(error.key, "subscription.rate", "{error}");
        assert!(error.to_string().contains("\"50/s\""), "{error}");
    }
}

#[test]
fn a_breaker_can_be_set_and_switched_off() {
    let breaker = |text| with("breaker", text).map(|spec| spec.policy.breaker);
    assert_eq!(breaker("{ enabled = false }").unwrap(), None);
    assert_eq!(breaker("{ enabled = true }").unwrap(), Some(BreakerPolicy::default()));
    let (pause, pause_max) = (Duration::from_secs(1), Duration::from_secs(9));
    let given = BreakerPolicy { failures: 2, pause, pause_max };
    assert_eq!(breaker("{ failures = 2, pause = \"1s\", pause_max = \"9s\" }").unwrap(), Some(given));
    for (text, key) in [
        ("{ failures = 1 }", "failures"),
        ("{ pause = \"2s\", pause_max = \"1s\" }", "pause_max"),
        ("{ enabled = \"no\" }", "enabled"),
        ("{ pauses = 3 }", "pauses"),
    ] {
        let error = breaker(text).expect_err(text);
        assert_eq!(error.key, format!("subscription.breaker.{key}"), "{error}");
    }
}

#[test]
fn probation_is_what_the_manifest_says_and_none_where_it_says_nothing() {
    let with = |deploy: &str| read(&format!("[[subscription]]\ntopics = [\"a\"]\n{deploy}"));
    let of = |messages, max_failures| Some(ProbationPolicy { messages, max_failures });
    for (deploy, expected) in [
        ("", None),
        ("[deploy]", None),
        ("[deploy]\nprobation = {}", of(200, 5)),
        ("[deploy.probation]\nmessages = 3", of(3, 2)),
        ("[deploy]\nprobation = { max_failures = 0 }", of(200, 0)),
        ("[deploy]\nprobation = { messages = 1000000, max_failures = 999999 }", of(1_000_000, 999_999)),
    ] {
        assert_eq!(with(deploy).expect(deploy).probation, expected, "{deploy}");
    }
    for (deploy, says) in [
        ("[deploy]\nprobation = { messages = 0 }", "`deploy.probation.messages`: `0`"),
        ("[deploy]\nprobation = { messages = 5, max_failures = 5 }", "a whole number from 0 to 4"),
        ("[deploy]\nprobation = true", "`deploy.probation`: it is true or false"),
        ("[deploy]\nprobation = { failures = 5 }", "there is no such key here; allowed are `messages`, `max_failures`"),
        ("[deploy]\nprobations = {}", "did you mean `probation`?"),
    ] {
        let error = with(deploy).expect_err(deploy).to_string();
        assert!(error.contains(says), "{deploy}: {error}");
    }
}

#[test]
fn a_stem_that_is_no_name_must_be_given_one() {
    let file = Path::new("plugins/e mail.toml");
    let error = parse("e mail", file, "[[subscription]]\ntopics = [\"a\"]").unwrap_err();
    assert_eq!((error.key.as_str(), error.line), ("subscription.name", Some(1)), "{error}");
    let named = parse("e mail", file, "[[subscription]]\nname = \"email\"\ntopics = [\"a\"]").unwrap();
    assert_eq!(named.subscriptions[0].name, "email");
}

#[test]
fn a_manifest_out_of_all_proportion_is_not_read() {
    let error = read(&"#".repeat(limits::MANIFEST_BYTES_MAX + 1)).unwrap_err();
    assert!(matches!(*error.problem, ManifestProblem::TooLarge { .. }), "{error}");
    let long = "x".repeat(100_000);
    let error = read(&format!("{long} = 1")).unwrap_err().to_string();
    assert!(error.len() < 1_000, "an error repeats {} bytes", error.len());
}

proptest! {
    #[test]
    fn any_text_is_answered_without_a_panic(text in "\\PC{0,200}") {
        if let Err(error) = read(&text) { let _ = error.to_string(); }
    }

    /// Lines taken from a manifest in any order, with any value, reach deeper than mere noise does.
    #[test]
    fn any_shuffled_manifest_is_answered_without_a_panic(
        lines in prop::collection::vec((any::<prop::sample::Index>(), prop::option::of("[-0-9a-z\"@.{}\\[\\]= :]{0,12}")), 0..12),
    ) {
        let known: Vec<&str> = COMPLETE.lines().collect();
        let text: Vec<String> = lines.into_iter().map(|(index, value)| {
            let line = *index.get(&known);
            match (line.split_once('='), value) {
                (Some((key, _)), Some(value)) => format!("{key}={value}"),
                _ => line.to_owned(),
            }
        }).collect();
        if let Err(error) = read(&text.join("\n")) { let _ = error.to_string(); }
    }

    /// Whatever is accepted is within the bounds that the rest of the bus relies on.
    #[test]
    fn what_is_accepted_is_within_bounds(
        concurrency in -1..3_000_i64, attempts in -1..3_000_i64, timeout_ms in 0..10_000_000_u64,
        initial_ms in 0..4_000_000_000_u64, factor in -1.0..200.0_f64, jitter in -1.0..2.0_f64,
    ) {
        let text = format!(
            "[[subscription]]\ntopics = [\"a\"]\nconcurrency = {concurrency}\ntimeout = \"{timeout_ms}ms\"\n\
             [subscription.retry]\nmax_attempts = {attempts}\n\
             backoff = {{ initial = \"{initial_ms}ms\", factor = {factor:?}, jitter = {jitter:?} }}\n"
        );
        let possible = (1..=1_000).contains(&concurrency)
            && (1..=1_000).contains(&attempts)
            && (1..=3_600_000).contains(&timeout_ms)
            && (1..=2_592_000_000).contains(&initial_ms)
            && (1.0..=100.0).contains(&factor)
            && (0.0..=1.0).contains(&jitter);
        let read = read(&text);
        prop_assert_eq!(read.is_ok(), possible, "{:?}", read);
        if let Ok(manifest) = read {
            let retry = &manifest.subscriptions[0].policy.retry;
            prop_assert!(retry.backoff.max >= retry.backoff.initial);
        }
    }
}
