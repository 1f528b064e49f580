//! The table of paths: what each one takes and answers.

mod dead_letters;
mod moves;
mod scheduled;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::header::{CONTENT_TYPE, LINK};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{Semaphore, watch};

use super::body::{Bodies, BodyError};
use super::cloud_events::{self, Encoded, Fill, Mode};
use super::guard::{self, Allowed};
use super::problem::{self, Problem};
use super::{IngressSettings, tail};
use crate::bus::{Bus, BusError, WentBack};
use crate::limits::{BATCH_BYTES_MAX, KIB, MESSAGE_ATTRIBUTES_BYTES_MAX};
use crate::message::{Millis, Offset, Sequence, SharedMessage};
use crate::outcome::Digest;
use crate::publish::{Accepted, AcceptedPlace};
use crate::topic::{TopicFilter, TopicName};
use crate::view::{DeploymentView, PluginView, SubscriptionView, TopicView};

/// Items of one answer: by default, and at most.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1_000;
/// Messages are read a few at a time until an answer holds this many bytes of them, however many were
/// asked for: a thousand messages of the largest size would be more than the bus keeps in memory.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * KIB;
const READ_MESSAGES: usize = 16;

/// The body of a command: at most some thousands of ids.
const COMMAND_BYTES_MAX: usize = 256 * KIB;

/// What every route may use.
#[derive(Clone)]
struct Edge {
    bus: Bus,
    bodies: Bodies,
    message_data_bytes_max: usize,
    tails: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

pub(super) fn router(bus: Bus, address: SocketAddr, settings: &IngressSettings, stop: watch::Receiver<bool>) -> Router {
    let edge = Edge {
        bus,
        bodies: Bodies::new(),
        message_data_bytes_max: settings.message_data_bytes_max,
        tails: Arc::new(Semaphore::new(tail::TAILS_MAX)),
        stop,
    };
    let allowed = Arc::new(Allowed::new(address, &settings.allowed_hosts, &settings.allowed_origins));
    Router::new()
        .route("/topics", get(topics))
        .route("/topics/{topic}", post(publish).delete(moves::remove_topic))
        .route("/topics/{topic}/messages", get(messages))
        .route("/topics/{topic}/tail", get(tail))
        .route("/subscriptions", get(subscriptions))
        .route("/subscriptions/{name}", get(subscription).delete(remove_subscription))
        .route("/subscriptions/{name}/seek", post(moves::seek))
        .route("/subscriptions/{name}/pause", post(pause_subscription))
        .route("/subscriptions/{name}/resume", post(resume_subscription))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/redrive", post(dead_letters::redrive))
        .route("/dead-letters/drop", post(dead_letters::drop_many))
        .route("/dead-letters/rehearse", post(dead_letters::rehearse))
        .route("/dead-letters/{id}", get(dead_letters::show).delete(dead_letters::drop_one))
        .merge(scheduled::routes())
        .route("/state", get(state::sizes))
        .route("/state/{consumer}", get(state::scan).delete(state::remove))
        .route("/state/{consumer}/{key}", get(state::entry))
        .route("/plugins", get(plugins))
        .route("/plugins/{name}/history", get(plugin_history))
        .route("/plugins/{name}/rollback", post(roll_back_plugin))
        .route("/plugins/{name}/permit", post(permit_plugin))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/problems/{kind}", get(problem_kind))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(allowed, guard::check))
        .with_state(edge)
}

/// `POST /topics/{topic}`: 201 with where the message stands, once it is synced; 202 where it waits for its
/// time; 200 where it came before. A batch is accepted or refused as one, and answers an array; its status is
/// 201 where any message of it was stored, else 202 where any waits.
async fn publish(
    State(edge): State<Edge>,
    PathText(topic): PathText,
    Parameters(NoParameters {}): Parameters<NoParameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let topic = TopicName::client(&topic).map_err(|error| Problem::bad_topic(&topic, &error))?;
    let mode = Mode::of(&headers);
    let body = edge.bodies.read(&headers, body, edge.body_bytes_max(mode)).await.map_err(|error| match error {
        BodyError::TooLarge { bytes_max } if mode == Mode::Batched => {
            Problem::new(&problem::BATCH_TOO_LARGE, &error).facts(json!({ "bytes_max": bytes_max }))
        }
        error => error.into(),
    })?;
    let events = cloud_events::decode(mode, &topic, &headers, &body.bytes, now_ms(), fill)?;
    if events.is_empty() {
        return Ok(Json(json!([])).into_response());
    }
    let mut accepted = edge.bus.publish(events).await?;
    let status = accepted_status(&accepted);
    Ok(match mode {
        Mode::Batched => (status, Json(accepted)).into_response(),
        _ => (status, Json(accepted.remove(0))).into_response(),
    })
}

fn accepted_status(accepted: &[Accepted]) -> StatusCode {
    let any = |wanted: fn(&Accepted) -> bool| accepted.iter().any(wanted);
    if any(|one| !one.duplicate && matches!(one.place, AcceptedPlace::Message { .. })) {
        StatusCode::CREATED
    } else if any(|one| matches!(one.place, AcceptedPlace::Scheduled { .. })) {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    }
}

fn now_ms() -> Millis {
    Millis::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

fn fill() -> Fill {
    Fill { id: uuid::Uuid::now_v7().to_string(), time: jiff::Timestamp::now().to_string() }
}

impl Edge {
    /// Bytes that are read of a publish. Where the data is written as JSON it may be up to twice as long
    /// as it is; the bus holds its own limits against what was decoded.
    fn body_bytes_max(&self, mode: Mode) -> usize {
        match mode {
            Mode::Plain | Mode::Binary => self.message_data_bytes_max,
            Mode::Structured => 2 * (self.message_data_bytes_max + MESSAGE_ATTRIBUTES_BYTES_MAX),
            Mode::Batched => 2 * BATCH_BYTES_MAX,
        }
    }

    /// Asks the bus what it may have to read from its disk, off the threads that serve connections.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Bus) -> Result<T, BusError> + Send + 'static,
    ) -> Result<T, Problem> {
        let bus = self.bus.clone();
        let answer = tokio::task::spawn_blocking(move || question(&bus)).await;
        Ok(answer.expect("the bus answers and does not panic")?)
    }
}

async fn topics(
    State(edge): State<Edge>,
    Parameters(NoParameters {}): Parameters<NoParameters>,
) -> Json<Vec<TopicView>> {
    Json(edge.bus.topics())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessagesParameters {
    from: Option<Sequence>,
    limit: Option<usize>,
}

/// `GET /topics/{topic}/messages`: a CloudEvents batch. Where there may be more, `Link` has the next page.
async fn messages(
    State(edge): State<Edge>,
    PathText(topic): PathText,
    Parameters(parameters): Parameters<MessagesParameters>,
) -> Result<Response, Problem> {
    let topic = TopicName::any(&topic).map_err(|error| Problem::bad_topic(&topic, &error))?;
    let limit = limit(parameters.limit)?;
    let from = parameters.from.unwrap_or(1);
    let name = topic.clone();
    let found = edge.ask(move |bus| read_messages(bus, name.as_str(), from, limit)).await;
    let (messages, complete) = found.map_err(|problem| edge.did_you_mean_topic(problem, topic.as_str()))?;
    let encoded: Vec<_> = messages.iter().map(|message| Encoded(message)).collect();
    let body = serde_json::to_string(&encoded).expect("strings and numbers always serialize");
    let mut response = ([(CONTENT_TYPE, "application/cloudevents-batch+json")], body).into_response();
    if let (Some(last), false) = (messages.last(), complete) {
        let next = format!("</topics/{topic}/messages?from={}&limit={limit}>; rel=\"next\"", last.sequence + 1);
        response.headers_mut().insert(LINK, next.parse().expect("topic names and numbers are plain ASCII"));
    }
    Ok(response)
}

/// Messages up to `limit` or [`ANSWER_BYTES_MAX`], and whether there are no more.
fn read_messages(
    bus: &Bus,
    topic: &str,
    mut from: Sequence,
    limit: usize,
) -> Result<(Vec<SharedMessage>, bool), BusError> {
    let mut messages: Vec<SharedMessage> = Vec::new();
    let mut bytes = 0;
    while messages.len() < limit && bytes < ANSWER_BYTES_MAX {
        let wanted = READ_MESSAGES.min(limit - messages.len());
        let read = bus.messages(topic, from, wanted)?;
        let Some(last) = read.last() else { return Ok((messages, true)) };
        from = last.sequence + 1;
        bytes += read.iter().map(|message| message.bytes()).sum::<usize>();
        let complete = read.len() < wanted;
        messages.extend(read);
        if complete {
            return Ok((messages, true));
        }
    }
    Ok((messages, false))
}

impl Edge {
    fn did_you_mean_topic(&self, problem: Problem, topic: &str) -> Problem {
        if problem.status() != StatusCode::NOT_FOUND {
            return problem;
        }
        let known = self.bus.topics();
        problem.did_you_mean(topic, known.iter().map(|topic| topic.name.as_str()))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TailParameters {
    from: Option<Offset>,
}

/// `GET /topics/{filter}/tail`: from an offset on, or from the end. `Last-Event-ID` goes before `from`,
/// because a client that reconnects repeats the address it began with.
async fn tail(
    State(edge): State<Edge>,
    PathText(filter): PathText,
    Parameters(parameters): Parameters<TailParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let filter = TopicFilter::parse(&filter).map_err(|error| Problem::bad_topic(&filter, &error))?;
    let last = match headers.get("last-event-id") {
        Some(last) => Some(last.to_str().ok().and_then(|last| last.parse::<Offset>().ok()).ok_or_else(|| {
            let detail = "`Last-Event-ID` must be the `id` of an event of this stream, which is an offset";
            Problem::new(&problem::BAD_PARAMETER, detail).facts(json!({ "parameter": "Last-Event-ID" }))
        })?),
        None => None,
    };
    let from = last.map(|last| last.saturating_add(1)).or(parameters.from);
    tail::open(&edge.bus, filter, from, &edge.tails, edge.stop.clone())
}

async fn subscriptions(
    State(edge): State<Edge>,
    Parameters(NoParameters {}): Parameters<NoParameters>,
) -> Result<Json<Vec<SubscriptionView>>, Problem> {
    edge.ask(Bus::subscriptions).await.map(Json)
}

async fn subscription(State(edge): State<Edge>, PathText(name): PathText) -> Result<Json<SubscriptionView>, Problem> {
    edge.ask(move |bus| bus.subscription(&name)).await.map(Json)
}

/// `POST /subscriptions/{name}/pause`: running calls end, and nothing new begins until it is resumed.
async fn pause_subscription(State(edge): State<Edge>, PathText(name): PathText) -> Result<Response, Problem> {
    edge.bus.pause_subscription(&name, true).await?;
    Ok(Json(json!({ "paused": true })).into_response())
}

/// `POST /subscriptions/{name}/resume`.
async fn resume_subscription(State(edge): State<Edge>, PathText(name): PathText) -> Result<Response, Problem> {
    edge.bus.pause_subscription(&name, false).await?;
    Ok(Json(json!({ "paused": false })).into_response())
}

/// `DELETE /subscriptions/{name}`: the subscription, its account and its dead letters.
async fn remove_subscription(State(edge): State<Edge>, PathText(name): PathText) -> Result<StatusCode, Problem> {
    edge.bus.remove_subscription(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn plugins(
    State(edge): State<Edge>,
    Parameters(NoParameters {}): Parameters<NoParameters>,
) -> Json<Vec<PluginView>> {
    Json(edge.bus.plugins())
}

/// `GET /plugins/{name}/history`: the newest deployments, the newest first.
async fn plugin_history(
    State(edge): State<Edge>,
    PathText(name): PathText,
    Parameters(NoParameters {}): Parameters<NoParameters>,
) -> Result<Json<Vec<DeploymentView>>, Problem> {
    edge.ask(move |bus| bus.plugin_history(&name)).await.map(Json)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackCommand {
    to: Option<String>,
}

/// `POST /plugins/{name}/rollback`: to the version before, or to the one whose digest begins with `to`.
async fn roll_back_plugin(
    State(edge): State<Edge>,
    PathText(name): PathText,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<WentBack>, Problem> {
    let body = edge.bodies.read(&headers, body, COMMAND_BYTES_MAX).await?;
    let command = match body.bytes.is_empty() {
        true => RollbackCommand::default(),
        false => serde_json::from_slice(&body.bytes).map_err(|error| {
            let detail = format!("the body must be empty, or JSON such as {{\"to\": \"DIGEST\"}}: {error}");
            Problem::new(&problem::BAD_BODY, detail).facts(json!({ "allowed": ["to"] }))
        })?,
    };
    edge.ask(move |bus| bus.roll_back_plugin(&name, command.to)).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PermitCommand {
    digest: String,
}

/// `POST /plugins/{name}/permit`: a component that was rolled back may be deployed again.
async fn permit_plugin(
    State(edge): State<Edge>,
    PathText(name): PathText,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Problem> {
    let body = edge.bodies.read(&headers, body, COMMAND_BYTES_MAX).await?;
    let command = serde_json::from_slice::<PermitCommand>(&body.bytes).map_err(|error| error.to_string());
    let digest = command.and_then(|command| command.digest.parse::<Digest>().map_err(|error| error.to_string()));
    let digest = digest.map_err(|error| {
        let detail = format!("the body must be JSON such as {{\"digest\": \"64 hexadecimal digits\"}}: {error}");
        Problem::new(&problem::BAD_BODY, detail).facts(json!({ "allowed": ["digest"] }))
    })?;
    edge.ask(move |bus| bus.permit_plugin(&name, digest)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The process answers.
async fn livez() -> &'static str {
    "alive\n"
}

/// The bus can serve; 503 with the reason where it cannot.
async fn readyz(State(edge): State<Edge>) -> Response {
    let readiness = edge.bus.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn metrics(State(edge): State<Edge>) -> Result<Response, Problem> {
    let text = edge.ask(|bus| Ok(bus.metrics())).await?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// What a problem's `type` points to.
async fn problem_kind(PathText(slug): PathText) -> Result<String, Problem> {
    match problem::KINDS.iter().find(|kind| kind.slug == slug) {
        Some(kind) => Ok(format!("{}: {}.\n\n{}\n", kind.status, kind.title, kind.hint)),
        None => Err(Problem::new(&problem::UNKNOWN_PATH, format!("there is no kind of problem named `{slug}`"))
            .did_you_mean(&slug, problem::KINDS.iter().map(|kind| kind.slug))),
    }
}

async fn unknown_path(uri: Uri) -> Problem {
    Problem::new(&problem::UNKNOWN_PATH, format!("there is nothing at `{}`", uri.path()))
        .facts(json!({ "path": uri.path() }))
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::new(&problem::WRONG_METHOD, format!("`{}` does not answer {method}", uri.path()))
        .facts(json!({ "path": uri.path(), "method": method.as_str() }))
}

fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    match asked.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        limit => {
            let detail = format!("`limit` is {limit}; it must be from 1 to {LIMIT_MAX}");
            Err(Problem::new(&problem::BAD_PARAMETER, detail)
                .facts(json!({ "parameter": "limit", "found": limit, "allowed": [1, LIMIT_MAX] })))
        }
    }
}

/// The one variable part of a path. One that is no UTF-8 is a problem like any other.
struct PathText(String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        match text {
            Ok(Path(text)) => Ok(Self(text)),
            Err(error) => Err(Problem::new(&problem::BAD_PARAMETER, error.body_text())),
        }
    }
}

/// The parameters after the `?`. Unknown ones are refused: a mistyped one would change what is meant.
struct Parameters<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let parameters: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        match parameters {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(error) => {
                let text = error.body_text();
                let detail = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                Err(Problem::new(&problem::BAD_PARAMETER, detail))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParameters {}
