//! Where the binary and the guests are, and how one guest becomes many versions.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The bytes of a guest, by its crate's name.
///
/// # Panics
/// Where it was not built.
pub fn guest(name: &str) -> Vec<u8> {
    let Some(path) = find(name) else {
        panic!(
            "there is no {name}.wasm in {:?}: run `make test`, which builds the guests, or set SANDPOST_GUESTS",
            folders()
        );
    };
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether a guest is there.
pub fn is_built(name: &str) -> bool {
    find(name).is_some()
}

fn find(name: &str) -> Option<PathBuf> {
    folders().into_iter().map(|folder| folder.join(format!("{name}.wasm"))).find(|path| path.is_file())
}

fn folders() -> Vec<PathBuf> {
    match std::env::var_os("SANDPOST_GUESTS") {
        Some(folder) => vec![PathBuf::from(folder)],
        None => vec![target_folder().join("guests"), target_folder().join("wasm32-wasip2/guest")],
    }
}

/// The binary under test.
///
/// # Panics
/// Where it was not built.
pub(crate) fn binary() -> PathBuf {
    let path = match std::env::var_os("SANDPOST_BIN") {
        Some(path) => PathBuf::from(path),
        None => target_folder().join("debug/sandpost"),
    };
    assert!(path.is_file(), "there is no {}: run `make test`, which builds it, or set SANDPOST_BIN", path.display());
    path
}

/// The folder that this test was built into.
fn target_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    // TARGET/PROFILE/deps/TEST
    test.ancestors().nth(3).map(Path::to_owned).expect("tests are built into a target folder")
}

/// Another version of a component: the same code with other bytes, and so with another digest. The text
/// stands in a custom section, which every reader of WebAssembly passes over.
pub fn stamped(component: &[u8], stamp: &str) -> Vec<u8> {
    let name = b"stamp";
    let body_bytes = 1 + name.len() + stamp.len();
    assert!(body_bytes < 128, "longer lengths take more than one byte");
    let mut stamped = component.to_vec();
    stamped.extend([0, body_bytes as u8, name.len() as u8]);
    stamped.extend(name);
    stamped.extend(stamp.as_bytes());
    stamped
}

/// The digest of a component, as the bus names it.
pub fn digest(component: &[u8]) -> String {
    Sha256::digest(component).iter().map(|byte| format!("{byte:02x}")).collect()
}
