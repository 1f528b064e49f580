//! `wasi:config`: the manifest's `[config]`, and placeholders for its secrets.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Linker, Lower, WasmStr};

use crate::sandbox::guest::Guest;

/// One interface under the names that it has had.
pub(super) const STORES: [&str; 3] =
    ["wasi:config/store@0.2.0-draft", "wasi:config/runtime@0.2.0-draft", "wasi:config/store@0.2.0-rc.1"];

/// Nothing here fails; the type is part of the interface.
#[derive(Clone, Debug, ComponentType, Lower)]
#[component(variant)]
#[expect(dead_code, reason = "no answer is an error")]
enum ConfigError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

type Answer<T> = (Result<T, ConfigError>,);

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    for name in STORES {
        let mut store = linker.instance(name)?;
        store.func_wrap("get", |store: StoreContextMut<'_, Guest>, (key,): (WasmStr,)| {
            let key = key.to_str(&store)?;
            let version = &store.data().version;
            let plain = version.config.get(&*key).cloned();
            let value = plain.or_else(|| version.secrets.placeholder(&key).map(str::to_owned));
            Ok::<Answer<Option<String>>, _>((Ok(value),))
        })?;
        store.func_wrap("get-all", |store: StoreContextMut<'_, Guest>, (): ()| {
            let config = &store.data().version.config;
            let all = config.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            Ok::<Answer<Vec<(String, String)>>, _>((Ok(all),))
        })?;
    }
    Ok(())
}
