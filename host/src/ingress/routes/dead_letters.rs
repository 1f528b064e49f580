//! The paths about dead letters.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{COMMAND_BYTES_MAX, Edge, Parameters, PathText, limit, now_ms};
use crate::bus::filter::FilterText;
use crate::bus::{BusError, DeadLetterFilter, Operated, Operation};
use crate::ingress::cloud_events::Encoded;
use crate::ingress::problem::{self, Problem};
use crate::limits::COMPONENT_BYTES_MAX;
use crate::message::Message;
use crate::view::{DeadLetterView, RehearsalView};

const FILTER_PARTS: [&str; 10] =
    ["subscription", "reason", "topic", "key", "since", "until", "digest", "error", "excused", "ids"];

/// `GET /dead-letters`: those that a filter takes, in the order of subscription and offset. Where there may be
/// more, they are those `after` the last one's id.
pub(super) async fn list(
    State(edge): State<Edge>,
    Parameters(mut parameters): Parameters<BTreeMap<String, String>>,
) -> Result<Json<Vec<DeadLetterView>>, Problem> {
    let after = parameters.remove("after");
    let limit = limit_of(&mut parameters)?;
    let filter = filter_of(parameters)?;
    edge.ask(move |bus| bus.dead_letters(&filter, after.as_deref(), limit)).await.map(Json)
}

fn limit_of(parameters: &mut BTreeMap<String, String>) -> Result<usize, Problem> {
    let asked = parameters.remove("limit").map(|text| {
        text.parse().map_err(|_| {
            Problem::new(&problem::BAD_PARAMETER, format!("`limit` is `{text}`; it must be a number"))
                .facts(json!({ "parameter": "limit", "found": text }))
        })
    });
    limit(asked.transpose()?)
}

/// The filter of a query. Its ids are separated by commas.
fn filter_of(mut parameters: BTreeMap<String, String>) -> Result<DeadLetterFilter, Problem> {
    let ids = parameters.remove("ids").map(|ids| ids.split(',').map(str::to_owned).collect());
    let text: Result<FilterText, _> = serde_json::from_value(json!(parameters));
    let text = text.map_err(|error| {
        Problem::new(&problem::BAD_PARAMETER, format!("the query: {error}"))
            .facts(json!({ "allowed": FILTER_PARTS.iter().chain(&["after", "limit"]).collect::<Vec<_>>() }))
    })?;
    Ok(FilterText { ids, ..text }.parse(now_ms()).map_err(BusError::from)?)
}

/// A dead letter with its message, which lists leave out.
#[derive(Serialize)]
struct DeadLetterAnswer<'a> {
    #[serde(flatten)]
    view: &'a DeadLetterView,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Encoded<'a>>,
}

pub(super) async fn show(State(edge): State<Edge>, PathText(id): PathText) -> Result<Response, Problem> {
    let view = edge.ask(move |bus| bus.dead_letter(&id)).await?;
    let message = view.message.as_deref().map(|message: &Message| Encoded(message));
    Ok(Json(DeadLetterAnswer { view: &view, message }).into_response())
}

/// `DELETE /dead-letters/{id}`: the message counts as skipped from now on.
pub(super) async fn drop_one(State(edge): State<Edge>, PathText(id): PathText) -> Result<StatusCode, Problem> {
    let filter = DeadLetterFilter { ids: Some(vec![id.clone()]), ..DeadLetterFilter::default() };
    let dropped = edge.bus.drop_dead_letters(Operation { filter, ..Operation::default() }).await?;
    match dropped.letters {
        0 => Err(BusError::UnknownDeadLetter { id }.into()),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

/// What is to be done, and with which. An empty `filter` takes all; it is never left out by mistake.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Command {
    filter: FilterText,
    after: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    dry_run: bool,
}

/// `POST /dead-letters/redrive`
pub(super) async fn redrive(State(edge): State<Edge>, headers: HeaderMap, body: Body) -> Result<Json<Value>, Problem> {
    let operation = command(&edge, &headers, body).await?;
    let dry_run = operation.dry_run;
    let done = edge.bus.redrive(operation).await?;
    Ok(answer(if dry_run { "would_redrive" } else { "redriven" }, &done))
}

/// `POST /dead-letters/drop`: their messages count as skipped from now on.
pub(super) async fn drop_many(
    State(edge): State<Edge>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let operation = command(&edge, &headers, body).await?;
    let dry_run = operation.dry_run;
    let done = edge.bus.drop_dead_letters(operation).await?;
    Ok(answer(if dry_run { "would_drop" } else { "dropped" }, &done))
}

/// `POST /dead-letters/rehearse`: what would become of those that the query's filter takes under the component
/// in the body, with nothing committed.
pub(super) async fn rehearse(
    State(edge): State<Edge>,
    Parameters(mut parameters): Parameters<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<RehearsalView>, Problem> {
    let limit = limit_of(&mut parameters)?;
    let filter = filter_of(parameters)?;
    let body = edge.bodies.read(&headers, body, COMPONENT_BYTES_MAX).await?;
    Ok(Json(edge.bus.rehearse(filter, limit, body.bytes.clone()).await?))
}

async fn command(edge: &Edge, headers: &HeaderMap, body: Body) -> Result<Operation, Problem> {
    let body = edge.bodies.read(headers, body, COMMAND_BYTES_MAX).await?;
    let command: Command = serde_json::from_slice(&body.bytes).map_err(|error| {
        let detail = format!("the body must be JSON such as {{\"filter\": {{\"subscription\": \"email\"}}}}: {error}");
        Problem::new(&problem::BAD_BODY, detail)
            .facts(json!({ "allowed": ["filter", "after", "limit", "dry_run"], "allowed_in_filter": FILTER_PARTS }))
    })?;
    let limit = command.limit.map(|asked| limit(Some(asked))).transpose()?;
    let filter = command.filter.parse(now_ms()).map_err(BusError::from)?;
    Ok(Operation { filter, after: command.after, limit, dry_run: command.dry_run })
}

fn answer(done: &str, operated: &Operated) -> Json<Value> {
    let mut answer = serde_json::to_value(operated).expect("names and numbers always serialize");
    answer[done] = operated.letters.into();
    let until = i64::try_from(operated.until_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    answer["until"] = until.map(|until| format!("{until:.3}")).into();
    Json(answer)
}
