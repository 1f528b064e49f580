//! Requests to services outside the bus.

mod redirect;

use crate::{Bus, Delivery, Failure, Imports, Retry};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::time::Duration;

/// Makes HTTP requests, as far as the manifest grants them under `[grants] http`. [`Bus::http`] has it.
///
/// ```
/// use sandpost_sdk::prelude::*;
///
/// fn handle(message: &Message, bus: &Bus) -> Result<(), Failure> {
///     let key = bus.secret("api_key")?;
///     bus.http()
///         .post("https://api.example.com/v1/mails")
///         .bearer(key)
///         .idempotency_key()
///         .body("application/json", message.data.clone())
///         .send()?
///         .ok()?;
///     Ok(())
/// }
/// ```
///
/// A call that waits for an answer costs the bus no thread. What happens outside is not undone where the call
/// fails later or is run again: hand services that can use it the [idempotency key](RequestBuilder::idempotency_key).
pub struct Http<'a> {
    imports: &'a dyn Imports,
    delivery: &'a Delivery,
}

/// One request, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// In capitals, such as `POST`.
    pub method: String,
    /// The whole URL, with its scheme.
    pub url: String,
    /// Names and values, in order. `host` and `content-length` are set on the way.
    pub headers: Vec<(String, String)>,
    /// Empty where there is none.
    pub body: Vec<u8>,
    /// How long to wait for the beginning of the answer.
    pub timeout: Duration,
}

/// An answer with its whole body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// Such as 200.
    pub status: u16,
    /// Names in lower case, and values. Bytes beyond UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Who answered: the URL of the request, after redirects that were followed.
    pub url: String,
}

/// Why there is no answer.
///
/// By `?` it becomes a [`Failure`]: [unavailable](Failure::unavailable), but for a request that can never be sent. It is
/// no [`std::error::Error`] for that reason; [`OrFail`](crate::OrFail) takes it all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// The manifest does not grant it, or its host is at an address that is not granted.
    NotGranted(String),
    /// The URL, the method or a header is not valid.
    Invalid(String),
    /// The host's name or address, or its certificate, led to no connection.
    Unreachable(String),
    /// There was no answer in time.
    TimedOut(String),
    /// The connection ended, or the answer made no sense.
    Interrupted(String),
    /// The request or the answer is larger than the manifest allows.
    TooLarge(String),
}

/// A request in the making.
#[must_use = "a request is sent by `send`"]
pub struct RequestBuilder<'a> {
    http: Http<'a>,
    request: HttpRequest,
    redirects_max: u32,
}

impl<'a> Http<'a> {
    pub(crate) fn new(imports: &'a dyn Imports, delivery: &'a Delivery) -> Self {
        Http { imports, delivery }
    }

    /// A GET request.
    pub fn get(self, url: impl Into<String>) -> RequestBuilder<'a> {
        self.request("GET", url)
    }

    /// A POST request.
    pub fn post(self, url: impl Into<String>) -> RequestBuilder<'a> {
        self.request("POST", url)
    }

    /// A PUT request.
    pub fn put(self, url: impl Into<String>) -> RequestBuilder<'a> {
        self.request("PUT", url)
    }

    /// A DELETE request.
    pub fn delete(self, url: impl Into<String>) -> RequestBuilder<'a> {
        self.request("DELETE", url)
    }

    /// A request with any method.
    pub fn request(self, method: impl Into<String>, url: impl Into<String>) -> RequestBuilder<'a> {
        // A tenth of the call's time is left for what is done about a missing answer.
        let timeout = self.delivery.remaining(self.imports.now_ms()).mul_f64(0.9).max(Duration::from_millis(1));
        let (method, url) = (method.into(), url.into());
        let request = HttpRequest { method, url, headers: Vec::new(), body: Vec::new(), timeout };
        RequestBuilder { http: self, request, redirects_max: 0 }
    }

    /// In a component the import is called from here and not through [`Imports`], so that one that makes no
    /// request imports nothing for it.
    #[cfg(target_arch = "wasm32")]
    fn send(&self, request: &HttpRequest) -> Result<HttpResponse, HttpError> {
        let _ = self.imports;
        crate::wasm::http::send(request)
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn send(&self, request: &HttpRequest) -> Result<HttpResponse, HttpError> {
        self.imports.http_send(request)
    }
}

impl RequestBuilder<'_> {
    /// Adds a header. A secret's placeholder in the value becomes the secret on the way out.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.headers.push((name.into(), value.into()));
        self
    }

    /// Adds `Authorization: Bearer`, commonly with a [secret](Bus::secret).
    pub fn bearer(self, token: impl fmt::Display) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// Adds `Idempotency-Key` with the delivery's [key](Delivery::idempotency_key). A call that makes several
    /// requests of one kind adds a header of its own, with something behind the key that tells them apart.
    pub fn idempotency_key(self) -> Self {
        let key = self.http.delivery.idempotency_key.clone();
        self.header("idempotency-key", key)
    }

    /// Sets the body and its media type.
    pub fn body(mut self, content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        self.request.body = body.into();
        self.header("content-type", content_type)
    }

    /// Sets the body to a value encoded as JSON.
    ///
    /// # Errors
    /// Where the value cannot be JSON.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> serde_json::Result<Self> {
        let body = serde_json::to_vec(value)?;
        Ok(self.body("application/json", body))
    }

    /// Sets how long to wait for the beginning of the answer. Without it that is nine tenths of what is left of
    /// the call's time.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.request.timeout = timeout;
        self
    }

    /// Follows redirects, so many at most. Each is a new request, which has to be granted as any other; to another
    /// host, `Authorization` is left out.
    pub fn follow_redirects(mut self, max: u32) -> Self {
        self.redirects_max = max;
        self
    }

    /// Sends the request, and waits for the whole answer. Any status is an answer; [`HttpResponse::ok`] tells good
    /// ones from bad.
    ///
    /// # Errors
    /// [`HttpError`] where there is no answer.
    pub fn send(self) -> Result<HttpResponse, HttpError> {
        let Self { http, mut request, mut redirects_max } = self;
        loop {
            let response = http.send(&request)?;
            match redirect::next(&request, &response).filter(|_| redirects_max > 0) {
                Some(next) => request = next,
                None => return Ok(response),
            }
            redirects_max -= 1;
        }
    }
}

impl HttpResponse {
    /// The value of the first header of this name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text. Bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body, decoded as JSON.
    ///
    /// # Errors
    /// A [retry](Failure::retry) where it is no JSON or does not fit `T`, which says what is wrong.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let wanted = std::any::type_name::<T>();
            Failure::retry(format!("the answer of {} does not decode as JSON of {wanted}: {error}", self.url))
        })
    }

    /// Whether the status is 200 to 299.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// How long the service asks to wait (`Retry-After` in seconds).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after")?.trim().parse().ok().map(Duration::from_secs)
    }

    /// The answer itself where its status is 200 to 299.
    ///
    /// # Errors
    /// What other statuses say about this message, with the beginning of the body:
    ///
    /// | status | becomes |
    /// |---|---|
    /// | 408, 425, 429, 502, 503, 504 | [unavailable](Failure::unavailable): the service is busy or down |
    /// | 401, 403 | unavailable: the key is not good, which is not the message's fault |
    /// | 400, 404, 405, 410, 413, 414, 415, 422 | a [rejection](Failure::reject): the same request would fail again |
    /// | any other | a [retry](Failure::retry) |
    ///
    /// `Retry-After` is kept.
    pub fn ok(self) -> Result<Self, Failure> {
        const TEXT_CHARACTERS_MAX: usize = 500;
        if self.is_success() {
            return Ok(self);
        }
        let text: String = self.text().trim().chars().take(TEXT_CHARACTERS_MAX).collect();
        let separator = if text.is_empty() { "" } else { ": " };
        let reason = format!("{} answered {}{separator}{text}", self.url, self.status);
        let retry = Retry { reason, after: self.retry_after() };
        Err(match self.status {
            401 | 403 | 408 | 425 | 429 | 502..=504 => Failure::Unavailable(retry),
            400 | 404 | 405 | 410 | 413..=415 | 422 => Failure::Reject(retry.reason),
            _ => Failure::Retry(retry),
        })
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpError::NotGranted(text)
            | HttpError::Invalid(text)
            | HttpError::Unreachable(text)
            | HttpError::TimedOut(text)
            | HttpError::Interrupted(text)
            | HttpError::TooLarge(text) => f.write_str(text),
        }
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Invalid(text) | HttpError::TooLarge(text) => Failure::retry(text),
            error => Failure::unavailable(error.to_string()),
        }
    }
}

impl From<HttpError> for Box<dyn std::error::Error + Send + Sync> {
    fn from(error: HttpError) -> Self {
        error.to_string().into()
    }
}

impl<'a> Bus<'a> {
    /// Makes HTTP requests, as far as the manifest grants them.
    #[must_use]
    pub fn http(&self) -> Http<'a> {
        Http::new(self.imports(), self.delivery())
    }
}
