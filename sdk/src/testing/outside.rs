//! Services outside the bus: what is granted of them, and what they answer by script.

use crate::{HttpError, HttpRequest, HttpResponse};
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;

type Script = dyn Fn(&HttpRequest) -> Result<HttpResponse, HttpError>;

/// What is granted and what answers.
#[derive(Clone, Default)]
pub(super) struct Outside {
    grants: Vec<Grant>,
    pub(super) secrets: BTreeSet<String>,
    script: Option<Rc<Script>>,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(from = "GrantForm")]
pub(super) struct Grant {
    url: String,
    methods: Vec<String>,
    secrets: BTreeSet<String>,
}

/// The two forms in a manifest.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum GrantForm {
    Url(String),
    Table {
        url: String,
        #[serde(default)]
        methods: Vec<String>,
        #[serde(default)]
        secrets: BTreeSet<String>,
    },
}

impl From<GrantForm> for Grant {
    fn from(form: GrantForm) -> Self {
        match form {
            GrantForm::Url(url) => Grant { url, methods: Vec::new(), secrets: BTreeSet::new() },
            GrantForm::Table { url, methods, secrets } => Grant { url, methods, secrets },
        }
    }
}

impl Grant {
    /// By the text of the URL: the bus compares hosts and paths more carefully.
    fn covers(&self, request: &HttpRequest) -> bool {
        let rest = request.url.strip_prefix(&self.url);
        let below =
            rest.is_some_and(|rest| rest.is_empty() || self.url.ends_with('/') || rest.starts_with(['/', '?', '#']));
        below && (self.methods.is_empty() || self.methods.contains(&request.method))
    }
}

impl Outside {
    pub(super) fn new(grants: Vec<Grant>, secrets: BTreeSet<String>) -> Self {
        Outside { grants, secrets, script: None }
    }

    pub(super) fn grant(&mut self, url: String, secrets: &[&str]) {
        let secrets: BTreeSet<String> = secrets.iter().map(|name| (*name).to_owned()).collect();
        self.secrets.extend(secrets.iter().cloned());
        self.grants.push(Grant { url, methods: Vec::new(), secrets });
    }

    pub(super) fn answers(&mut self, script: impl Fn(&HttpRequest) -> Result<HttpResponse, HttpError> + 'static) {
        self.script = Some(Rc::new(script));
    }

    pub(super) fn placeholder(&self, name: &str) -> Option<String> {
        self.secrets.contains(name).then(|| placeholder(name))
    }

    /// What the service answers, where the request would leave at all.
    pub(super) fn send(&self, request: &HttpRequest) -> Result<HttpResponse, HttpError> {
        let refused = |why: &str| HttpError::NotGranted(format!("{} {}: {why}", request.method, request.url));
        let Some(grant) = self.grants.iter().find(|grant| grant.covers(request)) else {
            return Err(refused("it is not in [grants] http"));
        };
        for name in &self.secrets {
            let placeholder = placeholder(name);
            if request.url.contains(&placeholder) {
                return Err(refused("a secret goes into headers only"));
            }
            let sends = request.headers.iter().any(|(_, value)| value.contains(&placeholder));
            if sends && !grant.secrets.contains(name) {
                return Err(refused(&format!("the grant does not name the secret `{name}`")));
            }
        }
        let script =
            self.script.as_ref().expect("a test whose handler makes requests says with `http` what is answered");
        let mut response = script(request)?;
        if response.url.is_empty() {
            response.url.clone_from(&request.url);
        }
        Ok(response)
    }
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").field("grants", &self.grants).field("secrets", &self.secrets).finish_non_exhaustive()
    }
}

/// What a handler under test is told in place of a secret, and what is in the requests that it makes.
pub fn placeholder(secret: &str) -> String {
    format!("<secret {secret}>")
}

/// An answer with this status and no body.
pub fn response(status: u16) -> HttpResponse {
    HttpResponse { status, headers: Vec::new(), body: Vec::new(), url: String::new() }
}

/// An answer with this status and a value encoded as JSON.
///
/// # Panics
/// Where the value cannot be JSON.
pub fn json_response(status: u16, value: &(impl serde::Serialize + ?Sized)) -> HttpResponse {
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    HttpResponse { headers, body: serde_json::to_vec(value).expect("the body is to be JSON"), ..response(status) }
}
