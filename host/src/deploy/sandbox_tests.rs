//! Deployments with the real sandbox: a component that the engine takes, and components that it does not.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::store::digest_of;
use super::*;
use crate::outcome::Digest;
use crate::sandbox::{Sandbox, SandboxOptions};

/// The smallest consumer; `(; version ;)` is where versions differ.
const CONSUMER: &str = r#"(component
  (import "sandpost:consumer/types@0.1.0" (instance $types
    (type $message (record (field "id" string) (field "source" string) (field "type" string)
      (field "subject" (option string)) (field "topic" string) (field "key" (option string))
      (field "content-type" (option string)) (field "accepted-ms" u64)
      (field "attributes" (list (tuple string string))) (field "data" (list u8))))
    (export "message" (type (eq $message)))
    (type $delivery (record (field "subscription" string) (field "sequence" u64) (field "attempt" u32)
      (field "max-attempts" u32) (field "redrives" u32) (field "first-attempt-ms" u64)
      (field "deadline-ms" u64) (field "idempotency-key" string)))
    (export "delivery" (type (eq $delivery)))
    (type $retry (record (field "reason" string) (field "after-ms" (option u64))))
    (export "retry" (type $retry-named (eq $retry)))
    (type $failure (variant (case "retry" $retry-named) (case "reject" string) (case "unavailable" $retry-named)))
    (export "failure" (type (eq $failure)))))
  (alias export $types "message" (type $message))
  (alias export $types "delivery" (type $delivery))
  (alias export $types "failure" (type $failure))
  (core module $code
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "handle") (param i32) (result i32) (; version ;) (i32.const 0)))
  (core instance $code (instantiate $code))
  (func (export "handle") (param "message" $message) (param "delivery" $delivery) (result (result (error $failure)))
    (canon lift (core func $code "handle") (memory (core memory $code "memory")) (realloc (core func $code "realloc")))))"#;

fn component(version: &str) -> Vec<u8> {
    wat::parse_str(CONSUMER.replace("(; version ;)", version)).unwrap()
}

#[derive(Default)]
struct Running {
    program: Mutex<Option<(PluginRecord, Arc<Program>)>>,
}

impl Host<Program> for Running {
    fn activate(&self, stem: &str, version: ActiveVersion<Program>) -> Result<(), ActivateError> {
        assert_eq!(&**version.program.consumer(), stem);
        assert_eq!(version.program.digest(), version.record.digest);
        *self.program.lock().unwrap() = Some((version.record, version.program));
        Ok(())
    }

    fn record(&self, _stem: &str, record: PluginRecord) -> Result<(), ActivateError> {
        self.program.lock().unwrap().as_mut().expect("it runs").0 = record;
        Ok(())
    }

    fn refund(&self, _stem: &str, _due: DueRefund) -> Result<Refunded, ActivateError> {
        Ok(Refunded::default())
    }

    fn deactivate(&self, _stem: &str) -> Result<(), ActivateError> {
        *self.program.lock().unwrap() = None;
        Ok(())
    }
}

#[test]
fn components_are_deployed_refused_and_deployed_again() {
    let folders = tempfile::tempdir().unwrap();
    let (plugins, data) = (folders.path().join("plugins"), folders.path().join("data"));
    fs::create_dir_all(&data).unwrap();
    let artifacts = SandboxOptions::new(data.join("artifacts"));
    let sandbox = Arc::new(Sandbox::new(SandboxOptions { pooling: false, ..artifacts }).unwrap());
    let running = Arc::new(Running::default());
    let start = |records| {
        let mut options = Options::new(plugins.clone(), data.clone(), Arc::new(|| 7));
        options.quiet = Duration::from_millis(40);
        Deployments::start(options, running.clone(), sandbox.clone(), records).unwrap()
    };
    let put = |name: &str, bytes: &[u8]| {
        let temporary = plugins.join(format!(".{name}.tmp"));
        fs::write(&temporary, bytes).unwrap();
        fs::rename(temporary, plugins.join(name)).unwrap();
    };
    let wait = |deployments: &Deployments, digest: Digest, problem: Option<&str>| {
        let reached = deployments.wait_until(Duration::from_secs(60), |views| {
            let [view] = views else { return false };
            view.digest == Some(digest.to_string())
                && match problem {
                    None => view.problem.is_none(),
                    Some(text) => view.problem.as_ref().is_some_and(|problem| problem.contains(text)),
                }
        });
        assert!(reached, "never {digest} with {problem:?}: {:#?}", deployments.views());
        let program = running.program.lock().unwrap();
        assert_eq!(program.as_ref().map(|(_, program)| program.digest()), Some(digest));
    };

    let (one, two) = (component("nop"), component("nop nop"));
    let deployments = start(Vec::new());
    put("email.wasm", &one);
    put("email.toml", b"[[subscription]]\ntopics = [\"order.placed\"]\n");
    wait(&deployments, digest_of(&one), None);

    for (bytes, problem) in [
        (&b"\0asm\x0d\0\x01\0rubbish"[..], "plugins/email.wasm: it is no valid WebAssembly"),
        (&two[..two.len() / 2], "it is no valid WebAssembly"),
        (&wat::parse_str("(component)").unwrap(), "it exports no function `handle`"),
        (b"", "it is empty"),
    ] {
        put("email.wasm", bytes);
        wait(&deployments, digest_of(&one), Some(problem));
    }
    put("email.wasm", &two);
    wait(&deployments, digest_of(&two), None);
    deployments.stop();

    let record = running.program.lock().unwrap().take().unwrap().0;
    let deployments = start(vec![("email".to_owned(), record)]);
    wait(&deployments, digest_of(&two), None);
}
