//! The HTTP edge of a whole bus: no request is answered with a fault of the bus, every refusal is a problem document,
//! and what is said to be JSON is JSON.
//!
//! An input is a session as an `.http` file has it: requests with their headers and bodies, one after the other, between
//! them a line that begins with `###`. Every session begins with the same bus, so that a finding can be repeated. With
//! `FUZZ_SHOW=1` every answer is shown, which says what an input is about.

#![no_main]

mod http_text;

use std::sync::OnceLock;

use axum::body::Body;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{Method, Request, StatusCode, Uri};
use libfuzzer_sys::fuzz_target;
use sandpost::fuzzing::{Answer, Edge};
use serde_json::Value;

/// Requests of one session.
const REQUESTS_MAX: usize = 8;

static EDGE: OnceLock<Edge> = OnceLock::new();

fuzz_target!(
    init: {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files").keep();
        assert!(EDGE.set(Edge::start(&folder)).is_ok(), "it starts once");
    },
    |session: &[u8]| {
        let edge = EDGE.get().expect("it was started");
        let mut is_changed = false;
        for text in requests(session).into_iter().take(REQUESTS_MAX) {
            let Some(request) = request(text) else { continue };
            let (method, uri) = (request.method().clone(), request.uri().clone());
            let answer = edge.answer(request);
            check(&method, &uri, &answer);
            is_changed |= method != Method::GET && answer.head.status.is_success();
        }
        if is_changed {
            edge.begin_anew();
        }
    }
);

fn requests(mut session: &[u8]) -> Vec<&[u8]> {
    let (mut requests, mut begin, mut at) = (Vec::new(), session, 0);
    while let Some((line, rest)) = http_text::line(session) {
        if line.starts_with(b"###") {
            requests.push(&begin[..at]);
            (begin, at) = (rest, 0);
        } else {
            at += session.len() - rest.len();
        }
        session = rest;
    }
    requests.push(&begin[..at]);
    requests
}

/// `None` where it is nothing that the HTTP library would hand on.
fn request(text: &[u8]) -> Option<Request<Body>> {
    let (line, rest) = http_text::line(text)?;
    let mut words = line.split(|byte| *byte == b' ');
    let method = Method::from_bytes(words.next()?).ok()?;
    let uri = Uri::try_from(words.next()?).ok()?;
    let (headers, body) = http_text::message(rest);
    let mut request = Request::new(Body::from(body.to_vec()));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Some(request)
}

fn check(method: &Method, uri: &Uri, answer: &Answer) {
    let status = answer.head.status;
    let body = String::from_utf8_lossy(&answer.body);
    let kind = answer.head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let what = || format!("{method} {uri} is answered {status}, {kind}: {body}");
    if std::env::var_os("FUZZ_SHOW").is_some() {
        println!("{}\n", what());
    }
    assert!(!status.is_server_error(), "{}", what());
    // Nothing is sent behind the head of these.
    let is_bare = method == Method::HEAD || status == StatusCode::NO_CONTENT;
    assert!(!is_bare || answer.body.is_empty(), "{}", what());
    if status.is_client_error() {
        assert_eq!(kind, "application/problem+json", "{}", what());
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        assert!(answer.head.headers.contains_key(ALLOW), "{}", what());
    }
    if is_bare || !kind.contains("json") || kind.contains("ndjson") {
        return;
    }
    let document: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {}", what()));
    if status.is_client_error() {
        assert_eq!(document["status"], status.as_u16(), "{}", what());
        let text = |member: &str| document[member].as_str().is_some_and(|text| !text.is_empty());
        assert!(["type", "title", "detail", "hint"].into_iter().all(text), "{}", what());
    }
}
