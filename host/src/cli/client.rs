//! The bus over HTTP, as commands talk to it.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use ureq::Body;
use ureq::http::Response;

use super::failure::Failure;

/// What a path may hold as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'~');
/// A bus on the same machine answers at once, or is not there.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// The bus answers a publish once it is synced, which a slow disk may delay.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// The longest answer that is read into memory.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

pub(crate) struct Client {
    agent: ureq::Agent,
    /// Without a slash at its end.
    base: String,
}

impl Client {
    /// `bus` is the address that the bus prints when it starts.
    pub(crate) fn new(bus: &str) -> Result<Self, Failure> {
        let base = bus.trim_end_matches('/').to_owned();
        let is_http = base.parse::<http::Uri>().is_ok_and(|uri| {
            uri.scheme_str() == Some("http") && uri.authority().is_some() && uri.path().trim_matches('/').is_empty()
        });
        if !is_http {
            let text = format!("`{bus}` is no address of a bus; give one such as http://127.0.0.1:7480");
            return Err(Failure::Usage(text));
        }
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // The bus is on this machine, whatever proxy the web needs.
            .proxy(None)
            .timeout_connect(Some(CONNECT_TIME_MAX))
            .timeout_recv_response(Some(ANSWER_TIME_MAX))
            .build();
        Ok(Self { agent: config.into(), base })
    }

    pub(crate) fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Answer, Failure> {
        let response = self.agent.get(format!("{}{path}", self.base)).query_pairs(query.iter().cloned()).call();
        self.answer(self.answered(response)?)
    }

    pub(crate) fn delete(&self, path: &str) -> Result<(), Failure> {
        let response = self.agent.delete(format!("{}{path}", self.base)).call();
        self.answered(response).map(drop)
    }

    /// A removal that answers what it came to.
    pub(crate) fn remove(&self, path: &str, query: &[(&str, String)]) -> Result<Answer, Failure> {
        let response = self.agent.delete(format!("{}{path}", self.base)).query_pairs(query.iter().cloned()).call();
        self.answer(self.answered(response)?)
    }

    /// The body of an answer, as it comes.
    pub(crate) fn stream(&self, path: &str, query: &[(&str, String)]) -> Result<impl Read, Failure> {
        let request = self.agent.get(format!("{}{path}", self.base)).query_pairs(query.iter().cloned());
        Ok(self.answered(request.call())?.into_body().into_reader())
    }

    pub(crate) fn post(&self, path: &str, headers: &[(String, String)], body: &[u8]) -> Result<Answer, Failure> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        self.answer(self.answered(request.send(body))?)
    }

    /// Sends bytes with a query, which says what is to be done with them.
    pub(crate) fn post_bytes(&self, path: &str, query: &[(&str, String)], body: &[u8]) -> Result<Answer, Failure> {
        let request = self.agent.post(format!("{}{path}", self.base)).query_pairs(query.iter().cloned());
        let request = request.header("content-type", "application/octet-stream");
        self.answer(self.answered(request.send(body))?)
    }

    /// The lines of a stream of server-sent events, as they come.
    pub(crate) fn lines(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<impl Iterator<Item = Result<String, Failure>>, Failure> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("accept", "text/event-stream");
        let response = self.answered(request.query_pairs(query.iter().cloned()).call())?;
        let base = self.base.clone();
        let lines = BufReader::new(response.into_body().into_reader()).lines();
        Ok(lines.map(move |line| {
            line.map_err(|error| Failure::Unreachable(format!("the connection to {base} broke: {error}")))
        }))
    }

    fn answered(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, Failure> {
        let mut response = response.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let document = serde_json::from_str(&text).unwrap_or_else(
            |_| json!({ "detail": format!("{} answered {status}, and not as a bus does: {text}", self.base) }),
        );
        Err(Failure::Problem { status: status.as_u16(), document })
    }

    fn answer(&self, mut response: Response<Body>) -> Result<Answer, Failure> {
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        match body {
            Ok(text) => Ok(Answer { text, base: self.base.clone() }),
            Err(error) => Err(Failure::Unreachable(format!("the answer of {} broke off: {error}", self.base))),
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        Failure::Unreachable(format!(
            "no bus answers at {}: {error}\nStart one with `sandpost serve`, or say where it is with --bus or SANDPOST_BUS.",
            self.base
        ))
    }
}

/// What the bus answered. The text is kept, for it holds the digits of numbers as they were published.
pub(crate) struct Answer {
    pub(crate) text: String,
    base: String,
}

impl Answer {
    pub(crate) fn value(&self) -> Result<Value, Failure> {
        self.read()
    }

    /// The items of a list, as they were written.
    pub(crate) fn items(&self) -> Result<Vec<&RawValue>, Failure> {
        self.read()
    }

    /// The items of a list.
    pub(crate) fn list(&self) -> Result<Vec<Value>, Failure> {
        self.read()
    }

    pub(crate) fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        serde_json::from_str(&self.text)
            .map_err(|error| Failure::Failed(format!("{} did not answer as a bus does: {error}", self.base)))
    }
}

/// A name as one part of a path.
pub(crate) fn segment(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_a_bus_are_taken() {
        for bus in ["http://127.0.0.1:7480", "http://localhost:7480/", "http://[::1]:7480"] {
            assert!(Client::new(bus).is_ok(), "{bus}");
        }
        for bus in ["", "127.0.0.1:7480", "https://127.0.0.1:7480", "http://", "http://127.0.0.1:7480/topics"] {
            assert!(matches!(Client::new(bus), Err(Failure::Usage(_))), "{bus}");
        }
    }

    #[test]
    fn names_cannot_change_the_path() {
        assert_eq!(segment("order.placed"), "order.placed");
        assert_eq!(segment("email:12"), "email%3A12");
        assert_eq!(segment("../>?#%"), "..%2F%3E%3F%23%25");
    }

    #[test]
    fn a_bus_that_is_not_there_is_said_to_be() {
        // The port is bound and given back: nobody listens on it.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let client = Client::new(&format!("http://127.0.0.1:{port}")).unwrap();
        let Err(Failure::Unreachable(text)) = client.get("/topics", &[]) else { panic!("nobody is there") };
        assert!(text.contains("sandpost serve") && text.contains("--bus"), "{text}");
    }
}
