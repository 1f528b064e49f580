//! Requests through `wasi:http`.

use crate::{HttpError, HttpRequest, HttpResponse};

#[allow(missing_docs, reason = "the standard's documentation is in the WIT")]
mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "http-client",
        generate_all,
    });
}

use bindings::wasi::http::outgoing_handler;
use bindings::wasi::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
    http_error_code,
};
use bindings::wasi::io::streams::{InputStream, OutputStream, StreamError};

/// What is asked of a stream at a time.
const CHUNK_BYTES: u64 = 64 * 1024;

pub(crate) fn send(request: &HttpRequest) -> Result<HttpResponse, HttpError> {
    let outgoing = outgoing(request)?;
    let body = (!request.body.is_empty()).then(|| outgoing.body().expect("a request's body is taken once"));
    let options = RequestOptions::new();
    let nanos = u64::try_from(request.timeout.as_nanos()).unwrap_or(u64::MAX);
    // A host that knows no such option has limits of its own.
    let _ = options.set_first_byte_timeout(Some(nanos));
    let pending = outgoing_handler::handle(outgoing, Some(options)).map_err(|code| error(&request.url, &code))?;
    if let Some(body) = body {
        // Where the other side goes away meanwhile, the answer says why.
        let written = write(&body, &request.body);
        let _ = written.map(|()| OutgoingBody::finish(body, None));
    }
    pending.subscribe().block();
    let answer = pending.get().expect("it is ready").expect("it is taken once");
    read(answer.map_err(|code| error(&request.url, &code))?, &request.url)
}

fn outgoing(request: &HttpRequest) -> Result<OutgoingRequest, HttpError> {
    let invalid = |what: String| HttpError::Invalid(what);
    let url = &request.url;
    let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid(format!("{url:?} is no URL")))?;
    let scheme = match scheme {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        other => return Err(invalid(format!("{url:?} has the scheme {other:?}; there are http and https"))),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let path = match path.as_bytes() {
        [] => "/".to_owned(),
        [b'?', ..] => format!("/{path}"),
        _ => path.to_owned(),
    };

    let mut headers: Vec<(String, Vec<u8>)> =
        request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.as_bytes().to_vec())).collect();
    // Some servers take no body whose length they are not told before.
    if !request.body.is_empty() || matches!(request.method.as_str(), "POST" | "PUT" | "PATCH") {
        headers.push(("content-length".to_owned(), request.body.len().to_string().into_bytes()));
    }
    let fields = Fields::from_list(&headers).map_err(|error| invalid(format!("a header is not taken: {error}")))?;
    let outgoing = OutgoingRequest::new(fields);
    let method = method(&request.method);
    outgoing.set_method(&method).map_err(|()| invalid(format!("{:?} is no method", request.method)))?;
    let bad_url = |()| invalid(format!("{url:?} is no valid URL"));
    outgoing.set_scheme(Some(&scheme)).map_err(bad_url)?;
    outgoing.set_authority(Some(authority)).map_err(bad_url)?;
    outgoing.set_path_with_query(Some(&path)).map_err(bad_url)?;
    Ok(outgoing)
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

fn write(body: &OutgoingBody, mut bytes: &[u8]) -> Result<(), StreamError> {
    let stream: OutputStream = body.write().expect("a body's stream is taken once");
    while !bytes.is_empty() {
        let allowed = usize::try_from(stream.check_write()?).unwrap_or(usize::MAX);
        if allowed == 0 {
            stream.subscribe().block();
            continue;
        }
        let (now, rest) = bytes.split_at(bytes.len().min(allowed));
        stream.write(now)?;
        bytes = rest;
    }
    stream.blocking_flush()
}

fn read(answer: IncomingResponse, url: &str) -> Result<HttpResponse, HttpError> {
    let status = answer.status();
    let headers = answer.headers().entries().into_iter();
    let headers = headers.map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned())).collect();
    let incoming: IncomingBody = answer.consume().expect("an answer's body is taken once");
    let stream: InputStream = incoming.stream().expect("a body's stream is taken once");
    let mut body = Vec::new();
    loop {
        match stream.blocking_read(CHUNK_BYTES) {
            Ok(chunk) => body.extend_from_slice(&chunk),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(failed)) => {
                return Err(match http_error_code(&failed) {
                    Some(code) => error(url, &code),
                    None => HttpError::Interrupted(format!("{url}: {}", failed.to_debug_string())),
                });
            }
        }
    }
    Ok(HttpResponse { status, headers, body, url: url.to_owned() })
}

/// The host's code in words. Those that its log has more about say so.
fn error(url: &str, code: &ErrorCode) -> HttpError {
    use ErrorCode as Code;

    let of_grant = |what: &str| HttpError::NotGranted(format!("{url}: {what}; the bus's log says more"));
    match code {
        Code::HttpRequestDenied => of_grant("the manifest does not grant the request"),
        Code::DestinationIpProhibited => of_grant("the host is at an address that is not granted"),
        Code::HttpRequestUriInvalid | Code::HttpRequestMethodInvalid => {
            HttpError::Invalid(format!("{url}: the URL or the method is not valid"))
        }
        Code::DnsTimeout => HttpError::Unreachable(format!("{url}: the host's name could not be looked up in time")),
        Code::DnsError(why) => {
            let why = why.rcode.as_deref().unwrap_or("no reason was given");
            HttpError::Unreachable(format!("{url}: the host's name could not be looked up: {why}"))
        }
        Code::ConnectionRefused => HttpError::Unreachable(format!("{url}: the host refuses connections")),
        Code::ConnectionTimeout => HttpError::Unreachable(format!("{url}: there was no connection in time")),
        Code::DestinationUnavailable | Code::DestinationNotFound | Code::DestinationIpUnroutable => {
            HttpError::Unreachable(format!("{url}: the host cannot be reached"))
        }
        Code::ConnectionLimitReached => HttpError::Unreachable(format!("{url}: too many requests are open")),
        Code::TlsCertificateError => HttpError::Unreachable(format!("{url}: the host's certificate is not good")),
        Code::TlsProtocolError | Code::TlsAlertReceived(_) => {
            HttpError::Unreachable(format!("{url}: the host speaks no TLS that is understood"))
        }
        Code::ConnectionReadTimeout | Code::ConnectionWriteTimeout | Code::HttpResponseTimeout => {
            HttpError::TimedOut(format!("{url}: there was no answer in time"))
        }
        Code::HttpRequestBodySize(_) => HttpError::TooLarge(format!("{url}: the request's body is too large")),
        Code::HttpResponseBodySize(_) => HttpError::TooLarge(format!("{url}: the answer's body is too large")),
        Code::HttpResponseHeaderSectionSize(_) | Code::HttpResponseHeaderSize(_) => {
            HttpError::TooLarge(format!("{url}: the answer's headers are too large"))
        }
        Code::ConnectionTerminated | Code::HttpResponseIncomplete => {
            HttpError::Interrupted(format!("{url}: the connection ended before the answer did"))
        }
        other => HttpError::Interrupted(format!("{url}: {other}")),
    }
}
