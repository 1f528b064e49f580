//! Outbound HTTP: what a consumer may request, what becomes of its secrets, and what waiting costs.

use std::net::IpAddr;
use std::sync::Arc;

use fetch::{Errand, Fetched};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use sandpost_tests::{Daemon, Outside, Reply, guest, stamped};

fn manifest(grants: &str, more: &str) -> String {
    format!(
        "[[subscription]]\ntopics = [\"errand\"]\nconcurrency = 4\ntimeout = \"20s\"\n\
         [subscription.retry]\nmax_attempts = 2\nbackoff = {{ initial = \"10ms\", max = \"10ms\" }}\n\
         [grants]\npublish = [\"fetched\"]\nhttp = [{grants}]\n{more}"
    )
}

fn bus(grants: &str, more: &str) -> Daemon {
    Daemon::with("fetch", &guest("fetch"), &manifest(grants, more))
}

fn get(url: impl Into<String>) -> Errand {
    Errand { url: url.into(), ..Errand::default() }
}

/// Has errands run one after the other, and answers what came of them.
#[track_caller]
fn run(bus: &mut Daemon, errands: Vec<Errand>) -> Vec<Fetched> {
    let count = errands.len();
    bus.publish_many("errand", errands.into_iter().map(|errand| ("in order".to_owned(), errand)));
    let account = bus.settled("fetch");
    assert_eq!(account.dead, 0, "{:#?}", bus.dead_letters("fetch"));
    bus.wait_until("what was acknowledged can be read", |bus| {
        bus.topics().iter().any(|topic| topic.name == "fetched" && topic.last_sequence >= account.acked)
    });
    let fetched = bus.messages("fetched");
    let last = fetched.into_iter().rev().take(count).map(|event| event.data);
    let mut last: Vec<Fetched> = last.map(|data| serde_json::from_value(data).expect("the guest's own JSON")).collect();
    last.reverse();
    last
}

#[track_caller]
fn kinds(bus: &mut Daemon, errands: Vec<Errand>) -> Vec<String> {
    let fetched = run(bus, errands).into_iter();
    let kind = |one: Fetched| one.error.map_or_else(|| one.status.to_string(), |(kind, _)| kind);
    fetched.map(kind).collect()
}

#[test]
fn nothing_leaves_without_a_grant_and_the_log_says_what_is_missing() {
    let server = Outside::start(|_| Reply::text(200, "hello"));
    let mut bus = bus("", "");
    let url = server.url("/x");
    assert_eq!(kinds(&mut bus, vec![get(&url)]), ["not granted"]);
    assert_eq!(server.connections(), 0);
    let log = bus.log();
    assert!(log.contains(&format!("GET {url} was refused: its host is not granted")), "{log}");
    assert!(log.contains("`http` under [grants]"), "{log}");
}

#[test]
fn grants_are_by_host_port_method_and_path() {
    let server = Outside::start(|seen| Reply::text(200, &format!("{} {}", seen.method, seen.target)));
    let other = Outside::start(|_| Reply::text(200, "other"));
    let grants = format!("{{ url = \"{}\", methods = [\"GET\", \"POST\"], private = true }}", server.url("/v1"));
    let mut bus = bus(&grants, "");
    let with = |method: &str, path: &str| Errand { method: method.to_owned(), ..get(server.url(path)) };
    let table = [
        (get(server.url("/v1")), "200"),
        (get(server.url("/v1/x?y=../z")), "200"),
        (Errand { body: "data".to_owned(), ..with("POST", "/v1/x") }, "200"),
        (with("PUT", "/v1/x"), "not granted"),
        (with("get", "/v1/x"), "not granted"),
        (with("CONNECT", "/v1/x"), "not granted"),
        (get(server.url("/")), "not granted"),
        (get(server.url("/v10")), "not granted"),
        (get(server.url("/v1/../x")), "not granted"),
        (get(server.url("/v1/%2e%2e/x")), "not granted"),
        (get(server.url("//v1/x")), "not granted"),
        (get(other.url("/v1")), "not granted"),
        (get(server.url("/v1").replace("http:", "https:")), "not granted"),
        (get(server.url_by("localhost", "/v1")), "not granted"),
        (get(server.url_by("user@127.0.0.1", "/v1")), "invalid"),
        (get(server.url_by("127.1", "/v1")), "invalid"),
        (get(server.url_by("2130706433", "/v1")), "invalid"),
        (get("ftp://127.0.0.1/v1"), "invalid"),
        (get("no url"), "invalid"),
    ];
    let (errands, expected): (Vec<_>, Vec<_>) = table.into_iter().unzip();
    assert_eq!(kinds(&mut bus, errands), expected);
    let seen: Vec<_> = server.seen().into_iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect();
    assert_eq!(seen, ["GET /v1", "GET /v1/x?y=../z", "POST /v1/x"]);
    assert_eq!(server.seen()[2].body, b"data");
    assert_eq!((server.connections(), other.connections()), (1, 0), "a connection is kept for the next request");
}

#[test]
fn names_that_lead_to_this_machine_are_refused() {
    let server = Outside::start(|_| Reply::text(200, "hello"));
    let mut bus = bus("", "");
    // This machine's own name leads to loopback or to a private network, or does not lead anywhere.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux tells its name");
    let host = host.trim().to_lowercase();
    let url = server.url_by(&host, "/");
    let granted = manifest(&format!("\"{}\"", server.url_by(&host, "")), "");
    bus.deploy("fetch", &stamped(&guest("fetch"), "granted"), &granted);
    let kinds = kinds(&mut bus, vec![get(&url)]);
    assert!(kinds[0] == "not granted" || kinds[0] == "unreachable", "{kinds:?}");
    assert_eq!(server.connections(), 0);
    if kinds[0] == "not granted" {
        assert!(bus.log().contains("is not of the public internet; `private = true` in the grant of"), "{}", bus.log());
    }

    // What can only be private is refused before it runs.
    for host in ["localhost", "127.0.0.1", "[::1]", "10.0.0.1", "169.254.169.254"] {
        bus.put("fetch", &guest("fetch"), &manifest(&format!("\"http://{host}\""), ""));
        let expected = format!("`http://{host}` is not of the public internet");
        bus.wait_until("the manifest is refused", |bus| {
            bus.plugin("fetch").and_then(|plugin| plugin.problem).is_some_and(|problem| problem.contains(&expected))
        });
    }
    bus.deploy(
        "fetch",
        &stamped(&guest("fetch"), "private"),
        &manifest(&format!("{{ url = \"{}\", private = true }}", server.url_by("localhost", "")), ""),
    );
    let fetched = run(&mut bus, vec![get(server.url_by("localhost", "/"))]);
    assert_eq!((fetched[0].status, fetched[0].body.as_str()), (200, "hello"));
}

#[test]
fn a_redirect_is_a_new_request() {
    let target = Outside::start(|_| Reply::text(200, "reached"));
    let (granted, elsewhere) = (target.url("/granted"), target.url("/elsewhere"));
    let server = Outside::start(move |seen| match seen.target.as_str() {
        "/granted" => Reply::redirect(307, &granted),
        "/elsewhere" => Reply::redirect(302, &elsewhere),
        _ => Reply::redirect(308, "/again"),
    });
    let grants = format!(
        "{{ url = \"{}\", private = true }}, {{ url = \"{}\", private = true }}",
        server.url(""),
        target.url("/granted")
    );
    let mut bus = bus(&grants, "");
    let following = |path: &str, redirects: u32| Errand { redirects, ..get(server.url(path)) };
    let errands =
        vec![following("/granted", 1), following("/granted", 0), following("/elsewhere", 5), following("/", 5)];
    assert_eq!(kinds(&mut bus, errands), ["200", "307", "not granted", "308"]);
    let reached: Vec<_> = target.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(reached, ["/granted"]);
    assert_eq!(server.seen().iter().filter(|seen| seen.target == "/again").count(), 5);
}

#[test]
fn bodies_and_heads_are_bounded() {
    let server = Outside::start(|seen| match seen.target.as_str() {
        "/known" => Reply::text(200, &"y".repeat(5_000)),
        "/unknown" => Reply::Chunked(vec![b'y'; 5_000]),
        "/head" => Reply::Full { status: 200, headers: vec![("x", "y".repeat(200_000))], body: Vec::new() },
        _ => Reply::text(200, &seen.body.len().to_string()),
    });
    let grants = format!("{{ url = \"{}\", private = true }}", server.url(""));
    let mut bus = bus(&grants, "[limits]\nhttp_response = \"4KiB\"\nhttp_request = \"8KiB\"");
    let sending = |body_bytes: usize| Errand { method: "POST".to_owned(), body_bytes, ..get(server.url("/")) };
    let errands = vec![
        get(server.url("/known")),
        get(server.url("/unknown")),
        get(server.url("/head")),
        sending(8 << 10),
        sending((8 << 10) + 1),
    ];
    assert_eq!(kinds(&mut bus, errands), ["too large", "too large", "too large", "200", "too large"]);

    // What a consumer takes whole into its memory must fit there too; what passes in parts need not fit anywhere.
    bus.deploy("fetch", &stamped(&guest("fetch"), "larger"), &manifest(&grants, "[limits]\nhttp_response = \"8KiB\""));
    let fetched = run(&mut bus, vec![get(server.url("/known")), get(server.url("/unknown"))]);
    assert_eq!(fetched.iter().map(|one| one.body_bytes).collect::<Vec<_>>(), [5_000, 5_000]);
}

#[test]
fn the_end_of_a_call_is_the_end_of_its_request() {
    let server = Outside::start(|_| Reply::Never);
    let grants = format!("{{ url = \"{}\", private = true }}", server.url(""));
    let impatient = manifest(&grants, "").replace("20s", "300ms");
    let mut bus = Daemon::with("fetch", &guest("fetch"), &impatient);
    bus.publish("errand", None, Errand { stubborn: true, ..get(server.url("/")) });
    let account = bus.settled("fetch");
    assert_eq!((account.dead, account.outcomes("timed-out")), (1, 2));
    server.wait_until_gone(2);

    // One that gives up before its call must end may say why, and is not charged.
    bus.publish("errand", None, Errand { strict: true, ..get(server.url("/")) });
    bus.wait_until("the service is unavailable", |bus| bus.subscription("fetch").outcomes("unavailable") > 0);
    server.wait_until_gone(3);
    bus.wait_until("it is held", |bus| bus.subscription("fetch").pending == 1);
    assert_eq!(bus.subscription("fetch").dead, 1);
}

#[test]
fn statuses_become_outcomes() {
    let server = Outside::start(|seen| match seen.target.as_str() {
        "/bad" => Reply::text(422, "no such order"),
        "/busy" => Reply::Full { status: 429, headers: vec![("retry-after", "3600".to_owned())], body: Vec::new() },
        _ => Reply::text(204, ""),
    });
    let grants = format!("{{ url = \"{}\", private = true }}", server.url(""));
    let mut bus = bus(&grants, "");
    let strict = |path: &str| Errand { strict: true, ..get(server.url(path)) };
    bus.publish_many("errand", ["/bad", "/busy", "/good"].map(|path| (None::<String>, strict(path))));
    bus.wait_until("one is done, one dead and one held", |bus| {
        let account = bus.subscription("fetch");
        (account.acked, account.dead, account.waiting.due_later) == (1, 1, 1)
    });
    let letter = &bus.dead_letters("fetch")[0];
    let text = &letter.attempts[0].text;
    assert!(text.ends_with("/bad answered 422: no such order"), "{text}");
}

#[test]
fn a_secret_goes_where_its_grant_says_and_nowhere_else() {
    let server = Outside::start(|seen| Reply::text(200, seen.header("authorization").unwrap_or("none")));
    let other = Outside::start(|_| Reply::text(200, "other"));
    let file = tempfile::NamedTempFile::new().expect("there is a temporary folder");
    std::fs::write(file.path(), "of a file\n").expect("it is the test's own");
    let grants = format!(
        "{{ url = \"{}\", private = true, secrets = [\"key\", \"other\"] }}, {{ url = \"{}\", private = true }}",
        server.url("/"),
        other.url("/")
    );
    let secrets = format!(
        "[secrets]\nkey = {{ env = \"SANDPOST_SECRET_KEY\" }}\nother = {{ file = \"{}\" }}\n",
        file.path().display()
    );
    let with = |url: String, value: &str, body: &str| Errand {
        method: "POST".to_owned(),
        headers: vec![("authorization".to_owned(), value.to_owned())],
        body: body.to_owned(),
        secrets: vec!["key".to_owned(), "other".to_owned()],
        ..get(url)
    };
    let setup = Daemon::setup().variable("SANDPOST_SECRET_KEY", "s3cret");
    let mut bus = setup.plugin("fetch", &guest("fetch"), &manifest(&grants, &secrets)).start();
    let fetched = run(
        &mut bus,
        vec![
            with(server.url("/"), "Bearer {key}, {other}", "{key}"),
            with(other.url("/"), "Bearer {key}", ""),
            with(server.url("/?{key}"), "none", ""),
        ],
    );
    assert_eq!(fetched[0].body, "Bearer s3cret, of a file");
    assert_eq!(server.seen()[0].body, b"{key}", "a body is the guest's own text");
    let kinds: Vec<_> = fetched[1..].iter().map(|one| one.error.as_ref().map(|(kind, _)| kind.as_str())).collect();
    assert_eq!(kinds, [Some("not granted"); 2]);
    assert_eq!((server.seen().len(), other.connections()), (1, 0));
    let log = bus.log();
    assert!(log.contains("the secret `key` may not go there; name it in the `secrets` of that grant"), "{log}");
    assert!(log.contains("the secret `key` is in its URL"), "{log}");
    assert!(!log.contains("s3cret") && !log.contains("of a file"), "{log}");

    // A version that lacks a secret does not begin, also after a restart.
    std::fs::remove_file(file.path()).expect("it is the test's own");
    bus.put("fetch", &guest("fetch"), &manifest(&grants, &format!("{secrets}# second")));
    let problem = bus.problem_of("fetch");
    assert!(problem.contains("fetch.toml: `secrets.other`: the file "), "{problem}");
    bus.kill();
    bus.change(|setup| setup.variable("SANDPOST_SECRET_KEY", "two\nlines"));
    bus.restart();
    let problem = bus.problem_of("fetch");
    assert!(problem.contains("`secrets.key`: its value has line ends"), "{problem}");
    assert!(!bus.log().contains("two\nlines"));
}

/// A certificate authority, and a server that has a certificate of it.
fn authority(names: &[&str]) -> (String, Arc<ServerConfig>) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("there is random")).expect("it signs");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().expect("there is random");
    let certificate = CertificateParams::new(names).and_then(|params| params.signed_by(&key, &issuer));
    let certificate = certificate.expect("the names are valid").der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("the key is the certificate's");
    (issuer.pem(), Arc::new(config))
}

#[test]
fn tls_trusts_the_authorities_that_it_is_told_of_and_the_right_names() {
    let (pem, tls) = authority(&["localhost"]);
    let server = Outside::secure(tls, |_| Reply::text(200, "secure"));
    let (_, tls) = authority(&["localhost"]);
    let stranger = Outside::secure(tls, |_| Reply::text(200, "strange"));
    let plain = Outside::start(|_| Reply::text(200, "plain"));
    let grant = |url: String| format!("{{ url = \"{url}\", private = true }}");
    let grants = [
        grant(server.url_by("localhost", "")),
        grant(server.url("")),
        grant(stranger.url_by("localhost", "")),
        grant(plain.url("").replace("http:", "https:")),
    ];
    let setup = Daemon::setup();
    let ca = setup.folder().join("ca.pem");
    std::fs::write(&ca, pem).expect("the folder is the test's own");
    let setup = setup.flag("--http-ca", ca.to_str().expect("temporary names are plain"));
    let mut bus = setup.plugin("fetch", &guest("fetch"), &manifest(&grants.join(", "), "")).start();
    let kinds = kinds(
        &mut bus,
        vec![
            get(server.url_by("localhost", "/")),
            get(server.url("/")),
            get(stranger.url_by("localhost", "/")),
            get(plain.url("/").replace("http:", "https:")),
        ],
    );
    assert_eq!(kinds, ["200", "unreachable", "unreachable", "unreachable"]);
    assert_eq!((server.seen().len(), stranger.seen().len()), (1, 0));
    let log = bus.log();
    assert!(log.contains("the certificate is not good for `127.0.0.1`"), "{log}");
    assert!(log.contains("the certificate is not good for `localhost`"), "{log}");
    let address: IpAddr = [127, 0, 0, 1].into();
    assert!(log.contains(&format!("TLS with `{address}` failed")), "{log}");

    let unreadable = Daemon::setup().flag("--http-ca", "/nowhere/ca.pem").refused();
    assert!(
        unreadable.to_string().contains("the certificate authorities in /nowhere/ca.pem cannot be used"),
        "{unreadable}"
    );
}

/// A thousand calls wait for their answers at once, on two threads that run guests, and still others run.
#[test]
fn a_thousand_waiting_calls_hold_no_thread() {
    const CALLS: usize = 1_000;
    /// An instance with its connection, and its share of the bus: far less than a thread's stack and what is on it.
    const CALL_BYTES_MAX: u64 = 1 << 20;
    let (gate, opened) = (Arc::new(std::sync::Barrier::new(CALLS + 1)), Arc::new(std::sync::Barrier::new(CALLS + 1)));
    let (at_gate, at_opened) = (gate.clone(), opened.clone());
    let server = Outside::start(move |_| {
        at_gate.wait();
        at_opened.wait();
        Reply::text(200, "at last")
    });
    let grants = format!("{{ url = \"{}\", private = true }}", server.url(""));
    let patient = manifest(&grants, "").replace("20s", "10m").replace("concurrency = 4", "concurrency = 1000");
    let quick = "[[subscription]]\ntopics = [\"quick\"]";
    let setup = Daemon::setup().flag("--workers", "2").plugin("fetch", &guest("fetch"), &patient);
    let mut bus = setup.plugin("quick", &guest("glance"), quick).start();
    let idle_threads = bus.threads();
    bus.publish_many("errand", (0..CALLS).map(|_| (None::<String>, get(server.url("/")))));
    server.wait_until_seen(CALLS);
    gate.wait();
    // All wait now: none was answered, and none can be before the barrier opens.
    assert_eq!(server.connections(), CALLS);
    assert_eq!(bus.subscription("fetch").waiting.running, CALLS as u64);
    bus.publish_many("quick", (0..100).map(|_| (None::<String>, "\"x\"")));
    assert_eq!(bus.settled("quick").acked, 100);
    let threads = bus.threads();
    assert!(threads < idle_threads + 100, "{threads} threads, {idle_threads} before");
    opened.wait();
    let account = bus.settled("fetch");
    assert_eq!((account.acked, account.dead), (CALLS as u64, 0));
    let bytes = bus.peak_resident_bytes();
    assert!(bytes < CALLS as u64 * CALL_BYTES_MAX, "{} KiB for each call", bytes / 1024 / CALLS as u64);
}
