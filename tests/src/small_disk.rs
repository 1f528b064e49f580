//! A disk that can be filled: a tmpfs in a mount namespace of its own, which vanishes with the test.
//!
//! A process that only waits holds the namespace, so that the disk outlives the daemons on it. Daemons
//! enter it through `nsenter`; the test reaches it through that process's root.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

/// A disk of a few MiB.
pub struct SmallDisk {
    holder: Child,
    mount: TempDir,
    own_user: bool,
}

impl SmallDisk {
    /// A disk of so many bytes, or why there can be none here.
    pub fn new(bytes: u64) -> Result<Arc<Self>, String> {
        let mount = tempfile::Builder::new().prefix("sandpost-disk-").tempdir().expect("there is a temporary folder");
        // Others than root may mount where they are root: in a user namespace of their own.
        let own_user = !rustix::process::geteuid().is_root();
        let mut command = Command::new("unshare");
        if own_user {
            command.args(["--user", "--map-root-user"]);
        }
        let script = "mount -t tmpfs -o size=$1,mode=700 tmpfs \"$2\" && echo mounted && exec cat";
        command.args(["--mount", "sh", "-c", script, "sh", &bytes.to_string()]).arg(mount.path());
        // It reads until the test is gone.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().map_err(|error| format!("`unshare` cannot be run: {error}"))?;
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a pipe can be read");
        if line != "mounted\n" {
            let output = holder.wait_with_output().expect("a child can be waited for");
            let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(format!("no tmpfs can be mounted: {error}"));
        }
        Ok(Arc::new(Self { holder, mount, own_user }))
    }

    /// The command that runs another one on this disk.
    pub(crate) fn enter(&self) -> Vec<OsString> {
        let target = self.holder.id().to_string();
        let mut words = vec!["nsenter", "--target", &target, "--mount"];
        if self.own_user {
            words.extend(["--user", "--preserve-credentials"]);
        }
        words.into_iter().map(OsString::from).collect()
    }

    pub(crate) fn data_folder(&self) -> PathBuf {
        self.mount.path().join("data")
    }

    fn filler(&self) -> PathBuf {
        let path = self.mount.path().join("filler");
        let path = path.strip_prefix("/").expect("it is absolute");
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(path)
    }

    /// Takes all the space that is left, to the last byte that a file can get.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("an empty file needs no space");
        let zeros = vec![0; 64 * 1024];
        let mut chunk = zeros.len();
        while chunk > 0 {
            match file.write(&zeros[..chunk]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => chunk /= 2,
                Err(error) => panic!("the disk cannot be filled: {error}"),
            }
        }
    }

    /// Gives it back.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).expect("it was filled before");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
