use std::time::Duration;

use super::*;

/// Resolves settings from flags, variables and the text of a file.
fn load(
    flags: &[(&'static str, &str)],
    variables: &'static [(&'static str, &'static str)],
    file: &str,
) -> Result<Config, ConfigError> {
    let flags: Vec<_> = flags.iter().map(|(flag, value)| (*flag, (*value).to_owned())).collect();
    let variable = |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| OsString::from(value));
    let given = Given { flags: &flags, variable: &variable, file: None, accept_unsynced: false };
    Config::resolve(&given, &SettingsFile::parse(Path::new("etc/sandpost.toml"), file)?)
}

fn complaint(file: &str) -> String {
    load(&[], &[], file).unwrap_err().to_string()
}

#[test]
fn defaults_need_nothing() {
    let config = load(&[], &[], "").unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:7480");
    assert_eq!(config.data, Path::new("sandpost-data"));
    assert_eq!(config.plugins, Path::new("plugins"));
    assert_eq!(config.message_data_bytes_max, limits::MESSAGE_DATA_BYTES_MAX);
    assert_eq!(config.free_bytes_min, limits::FREE_BYTES_MIN);
    assert_eq!(config.reserve_bytes, limits::RESERVE_BYTES);
    assert_eq!(config.log_format, LogFormat::Text);
    assert!(config.workers >= 1);
    assert!(!config.accept_unsynced);
    assert_eq!(config.retention, Rules::default());
}

#[test]
fn every_setting_can_stand_in_the_file() {
    let config = load(
        &[],
        &[],
        r#"
        listen = "localhost:0"
        data = "d"
        plugins = "/p"
        workers = 3
        allowed_hosts = ["bus.local", "bus.local:99"]
        allowed_origins = ["http://localhost:3000"]
        http_ca = "/etc/ca.pem"
        log_format = "json"
        log_filter = "info,sandpost::dispatch=debug"
        [limits]
        message_data_max = "2MiB"
        dedupe_window = "10m"
        min_free = "1GiB"
        reserve = 33554432
        state_consumer_max = "5MiB"
        state_max = "6MiB"
        retain_age = "30d"
        retain_bytes = "unlimited"
        "#,
    )
    .unwrap();
    let expected = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        data: "etc/d".into(),
        plugins: "/p".into(),
        workers: 3,
        allowed_hosts: vec!["bus.local".to_owned(), "bus.local:99".to_owned()],
        allowed_origins: vec!["http://localhost:3000".to_owned()],
        http_ca: Some(PathBuf::from("/etc/ca.pem")),
        log_format: LogFormat::Json,
        log_filter: "info,sandpost::dispatch=debug".to_owned(),
        message_data_bytes_max: 2 << 20,
        dedupe_window: Duration::from_secs(600),
        free_bytes_min: 1 << 30,
        reserve_bytes: 32 << 20,
        state: StateBounds { consumer_bytes_max: 5 << 20, total_bytes_max: 6 << 20 },
        retention: Rules {
            topics: Vec::new(),
            age_max: Some(std::time::Duration::from_secs(30 * 24 * 3600)),
            bytes_max: None,
        },
        accept_unsynced: false,
    };
    assert_eq!(config, expected);
}

#[test]
fn flags_go_before_variables_before_the_file() {
    let file = "data = \"file\"\nworkers = 1";
    let variables = &[("SANDPOST_DATA", "variable"), ("SANDPOST_WORKERS", "2"), ("SANDPOST_PLUGINS", "")];
    let config = load(&[("data", "flag")], variables, file).unwrap();
    assert_eq!(config.data, Path::new("flag"));
    assert_eq!(config.workers, 2);
    assert_eq!(config.plugins, Path::new("plugins"), "an empty variable is none");
    let config = load(&[], variables, file).unwrap();
    assert_eq!(config.data, Path::new("variable"), "relative to the current folder, not to the file's");
    let config = load(&[], &[("SANDPOST_ALLOWED_HOSTS", "a.local, b.local:1")], "").unwrap();
    assert_eq!(config.allowed_hosts, ["a.local", "b.local:1"]);
}

#[test]
fn a_mistyped_key_is_named_with_the_nearest_one() {
    let table = [
        ("listn = \"x\"", "etc/sandpost.toml: there is no setting `listn`; did you mean `listen`?"),
        (
            "[limits]\nreserv = 1",
            "etc/sandpost.toml: there is no setting `limits.reserv`; did you mean `limits.reserve`?",
        ),
        ("reserve = 1", "etc/sandpost.toml: there is no setting `reserve`; did you mean `limits.reserve`?"),
        ("limits = 1", "etc/sandpost.toml: `limits` is a whole number; it must be a table with settings in it"),
    ];
    for (file, expected) in table {
        assert_eq!(complaint(file), expected);
    }
    assert!(complaint("qqq = 1").starts_with("etc/sandpost.toml: there is no setting `qqq`; there are listen, data,"));
}

#[test]
fn a_bad_value_is_named_with_what_is_allowed() {
    let table = [
        ("workers = 0", "etc/sandpost.toml: `workers` is 0; it must be a whole number from 1 to 256"),
        ("workers = \"many\"", "etc/sandpost.toml: `workers` is \"many\"; it must be a whole number from 1 to 256"),
        ("data = 5", "etc/sandpost.toml: `data` is 5; it must be a folder"),
        ("data = \"\"", "etc/sandpost.toml: `data` is \"\"; it must be a folder"),
        ("log_format = \"xml\"", "etc/sandpost.toml: `log_format` is \"xml\"; it must be \"text\" or \"json\""),
        (
            "[limits]\nmessage_data_max = \"9MiB\"",
            "etc/sandpost.toml: `limits.message_data_max` is \"9MiB\"; it must be a size from \"1KiB\" to \"8MiB\"",
        ),
        (
            "allowed_hosts = [\"*\"]",
            "etc/sandpost.toml: `allowed_hosts` is [\"*\"]; it must be host names such as \"bus.local\" or \"bus.local:8080\"",
        ),
    ];
    for (file, expected) in table {
        assert_eq!(complaint(file), expected);
    }
    let error = load(&[("listen", "nowhere")], &[], "").unwrap_err().to_string();
    assert_eq!(
        error,
        "--listen is \"nowhere\"; it must be an address of this machine with a port, such as \"127.0.0.1:7480\""
    );
    let error = load(&[], &[("SANDPOST_WORKERS", "-1")], "").unwrap_err().to_string();
    assert!(error.starts_with("the variable SANDPOST_WORKERS is \"-1\""), "{error}");
    for filter in ["nonsense=nonsense", "sandpost=loud"] {
        assert!(load(&[("log-filter", filter)], &[], "").is_err(), "{filter}");
    }
}

#[test]
fn what_other_machines_can_reach_is_refused() {
    for address in ["0.0.0.0:7480", "[::]:7480", "192.168.1.2:7480"] {
        let error = load(&[("listen", address)], &[], "").unwrap_err();
        assert!(matches!(error, ConfigError::BeyondLoopback { .. }), "{error}");
        assert!(error.to_string().contains("tokens"), "{error}");
    }
    assert!(load(&[("listen", "[::1]:1")], &[], "").is_ok());
    assert!(load(&[("listen", "127.9.9.9:1")], &[], "").is_ok());
}

#[test]
fn publishes_must_stop_before_the_reserve_is_needed() {
    let error = load(&[("reserve", "40MiB")], &[], "").unwrap_err();
    assert!(matches!(error, ConfigError::FreeBelowReserve { .. }), "{error}");
    assert!(load(&[("reserve", "40MiB"), ("min-free", "80MiB")], &[], "").is_ok());
}

#[test]
fn a_broken_or_missing_file_is_named() {
    let error = complaint("listen = ");
    assert!(error.starts_with("etc/sandpost.toml: is no TOML:") && error.contains("line 1"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent.toml");
    let given = Given { flags: &[], variable: &|_| None, file: Some(&path), accept_unsynced: false };
    let error = Config::load(&given).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }) && error.to_string().contains("absent.toml"), "{error}");
}

#[test]
fn names_of_settings_agree() {
    for setting in SETTINGS {
        let name = setting.key.rsplit('.').next().unwrap();
        assert_eq!(setting.flag, name.replace('_', "-"));
        assert_eq!(setting.variable, format!("SANDPOST_{}", name.to_uppercase()));
    }
}

#[test]
fn topics_have_tables_of_their_own() {
    let rules = |file: &str| load(&[], &[], file).unwrap().retention.topics;
    let found = rules(
        r#"
        [[topic]]
        filter = "order.*"
        max_age = "forever"
        max_bytes = "1GiB"
        [[topic]]
        filter = "$dead-letters.>"
        max_age = "1d"
        [[topic]]
        filter = ">"
        cap = "10MiB"
        [limits]
        retain_age = "3s"
        "#,
    );
    let seconds = std::time::Duration::from_secs;
    let shown: Vec<_> =
        found.iter().map(|rule| (rule.filter.as_str(), rule.age_max, rule.bytes_max, rule.cap)).collect();
    let expected = [
        ("order.*", None, Some(1 << 30), None),
        ("$dead-letters.>", Some(seconds(86_400)), None, None),
        (">", Some(seconds(3)), Some(5 << 20), Some(10 << 20)),
    ];
    assert_eq!(shown, expected, "a cap leaves room: settled messages go from half of it on");
    assert_eq!(rules("[[topic]]\nfilter = \"a\"\ncap = \"1MiB\"\nmax_bytes = \"unlimited\"")[0].bytes_max, None);
}

#[test]
fn a_bad_topic_table_is_named_with_its_line_and_key() {
    let table = [
        (
            "[[topic]]\nmax_age = \"7d\"",
            "etc/sandpost.toml:1: `topic.filter`: it is missing; a topic or a filter such as \"order.*\"",
        ),
        (
            "[[topic]]\nfilter = \"a\"\nmax_size = \"1GiB\"",
            "etc/sandpost.toml:3: `topic.max_size`: there is no such key here; allowed are `filter`, `max_age`, `max_bytes`, `cap`",
        ),
        (
            "[[topic]]\nfilter = \"a\"\n[[topic]]\nfilter = \"b\"\nmax_age = \"soon\"",
            "etc/sandpost.toml:5: `topic[2].max_age`: `soon` is not allowed; it must be a duration with its unit, such as \"5s\", from 1s to 99years",
        ),
        (
            "[[topic]]\nfilter = \"a\"\nmax_bytes = \"1GiB\"\ncap = \"1GiB\"",
            "etc/sandpost.toml:4: `topic.cap`: `1073741824 bytes` is not allowed; it must be more than its `max_bytes` of 1073741824 bytes, for settled messages would fill it",
        ),
        ("[[topic]]\nfilter = \"a.>.b\"", "etc/sandpost.toml:2: `topic.filter`: `a.>.b` is not a topic"),
        (
            "[[topic]]\nfilter = \"$lag.>\"\ncap = \"1GiB\"",
            "etc/sandpost.toml:3: `topic.cap`: `a cap` is not allowed; it must be left out",
        ),
        (
            "topic = 1",
            "etc/sandpost.toml:1: `topic`: it is a whole number; it must be a list of tables, each written as [[topic]]",
        ),
    ];
    for (file, expected) in table {
        let found = complaint(file);
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}
