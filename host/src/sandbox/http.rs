//! Outbound HTTP: what a guest asks for through `wasi:http`, held against what its manifest grants.
//!
//! A request is refused before anything of it leaves (`Hooks::prepare`), waits until all that its call stands
//! on is synced, and goes out over connections of this version's own (`connector`, `network`). While it waits
//! the call holds no thread. Redirects are answers like any other: who follows one makes another request.

mod connector;
mod network;
mod response;
#[cfg(test)]
mod tests;

use std::future::{Future, ready};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::io::error::Error as IoError;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks};

pub use network::CaError;
pub(super) use network::Network;

use super::StateSynced;
use super::call::Version;
use super::guest::Guest;
use crate::limits;
use crate::policy::Manifest;
use crate::policy::http::{HttpGrant, Origin};
use connector::{ConnectError, Connector};

type RequestBody = Limited<WasiBody>;
type Answer = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

/// What one version of a consumer may send, and its connections.
pub(super) struct Outbound {
    grants: Arc<[HttpGrant]>,
    request_bytes_max: u64,
    response_bytes_max: u64,
    network: Arc<Network>,
    /// Made with the first request: most consumers make none.
    client: OnceLock<Client<Connector, RequestBody>>,
}

impl Outbound {
    pub(super) fn new(manifest: &Manifest, network: Arc<Network>) -> Self {
        Self {
            grants: manifest.http.clone().into(),
            request_bytes_max: manifest.limits.http_request_bytes,
            response_bytes_max: manifest.limits.http_response_bytes,
            network,
            client: OnceLock::new(),
        }
    }

    fn client(&self) -> &Client<Connector, RequestBody> {
        self.client.get_or_init(|| {
            let connector = Connector { network: self.network.clone(), grants: self.grants.clone() };
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(limits::HTTP_IDLE_MAX)
                .pool_max_idle_per_host(limits::HTTP_IDLE_CONNECTIONS_MAX)
                .http1_max_buf_size(limits::HTTP_HEAD_BYTES_MAX)
                .http1_max_headers(limits::HTTP_HEADERS_MAX)
                .set_host(false)
                .build(connector)
        })
    }
}

/// One instance's side of `wasi:http`. Made when the guest first touches it.
pub(super) struct Http {
    context: WasiHttpCtx,
    hooks: Hooks,
}

impl Http {
    pub(super) fn new(version: Arc<Version>) -> Self {
        let (open, logged) = (Arc::new(()), Arc::new(AtomicU32::new(0)));
        let mut context = WasiHttpCtx::new();
        context.set_field_size_limit(2 * limits::HTTP_HEAD_BYTES_MAX);
        Self { context, hooks: Hooks { version, sending: None, open, logged } }
    }

    /// Makes it ready for the next call.
    pub(super) fn begin(&mut self) {
        self.hooks.sending = None;
        // A request of the call before may still be on its way out, and write its line.
        self.hooks.logged = Arc::new(AtomicU32::new(0));
    }

    /// Whether a request waits, or an answer is unread.
    pub(super) fn is_open(&self) -> bool {
        Arc::strong_count(&self.hooks.open) > 1
    }

    pub(super) fn view<'a>(&'a mut self, table: &'a mut ResourceTable) -> WasiHttpCtxView<'a> {
        WasiHttpCtxView { hooks: &mut self.hooks, table, ctx: &mut self.context }
    }

    /// As [`Http::view`], for the one function that sends.
    pub(super) fn sending<'a>(&'a mut self, table: &'a mut ResourceTable, sending: Sending) -> WasiHttpCtxView<'a> {
        self.hooks.sending = Some(sending);
        self.view(table)
    }
}

/// The call that is about to send a request.
pub(super) struct Sending {
    /// Absent where no request is to leave: while the guest is set up, and in trial runs.
    pub(super) synced: Option<StateSynced>,
    pub(super) subscription: Arc<str>,
    /// The message's topic and sequence.
    pub(super) delivery: String,
}

struct Hooks {
    version: Arc<Version>,
    sending: Option<Sending>,
    /// Shared by all that is open, which so is counted.
    open: Arc<()>,
    /// Lines that were logged about requests of this call.
    logged: Arc<AtomicU32>,
}

/// Who a line of the log is about, and how many of them there may be.
struct Lines {
    consumer: Arc<str>,
    subscription: Arc<str>,
    delivery: String,
    logged: Arc<AtomicU32>,
}

impl Lines {
    fn warn(&self, text: std::fmt::Arguments<'_>) {
        // Relaxed: it only counts.
        if self.logged.fetch_add(1, Ordering::Relaxed) < limits::HTTP_REFUSALS_LOGGED_MAX {
            let (consumer, subscription, delivery) = (&*self.consumer, &*self.subscription, &*self.delivery);
            tracing::warn!(target: "consumer", consumer, subscription, delivery, "{text}");
        }
    }
}

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _guest_is_done: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        match self.prepare(request, options) {
            Ok(exchange) => Box::new(exchange.run()),
            Err(error) => Box::new(ready(Err(error))),
        }
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        tracing::debug!(%error, "an answer broke off");
        ErrorCode::HttpProtocolError
    }
}

impl Hooks {
    /// Refuses a request, or makes it ready to leave.
    fn prepare(&mut self, request: Request<WasiBody>, options: Option<RequestOptions>) -> Result<Exchange, Error> {
        let version = self.version.clone();
        let Some(Sending { synced, subscription, delivery }) = self.sending.take() else {
            return Err(Error::HttpRequestDenied);
        };
        let logged = self.logged.clone();
        let lines = Lines { consumer: version.consumer.clone(), subscription, delivery, logged };
        let Some(synced) = synced else { return Err(Error::HttpRequestDenied) };
        if Arc::strong_count(&self.open) > limits::HTTP_REQUESTS_OPEN_MAX {
            let max = limits::HTTP_REQUESTS_OPEN_MAX;
            lines.warn(format_args!("a request was refused: one call has at most {max} of them open at once"));
            return Err(Error::ConnectionLimitReached);
        }
        let (mut parts, body) = request.into_parts();
        let origin = Origin::of(&parts.uri).map_err(|error| {
            lines.warn(format_args!("a request was refused: {error}"));
            Error::HttpRequestUriInvalid
        })?;
        let method = &parts.method;
        let path = parts.uri.path();
        let grants = &version.outbound.grants;
        let Some(grant) = grants.iter().find(|grant| grant.covers(&origin, method, path)) else {
            // A placeholder is no secret, and neither is a path; but a path may be long, or forge a line.
            let (method, shown): (&Method, String) = (method, path.chars().take(200).collect());
            let nearby = grants.iter().any(|grant| grant.origin == origin);
            let hint = if nearby { "its grant has other paths or methods" } else { "its host is not granted" };
            lines.warn(format_args!(
                "{method} {origin}{} was refused: {hint}; what may be sent stands in `http` under [grants]",
                shown.escape_debug()
            ));
            return Err(Error::HttpRequestDenied);
        };
        if let Some(name) =
            parts.uri.path_and_query().and_then(|target| version.secrets.named_in(target.as_str().as_bytes()))
        {
            lines.warn(format_args!(
                "a request to {origin} was refused: the secret `{name}` is in its URL, and secrets go into headers only"
            ));
            return Err(Error::HttpRequestDenied);
        }
        for value in parts.headers.values_mut() {
            match version.secrets.placed(value, grant) {
                Ok(None) => {}
                Ok(Some(placed)) => *value = placed,
                Err(misplaced) => {
                    let name = misplaced.name;
                    lines.warn(format_args!(
                        "a request to {origin} was refused: the secret `{name}` may not go there; name it in the `secrets` of that grant"
                    ));
                    return Err(Error::HttpRequestDenied);
                }
            }
        }
        let bytes_max = version.outbound.request_bytes_max;
        if length(&parts.headers).is_some_and(|bytes| bytes > bytes_max) {
            return Err(Error::HttpRequestBodySize(Some(bytes_max)));
        }
        // In the one form in which it was compared, so that what is connected to is what was granted.
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let slash = if target.starts_with('/') { "" } else { "/" };
        parts.uri = format!("{origin}{slash}{target}").parse().map_err(|_| Error::HttpRequestUriInvalid)?;
        let body = Limited::new(body, usize::try_from(bytes_max).unwrap_or(usize::MAX));
        Ok(Exchange {
            request: Request::from_parts(parts, body),
            options,
            synced,
            version,
            lines,
            origin,
            open: self.open.clone(),
        })
    }
}

/// A request that may leave, and what is needed to bring back its answer.
struct Exchange {
    request: Request<RequestBody>,
    options: Option<RequestOptions>,
    synced: StateSynced,
    version: Arc<Version>,
    lines: Lines,
    origin: Origin,
    open: Arc<()>,
}

impl Exchange {
    async fn run(self) -> Answer {
        if !self.synced.await {
            return Err(Error::ConnectionTerminated);
        }
        let outbound = &self.version.outbound;
        let answer = outbound.client().request(self.request);
        let answer = match head_limit(self.options.as_ref()) {
            Some(limit) => tokio::time::timeout(limit, answer).await.map_err(|_| Error::ConnectionReadTimeout)?,
            None => answer.await,
        };
        let answer = answer.map_err(|error| failure(&error, &self.origin, &self.lines, outbound))?;
        let bytes_max = outbound.response_bytes_max;
        if let Some(bytes) = length(answer.headers()).filter(|bytes| *bytes > bytes_max) {
            let origin = &self.origin;
            self.lines.warn(format_args!(
                "an answer of {origin} was refused: it has {bytes} bytes; at most {bytes_max} are taken (`http_response` under [limits])"
            ));
            return Err(Error::HttpResponseBodySize(Some(bytes)));
        }
        let quiet_max = self.options.and_then(|options| options.between_bytes_timeout);
        let open = self.open;
        let answer = answer.map(|body| response::Body::new(body, bytes_max, quiet_max, open).boxed_unsync());
        Ok((answer, Box::new(ready(Ok(())))))
    }
}

fn length(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// How long the guest wants to wait for the head of an answer, its connection included. Without a word of its own
/// that is as long as its call may take.
fn head_limit(options: Option<&RequestOptions>) -> Option<Duration> {
    let options = options?;
    Some(options.first_byte_timeout?.saturating_add(options.connect_timeout.unwrap_or_default()))
}

/// Why there is no answer, for the guest; and for the log, where only the operator can do something about it.
fn failure(error: &legacy::Error, origin: &Origin, lines: &Lines, outbound: &Outbound) -> Error {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<ConnectError>() {
            return no_connection(error, origin, lines);
        }
        if error.is::<LengthLimitError>() {
            return Error::HttpRequestBodySize(Some(outbound.request_bytes_max));
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_parse_too_large() {
                return Error::HttpResponseHeaderSectionSize(None);
            }
            if error.is_parse() {
                return Error::HttpProtocolError;
            }
        }
        cause = error.source();
    }
    Error::ConnectionTerminated
}

fn no_connection(error: &ConnectError, origin: &Origin, lines: &Lines) -> Error {
    let answer = match error {
        ConnectError::Url(_) => Error::HttpRequestUriInvalid,
        ConnectError::Lookup { error, .. } => Error::DnsError { rcode: Some(error.clone()), info_code: None },
        ConnectError::Private { .. } | ConnectError::Metadata { .. } | ConnectError::Nowhere { .. } => {
            Error::DestinationIpProhibited
        }
        ConnectError::Refused { .. } => Error::ConnectionRefused,
        ConnectError::Unreachable { .. } => Error::DestinationUnavailable,
        ConnectError::TimedOut { .. } => Error::ConnectionTimeout,
        ConnectError::Certificate { .. } => Error::TlsCertificateError,
        ConnectError::Tls { .. } => Error::TlsProtocolError,
        ConnectError::TooMany { .. } => Error::ConnectionLimitReached,
    };
    lines.warn(format_args!("no connection to {origin}: {error}"));
    answer
}

/// `http-error-code`: why a body broke off, if that is why a stream failed.
pub(super) fn code_of(guest: &mut Guest, error: &Resource<IoError>) -> wasmtime::Result<Option<ErrorCode>> {
    let (_, table) = guest.http_parts();
    let error = table.get(error)?;
    if let Some(code) = error.downcast_ref::<ErrorCode>() {
        return Ok(Some(code.clone()));
    }
    Ok(error.downcast_ref::<Error>().and_then(|error| match error {
        Error::HttpResponseBodySize(bytes) => Some(ErrorCode::HttpResponseBodySize(*bytes)),
        Error::HttpResponseIncomplete => Some(ErrorCode::HttpResponseIncomplete),
        Error::HttpProtocolError => Some(ErrorCode::HttpProtocolError),
        Error::ConnectionReadTimeout => Some(ErrorCode::ConnectionReadTimeout),
        _ => None,
    }))
}

impl wasmtime_wasi_http::WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let (http, table) = self.http_parts();
        http.view(table)
    }
}
