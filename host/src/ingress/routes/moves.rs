//! Commands that move a subscription or take a topic away. Both show beforehand what they would come to.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{COMMAND_BYTES_MAX, Edge, Parameters, PathText};
use crate::ingress::problem::{self, Problem};
use crate::policy::{START_ALLOWED, StartAt};
use crate::view::{SeekView, TopicRemovalView};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeekCommand {
    to: Value,
    #[serde(default)]
    dry_run: bool,
}

/// `POST /subscriptions/{name}/seek`: what it came to, or with `dry_run` what it would come to.
pub(super) async fn seek(
    State(edge): State<Edge>,
    PathText(name): PathText,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SeekView>, Problem> {
    let body = edge.bodies.read(&headers, body, COMMAND_BYTES_MAX).await?;
    let refused =
        |detail: String| Problem::new(&problem::BAD_BODY, detail).facts(json!({ "allowed": ["to", "dry_run"] }));
    let command: SeekCommand = serde_json::from_slice(&body.bytes)
        .map_err(|error| refused(format!("the body must be JSON such as {{\"to\": \"beginning\"}}: {error}")))?;
    let to: StartAt = match &command.to {
        Value::Number(offset) => offset.to_string().parse(),
        Value::String(place) => place.parse(),
        other => return Err(refused(format!("`to` is {other}; it must be {START_ALLOWED}"))),
    }
    .map_err(|error| refused(format!("`to` is {}: {error}", command.to)))?;
    if command.dry_run {
        return Ok(Json(edge.ask(move |bus| bus.preview_seek(&name, &to)).await?));
    }
    Ok(Json(edge.bus.seek(&name, to).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemovalParameters {
    #[serde(default)]
    dry_run: bool,
}

/// `DELETE /topics/{topic}`: its messages are gone for everybody; its sequence goes on where it stood.
pub(super) async fn remove_topic(
    State(edge): State<Edge>,
    PathText(topic): PathText,
    Parameters(parameters): Parameters<RemovalParameters>,
) -> Result<Json<TopicRemovalView>, Problem> {
    if parameters.dry_run {
        return Ok(Json(edge.ask(move |bus| bus.preview_topic_removal(&topic)).await?));
    }
    Ok(Json(edge.bus.remove_topic(&topic).await?))
}
