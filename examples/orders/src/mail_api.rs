//! A mail API, as a shop rents one: it takes mails over HTTP, and sends each once, by its idempotency key.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::watch;

/// The key by which the API knows the shop.
pub(crate) const API_KEY: &str = "key-of-the-shop-17";

/// The API, on a thread of its own. It outlives the bus, as a service of somebody else does.
pub(crate) struct MailApi {
    address: SocketAddr,
    desk: Arc<Desk>,
}

struct Desk {
    book: Mutex<Book>,
    /// Whether answers are given.
    answers: watch::Sender<bool>,
}

/// What the API has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Book {
    /// By idempotency key.
    pub(crate) mails: BTreeMap<String, Sent>,
    /// Requests that wait for an answer.
    pub(crate) waiting: usize,
    /// Requests without the right key, or without an idempotency key.
    pub(crate) refused: usize,
    /// Requests that have the idempotency key of another mail.
    pub(crate) mixed_up: usize,
}

/// A mail that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) mail: Value,
    /// How often it was asked for.
    pub(crate) requests: usize,
}

impl Book {
    /// Requests for mails that were sent already.
    pub(crate) fn repeated(&self) -> usize {
        self.mails.values().map(|sent| sent.requests - 1).sum()
    }

    /// Takes a mail, and says what to answer.
    fn take(&mut self, authorization: Option<&str>, key: Option<&str>, mail: Value) -> StatusCode {
        let known = authorization.and_then(|text| text.strip_prefix("Bearer ")) == Some(API_KEY);
        let Some(key) = key.filter(|_| known) else {
            self.refused += 1;
            return StatusCode::UNAUTHORIZED;
        };
        let sent = self.mails.entry(key.to_owned()).or_insert_with(|| Sent { mail: mail.clone(), requests: 0 });
        if sent.mail != mail {
            self.mixed_up += 1;
            return StatusCode::CONFLICT;
        }
        sent.requests += 1;
        if sent.requests == 1 { StatusCode::ACCEPTED } else { StatusCode::OK }
    }
}

impl MailApi {
    /// # Errors
    /// Where no port is free.
    pub(crate) fn start() -> Result<Self> {
        let desk = Arc::new(Desk { book: Mutex::default(), answers: watch::Sender::new(true) });
        let routes = Router::new().route("/v1/mails", post(take)).with_state(desk.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || runtime.block_on(async { axum::serve(listener, routes).await }));
        Ok(Self { address, desk })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1/mails", self.address)
    }

    /// Gives no answers until [`MailApi::answer`]. What comes meanwhile is sent all the same.
    pub(crate) fn hold_answers(&self) {
        self.desk.answers.send_replace(false);
    }

    pub(crate) fn answer(&self) {
        self.desk.answers.send_replace(true);
    }

    /// What it has seen by now.
    pub(crate) fn book(&self) -> Book {
        self.desk.book().clone()
    }
}

impl Desk {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request as waiting, also where its client goes away.
struct Waiting<'a>(&'a Desk);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.book().waiting -= 1;
    }
}

async fn take(State(desk): State<Arc<Desk>>, headers: HeaderMap, Json(mail): Json<Value>) -> (StatusCode, Json<Value>) {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let status = {
        let mut book = desk.book();
        book.waiting += 1;
        book.take(header("authorization"), header("idempotency-key"), mail)
    };
    let _waiting = Waiting(&desk);
    // The sender lives as long as the desk.
    let _ = desk.answers.subscribe().wait_for(|answers| *answers).await;
    (status, Json(json!({ "status": status.as_u16() })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_sent_once_by_its_key() {
        let mut book = Book::default();
        let bearer = format!("Bearer {API_KEY}");
        assert_eq!(book.take(Some(&bearer), Some("a"), json!(1)), StatusCode::ACCEPTED);
        assert_eq!(book.take(Some(&bearer), Some("a"), json!(1)), StatusCode::OK);
        assert_eq!(book.take(Some(&bearer), Some("b"), json!(1)), StatusCode::ACCEPTED);
        assert_eq!(book.take(Some(&bearer), Some("b"), json!(2)), StatusCode::CONFLICT);
        assert_eq!(book.take(Some(&bearer), None, json!(1)), StatusCode::UNAUTHORIZED);
        assert_eq!(book.take(Some("Bearer other"), Some("c"), json!(1)), StatusCode::UNAUTHORIZED);
        assert_eq!((book.mails.len(), book.repeated(), book.refused, book.mixed_up), (2, 1, 2, 1));
    }
}
