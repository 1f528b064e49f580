//! The schedule over HTTP.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LINK;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::cloud_events::EncodedEvent;
use super::super::problem::{self, Problem};
use super::{Edge, Parameters, PathText, limit};
use crate::log::ScheduledAt;
use crate::topic::TopicFilter;
use crate::view::ScheduledView;

pub(super) fn routes() -> Router<Edge> {
    use axum::routing::get;
    Router::new().route("/scheduled", get(list)).route("/scheduled/{number}", get(show).delete(cancel))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParameters {
    topic: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /scheduled`: in the order of their times. Where there may be more, `Link` has the next page.
async fn list(
    State(edge): State<Edge>,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Response, Problem> {
    let limit = limit(parameters.limit)?;
    let topic = parameters.topic.as_deref();
    let filter =
        topic.map(|topic| TopicFilter::parse(topic).map_err(|error| Problem::bad_topic(topic, &error))).transpose()?;
    let after = parameters.after.as_deref().map(place).transpose()?;
    let found = edge.ask(move |bus| bus.scheduled(filter.as_ref(), after, limit)).await?;
    let next = found.last().filter(|_| found.len() == limit).map(|last| {
        let topic = topic.map_or(String::new(), |topic| format!("&topic={}", topic.replace('>', "%3E")));
        format!("</scheduled?after={}-{}&limit={limit}{topic}>; rel=\"next\"", last.deliver_at_ms, last.scheduled)
    });
    let mut response = Json(found).into_response();
    if let Some(next) = next {
        response.headers_mut().insert(LINK, next.parse().expect("topic filters and numbers are plain ASCII"));
    }
    Ok(response)
}

/// A place in the list: the time in milliseconds and the number, as `1769851800000-17`.
fn place(text: &str) -> Result<ScheduledAt, Problem> {
    let parsed = text
        .split_once('-')
        .and_then(|(due_ms, number)| Some(ScheduledAt { due_ms: due_ms.parse().ok()?, number: number.parse().ok()? }));
    parsed.ok_or_else(|| {
        let detail = "`after` must be `deliver_at_ms` and `scheduled` of the last one seen, with `-` between";
        Problem::new(&problem::BAD_PARAMETER, detail).facts(json!({ "parameter": "after", "found": text }))
    })
}

fn number(text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| {
        let detail = format!("`{text}` is no scheduled message; they have numbers");
        Problem::new(&problem::BAD_PARAMETER, detail).facts(json!({ "found": text }))
    })
}

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    view: ScheduledView,
    message: EncodedEvent<'a>,
}

async fn show(State(edge): State<Edge>, PathText(text): PathText) -> Result<Response, Problem> {
    let number = number(&text)?;
    let scheduled = edge.ask(move |bus| bus.scheduled_message(number)).await?;
    let message = EncodedEvent(&scheduled.event);
    Ok(Json(Answer { view: ScheduledView::from(&scheduled), message }).into_response())
}

/// `DELETE /scheduled/{number}`: it never becomes a message.
async fn cancel(State(edge): State<Edge>, PathText(text): PathText) -> Result<StatusCode, Problem> {
    edge.bus.cancel_scheduled(number(&text)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
