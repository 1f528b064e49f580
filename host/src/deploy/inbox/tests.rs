use std::os::unix::fs::PermissionsExt;

use super::*;

const QUIET: Duration = Duration::from_millis(300);
const MANIFEST: &str = "[[subscription]]\ntopics = [\"a\"]\n";

/// A folder with a clock that only the test moves. The kernel's own times count for nothing, unless
/// the wall clock says that they are long past.
struct Desk {
    folder: tempfile::TempDir,
    inbox: Inbox,
    now: Instant,
    wall: SystemTime,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(folder.path().to_owned(), QUIET);
        Self { folder, inbox, now: Instant::now(), wall: UNIX_EPOCH }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.folder.path().join(name), content).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join(name)).unwrap();
    }

    fn look_after(&mut self, passed: Duration, active: &[&str]) -> Look {
        self.now += passed;
        self.inbox.look(active.iter().copied(), self.now, self.wall).unwrap()
    }

    fn settled(&mut self, active: &[&str]) -> BTreeMap<String, Found> {
        self.look_after(Duration::ZERO, active);
        let look = self.look_after(QUIET, active);
        assert_eq!(look.again_in, None, "{look:?}");
        look.found
    }
}

fn digest(found: &Found) -> Digest {
    match found {
        Found::Pair { digest, .. } => *digest,
        other => panic!("no pair: {other:?}"),
    }
}

fn problem(found: &Found) -> &str {
    match found {
        Found::Unusable { problem } => problem,
        other => panic!("usable: {other:?}"),
    }
}

#[test]
fn files_are_taken_once_they_lie_still() {
    let mut desk = Desk::new();
    desk.write("email.wasm", "half");
    desk.write("email.toml", MANIFEST);
    let look = desk.look_after(Duration::ZERO, &[]);
    assert!(matches!(look.found["email"], Found::Unsettled));
    assert_eq!(look.again_in, Some(QUIET));

    let almost = QUIET - Duration::from_millis(1);
    desk.write("email.wasm", "half and half");
    assert!(matches!(desk.look_after(almost, &[]).found["email"], Found::Unsettled));
    // The time of quiet began anew.
    let look = desk.look_after(almost, &[]);
    assert!(matches!(look.found["email"], Found::Unsettled));
    assert_eq!(look.again_in, Some(Duration::from_millis(1)));
    let look = desk.look_after(Duration::from_millis(1), &[]);
    assert_eq!(digest(&look.found["email"]), digest_of(b"half and half"));
    assert_eq!(look.again_in, None);
}

#[test]
fn a_file_that_anyone_may_write_is_not_taken() {
    let mut desk = Desk::new();
    desk.write("email.wasm", "one");
    desk.write("email.toml", MANIFEST);
    let path = desk.folder.path().join("email.wasm");
    let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o666);
    assert!(problem(&desk.settled(&[])["email"]).contains("email.wasm is writable by everyone (mode 666)"));
    mode(0o664);
    assert_eq!(digest(&desk.settled(&[])["email"]), digest_of(b"one"));
}

#[test]
fn files_that_have_lain_still_are_taken_at_the_first_look() {
    let mut desk = Desk::new();
    desk.write("email.wasm", "one");
    desk.write("email.toml", MANIFEST);
    desk.wall = SystemTime::now() + Duration::from_secs(60);
    assert_eq!(digest(&desk.look_after(Duration::ZERO, &[]).found["email"]), digest_of(b"one"));
    // That one is missing can be seen only by looking twice.
    desk.remove("email.toml");
    assert!(matches!(desk.look_after(Duration::ZERO, &[]).found["email"], Found::Unsettled));
    assert!(problem(&desk.look_after(QUIET, &[]).found["email"]).contains("email.toml is missing"));
}

#[test]
fn what_did_not_change_is_not_read_again() {
    let mut desk = Desk::new();
    desk.write("email.wasm", "one");
    desk.write("email.toml", MANIFEST);
    desk.settled(&[]);
    desk.settled(&[]);
    desk.write("email.toml", format!("{MANIFEST}order = \"none\"\n"));
    desk.settled(&[]);
    assert_eq!(desk.inbox.reads, 1);
    // The same size, and the same time of modification.
    let path = desk.inbox.path("email", "wasm");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    desk.write(".email.wasm.tmp", "two");
    let other = desk.folder.path().join(".email.wasm.tmp");
    File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(digest(&desk.settled(&[])["email"]), digest_of(b"two"));
    assert_eq!(desk.inbox.reads, 2);
    assert_eq!(desk.inbox.bytes("email", digest_of(b"two")), Ok(Some(b"two".to_vec())));
    assert_eq!(desk.inbox.bytes("email", digest_of(b"one")), Ok(None));
}

#[test]
fn files_that_are_gone_are_gone_after_a_moment() {
    let mut desk = Desk::new();
    desk.write("email.wasm", "one");
    desk.write("email.toml", MANIFEST);
    desk.settled(&["email"]);
    desk.remove("email.wasm");
    assert!(matches!(desk.look_after(Duration::ZERO, &["email"]).found["email"], Found::Unsettled));
    desk.remove("email.toml");
    assert!(matches!(desk.look_after(QUIET, &["email"]).found["email"], Found::Unsettled));
    assert!(matches!(desk.look_after(QUIET, &["email"]).found["email"], Found::Gone));
    // Nobody misses a consumer that is not active.
    assert!(desk.look_after(QUIET, &[]).found.is_empty());
}

#[test]
fn a_consumer_may_be_text() {
    let mut desk = Desk::new();
    desk.write("hello.wat", "(module)");
    desk.write("hello.toml", MANIFEST);
    assert_eq!(digest(&desk.settled(&[])["hello"]), digest_of(b"(module)"));
    assert_eq!(desk.inbox.bytes("hello", digest_of(b"(module)")), Ok(Some(b"(module)".to_vec())));
    assert!(desk.inbox.component_path("hello").ends_with("hello.wat"));
    desk.write("hello.wasm", "binary");
    assert!(problem(&desk.settled(&["hello"])["hello"]).contains("both there"));
    desk.remove("hello.wat");
    assert_eq!(digest(&desk.settled(&["hello"])["hello"]), digest_of(b"binary"));
}

#[test]
fn what_cannot_be_deployed_is_named_and_hurts_nobody_else() {
    let mut desk = Desk::new();
    desk.write("good.wasm", "one");
    desk.write("good.toml", MANIFEST);
    desk.write("alone.wasm", "");
    desk.write("lonely.toml", "");
    desk.write("two words.wasm", "");
    desk.write("latin.wasm", "");
    desk.write("latin.toml", b"[config]\nname = \"\xfc\"");
    desk.write("wrong.wasm", "");
    desk.write("wrong.toml", "topics = 1");
    desk.write("large.wasm", "");
    desk.write("large.toml", "");
    let large = File::options().write(true).open(desk.inbox.path("large", "wasm")).unwrap();
    large.set_len(limits::COMPONENT_BYTES_MAX as u64 + 1).unwrap();
    desk.write("folder.toml", MANIFEST);
    fs::create_dir(desk.inbox.path("folder", "wasm")).unwrap();
    desk.write("pipe.toml", MANIFEST);
    let pipe = std::process::Command::new("mkfifo").arg(desk.inbox.path("pipe", "wasm")).status().unwrap();
    assert!(pipe.success());
    for ignored in [".hidden.wasm", ".good.wasm.tmp", "README.md", "good.wasm.bak", "Makefile"] {
        desk.write(ignored, "");
    }
    let found = desk.settled(&[]);
    let expected = [
        ("alone", "alone.toml is missing"),
        ("lonely", "lonely.wasm is missing"),
        ("two words", "letters, digits"),
        ("latin", "not UTF-8"),
        ("large", "at most 134217728 are allowed"),
        ("folder", "not a regular file"),
        ("pipe", "not a regular file"),
    ];
    for (stem, text) in expected {
        assert!(problem(&found[stem]).contains(text), "{stem}: {:?}", found[stem]);
    }
    assert_eq!(digest(&found["good"]), digest_of(b"one"));
    let Found::Pair { manifest, .. } = &found["wrong"] else { panic!("{:?}", found["wrong"]) };
    assert!(manifest.manifest.is_err());
    assert_eq!(found.len(), expected.len() + 2, "{found:?}");
}

#[test]
fn a_folder_that_anyone_can_write_to_is_refused() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("bus/plugins");
    create(&folder).unwrap();
    create(&folder).unwrap();
    let id = check(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)).unwrap();
    let error = check(&folder).unwrap_err();
    assert!(error.to_string().contains("(mode 777)") && error.to_string().contains("chmod o-w"), "{error}");

    fs::rename(&folder, outer.path().join("old")).unwrap();
    assert!(matches!(check(&folder), Err(FolderError::Unreadable { .. })));
    create(&folder).unwrap();
    assert_ne!(check(&folder).unwrap(), id);
    let file = outer.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(check(&file), Err(FolderError::NotAFolder { path: file.clone() }));
    assert_eq!(create(&file), Err(FolderError::NotAFolder { path: file }));
}
