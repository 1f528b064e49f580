//! A guest that makes the requests that its messages tell it to, for tests of outbound HTTP.
//!
//! The data of a message is an [`Errand`] as JSON. What comes of it is published as a [`Fetched`] to `fetched`, and the
//! message is acknowledged, whatever came of it. The types are a library too, for the tests that write the errands.

use sandpost_sdk::prelude::*;
use sandpost_sdk::{HttpError, HttpResponse};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A request to be made. In its URL and in the values of its headers, `{NAME}` stands for the secret of that name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Errand {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Bytes that are sent behind the body.
    pub body_bytes: usize,
    /// How many redirects are followed.
    pub redirects: u32,
    /// Names of secrets that the errand uses.
    pub secrets: Vec<String>,
    /// Waits for the answer for longer than the call may take.
    pub stubborn: bool,
    /// Fails as the SDK's `?` and `ok` would have it, in place of telling.
    pub strict: bool,
}

impl Default for Errand {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            url: String::new(),
            headers: Vec::new(),
            body: String::new(),
            body_bytes: 0,
            redirects: 0,
            secrets: Vec::new(),
            stubborn: false,
            strict: false,
        }
    }
}

impl fmt::Display for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).expect("an errand is JSON"))
    }
}

/// What came of an errand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// Of the answer; 0 where there is none.
    pub status: u16,
    /// The beginning of the answer's body.
    pub body: String,
    pub body_bytes: usize,
    /// The kind of the error and its text, where there is no answer.
    pub error: Option<(String, String)>,
}

/// Runs the errand in the message.
pub fn handle(Json(errand): Json<Errand>, bus: &Bus) -> Result<(), Failure> {
    let secrets: Vec<(String, String)> = (errand.secrets.iter())
        .map(|name| Ok((format!("{{{name}}}"), bus.secret(name)?)))
        .collect::<Result<_, Failure>>()?;
    let filled = |text: &str| secrets.iter().fold(text.to_owned(), |text, (name, secret)| text.replace(name, secret));
    let mut request = bus.http().request(&errand.method, filled(&errand.url)).follow_redirects(errand.redirects);
    for (name, value) in &errand.headers {
        request = request.header(name, filled(value));
    }
    let mut body = errand.body.clone().into_bytes();
    body.resize(body.len() + errand.body_bytes, b'x');
    if !body.is_empty() {
        request = request.body("text/plain", body);
    }
    if errand.stubborn {
        request = request.timeout(Duration::from_secs(3_600));
    }
    let answer = request.send();
    if errand.strict {
        answer?.ok()?;
        return Ok(());
    }
    bus.publish(Event::json("fetched", &told(answer))?.id(bus.message().id.clone()))?;
    Ok(())
}

sandpost_sdk::consumer!(handle);

fn told(answer: Result<HttpResponse, HttpError>) -> Fetched {
    const BODY_CHARACTERS: usize = 2_000;
    match answer {
        Ok(response) => Fetched {
            status: response.status,
            body: response.text().chars().take(BODY_CHARACTERS).collect(),
            body_bytes: response.body.len(),
            error: None,
        },
        Err(error) => {
            let kind = match &error {
                HttpError::NotGranted(_) => "not granted",
                HttpError::Invalid(_) => "invalid",
                HttpError::Unreachable(_) => "unreachable",
                HttpError::TimedOut(_) => "timed out",
                HttpError::Interrupted(_) => "interrupted",
                HttpError::TooLarge(_) => "too large",
            };
            Fetched { status: 0, body: String::new(), body_bytes: 0, error: Some((kind.to_owned(), error.to_string())) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandpost_sdk::testing::{TestBus, json_message, placeholder, response};

    #[test]
    fn it_tells_what_came_of_an_errand() {
        let url = "https://a.test/x";
        let mut bus = TestBus::new()
            .grant("fetched")
            .grant_http("https://a.test", &["key"])
            .http(|request| Ok(HttpResponse { body: request.headers[0].1.clone().into_bytes(), ..response(200) }));
        let headers = vec![("x".to_owned(), "{key}".to_owned())];
        let errand = Errand { url: url.to_owned(), headers, secrets: vec!["key".to_owned()], ..Errand::default() };
        let run = bus.deliver(handle, &json_message("errand", &errand));
        let body = placeholder("key");
        let body_bytes = body.len();
        assert_eq!(run.published_json::<Fetched>("fetched"), [Fetched { status: 200, body, body_bytes, error: None }]);

        let run = bus.deliver(handle, &json_message("errand", &Errand { url: "https://b.test".into(), ..errand }));
        let fetched = run.published_json::<Fetched>("fetched").remove(0);
        assert_eq!(fetched.error.map(|(kind, _)| kind).as_deref(), Some("not granted"));
    }
}
