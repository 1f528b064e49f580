//! `http` under `[grants]`, and `[secrets]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http::Method;

use super::keys::{ManifestError, ManifestProblem, Table, Value, shortened};
use super::{NAME_ALLOWED, is_name};
use crate::limits;
use crate::policy::SecretSource;
use crate::policy::http::{HttpGrant, Scheme};

/// Variables are the bus's own environment, so a manifest gets at those only that are meant for it.
pub(crate) const SECRET_VARIABLE_PREFIX: &str = "SANDPOST_SECRET_";
const EXAMPLE: &str = "a list of URLs, such as [\"https://api.example.com\"]";

/// The requests that are granted.
pub(super) fn grants(root: &Table<'_>) -> Result<Vec<HttpGrant>, ManifestError> {
    let Some(table) = root.get("grants") else { return Ok(Vec::new()) };
    let Some(value) = table.table()?.get("http") else { return Ok(Vec::new()) };
    let elements = value.elements(EXAMPLE)?;
    if elements.len() > limits::HTTP_GRANTS_MAX {
        let allowed = format!("a list of at most {}", limits::HTTP_GRANTS_MAX);
        return Err(value.impossible(format!("{} URLs", elements.len()), allowed));
    }
    elements.iter().map(|element| grant(root, element)).collect()
}

fn grant(root: &Table<'_>, value: &Value<'_>) -> Result<HttpGrant, ManifestError> {
    if !value.is_table() {
        let grant = url(value)?;
        check_reach(value, &grant)?;
        return Ok(grant);
    }
    let table = value.table()?;
    table.allow(&["url", "methods", "private", "secrets"])?;
    let place = table.require("url", "a URL, such as \"https://api.example.com/v1/\"")?;
    let mut grant = url(&place)?;
    if let Some(methods) = table.get("methods") {
        let elements = methods.elements("a list of methods, such as [\"GET\", \"POST\"]")?;
        if elements.is_empty() {
            return Err(methods.impossible("[]", "a list of at least one method; all are granted without it"));
        }
        grant.methods = elements.iter().map(method).collect::<Result<_, _>>()?;
    }
    if let Some(private) = table.get("private") {
        grant.private = private.truth()?;
    }
    check_reach(&place, &grant)?;
    if let Some(secrets) = table.get("secrets") {
        for element in secrets.elements("a list of names in [secrets], such as [\"api_key\"]")? {
            let name = element.text("a name in [secrets] as a text")?;
            if root.get("secrets").map(|secrets| secrets.table()).transpose()?.and_then(|all| all.get(name)).is_none() {
                return Err(element.error(ManifestProblem::NoSecret { name: shortened(name) }));
            }
            if grant.origin.scheme == Scheme::Http && !grant.private {
                return Err(element.error(ManifestProblem::Plaintext { origin: grant.origin.to_string() }));
            }
            grant.secrets.push(name.to_owned());
        }
    }
    Ok(grant)
}

fn url(value: &Value<'_>) -> Result<HttpGrant, ManifestError> {
    let text = value.text("a URL as a text, or a table with `url`")?;
    HttpGrant::parse(text).map_err(|error| value.error(ManifestProblem::Url { value: shortened(text), error }))
}

/// What would be refused with every request is better said at once.
fn check_reach(value: &Value<'_>, grant: &HttpGrant) -> Result<(), ManifestError> {
    if grant.origin.is_private() && !grant.private {
        return Err(value.error(ManifestProblem::Private { value: grant.origin.to_string() }));
    }
    Ok(())
}

fn method(value: &Value<'_>) -> Result<Method, ManifestError> {
    let text = value.text("a method as a text")?;
    let method =
        Method::from_bytes(text.as_bytes()).ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_uppercase()));
    // CONNECT makes a tunnel, and TRACE sends a request's headers back.
    let method = method.filter(|method| *method != Method::CONNECT && *method != Method::TRACE);
    method.ok_or_else(|| value.impossible(text, "a method in capitals, such as \"GET\"; never CONNECT or TRACE"))
}

/// The secrets, each with where it is read.
pub(super) fn secrets(root: &Table<'_>) -> Result<BTreeMap<String, SecretSource>, ManifestError> {
    let Some(value) = root.get("secrets") else { return Ok(BTreeMap::new()) };
    let table = value.table()?;
    let granted = grants(root)?;
    let config = root.get("config").map(|config| config.table()).transpose()?;
    let mut secrets = BTreeMap::new();
    for (name, value) in table.entries() {
        if !is_name(name) {
            return Err(value.impossible(name, format!("named by {NAME_ALLOWED}")));
        }
        if config.as_ref().is_some_and(|config| config.get(name).is_some()) {
            return Err(value.error(ManifestProblem::ConfigToo { name: name.to_owned() }));
        }
        secrets.insert(name.to_owned(), source(&value)?);
        if !granted.iter().any(|grant| grant.secrets.iter().any(|secret| secret == name)) {
            return Err(value.error(ManifestProblem::UnusedSecret));
        }
    }
    if secrets.len() > limits::SECRETS_MAX {
        let allowed = format!("at most {} secrets", limits::SECRETS_MAX);
        return Err(value.impossible(format!("{} secrets", secrets.len()), allowed));
    }
    Ok(secrets)
}

fn source(value: &Value<'_>) -> Result<SecretSource, ManifestError> {
    let table = value.table()?;
    table.allow(&["env", "file"])?;
    match (table.get("env"), table.get("file")) {
        (Some(variable), None) => {
            let name = variable.text("a variable's name as a text")?;
            let allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
            let rest = name.strip_prefix(SECRET_VARIABLE_PREFIX).unwrap_or_default();
            if rest.is_empty() || !rest.bytes().all(allowed) {
                let wanted = format!("{SECRET_VARIABLE_PREFIX} and then capitals, digits and `_`");
                return Err(variable.impossible(name, wanted));
            }
            Ok(SecretSource::Variable(name.to_owned()))
        }
        (None, Some(file)) => {
            let path = file.text("a file's path as a text")?;
            if !Path::new(path).is_absolute() {
                return Err(file.impossible(path, "the whole path of a file, from `/`"));
            }
            Ok(SecretSource::File(PathBuf::from(path)))
        }
        (Some(_), Some(_)) => Err(value.impossible("both", "either `env` or `file`")),
        (None, None) => Err(table.missing("env", "a secret has either `env` or `file`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Manifest;

    fn read(text: &str) -> Result<Manifest, String> {
        let text = format!("[[subscription]]\ntopics = [\"a\"]\n{text}");
        super::super::parse("email", Path::new("email.toml"), &text).map_err(|error| error.to_string())
    }

    #[test]
    fn grants_are_urls_with_what_narrows_and_widens_them() {
        let manifest = read(
            "[grants]\nhttp = [\"https://a.test\", { url = \"https://b.test:8443/v1/\", methods = [\"GET\", \"PURGE\"] },\n\
             { url = \"http://127.0.0.1:8025\", private = true, secrets = [\"key\"] }]\n\
             [secrets]\nkey = { env = \"SANDPOST_SECRET_KEY\" }",
        );
        let manifest = manifest.unwrap();
        let [first, second, third] = &manifest.http[..] else { panic!("{manifest:?}") };
        assert_eq!(*first, HttpGrant::parse("https://a.test").unwrap());
        assert_eq!(second.methods, [Method::GET, Method::from_bytes(b"PURGE").unwrap()]);
        assert_eq!((second.path.as_str(), second.private), ("/v1/", false));
        assert!(third.private && third.secrets == ["key"]);
        let source = SecretSource::Variable("SANDPOST_SECRET_KEY".to_owned());
        assert_eq!(manifest.secrets, BTreeMap::from([("key".to_owned(), source)]));
    }

    #[test]
    fn what_cannot_be_granted_is_refused_with_its_reason() {
        let secret = "\n[secrets]\nkey = { env = \"SANDPOST_SECRET_KEY\" }";
        let plain = "{ url = \"http://a.test\", secrets = [\"key\"] }";
        for (http, expected) in [
            ("\"ftp://a.test\"", "`grants.http`: `ftp://a.test` cannot be granted: it does not begin with"),
            ("\"http://localhost:80\"", "`http://localhost` is not of the public internet; if it is meant"),
            ("{ url = \"https://10.0.0.1\" }", "`grants.http.url`: `https://10.0.0.1` is not of the public internet"),
            ("{ methods = [\"GET\"] }", "`grants.http.url`: it is missing; a URL"),
            (
                "{ url = \"https://a.test\", methods = [\"get\"] }",
                "`get` is not allowed; it must be a method in capitals",
            ),
            ("{ url = \"https://a.test\", methods = [\"CONNECT\"] }", "`CONNECT` is not allowed"),
            ("{ url = \"https://a.test\", methods = [] }", "a list of at least one method"),
            ("{ url = \"https://a.test\", path = \"/\" }", "allowed are `url`, `methods`, `private`, `secrets`"),
            ("{ url = \"https://a.test\", secrets = [\"kee\"] }", "[secrets] has no `kee`"),
            (plain, "secrets go over https, or to a grant that is `private`; `http://a.test` is neither"),
            ("7", "it is a whole number; it must be a URL as a text"),
        ] {
            let error = read(&format!("[grants]\nhttp = [{http}]{secret}")).unwrap_err();
            assert!(error.starts_with("email.toml:4: `grants.http"), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_secret_is_read_from_one_place_that_is_meant_for_it() {
        let grant = "[grants]\nhttp = [{ url = \"https://a.test\", secrets = [\"key\"] }]\n";
        for (rest, expected) in [
            ("[secrets]\nkey = { env = \"PATH\" }", "`PATH` is not allowed; it must be SANDPOST_SECRET_ and then"),
            ("[secrets]\nkey = { env = \"SANDPOST_SECRET_\" }", "is not allowed"),
            ("[secrets]\nkey = { file = \"key.txt\" }", "`key.txt` is not allowed; it must be the whole path"),
            ("[secrets]\nkey = {}", "a secret has either `env` or `file`"),
            ("[secrets]\nkey = { env = \"SANDPOST_SECRET_K\", file = \"/k\" }", "either `env` or `file`"),
            ("[secrets]\nkey = \"plain\"", "it is a text; it must be a table"),
            ("[config]\nkey = 1\n[secrets]\nkey = { file = \"/k\" }", "`key` is in [config] too"),
            ("[secrets]\nkey = { file = \"/k\" }\nother = { file = \"/k\" }", "no grant under [grants] names it"),
        ] {
            let error = read(&format!("{grant}{rest}")).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
