//! `/state`: what consumers keep in their state, as of the last sync.

use axum::body::Bytes;
use futures_util::stream;

use super::*;
use crate::bus::StateExport;
use crate::view::{StateEntryView, StateSizeView};

/// `GET /state`: what every consumer's state holds.
pub(super) async fn sizes(
    State(edge): State<Edge>,
    Parameters(NoParameters {}): Parameters<NoParameters>,
) -> Result<Json<Vec<StateSizeView>>, Problem> {
    edge.ask(Bus::state_sizes).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScanParameters {
    prefix: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
    /// All of it, as JSON lines of one moment.
    #[serde(default)]
    export: bool,
}

/// `GET /state/{consumer}`: entries in the order of their keys. `next` is what `after` is for the next page;
/// null at the end.
pub(super) async fn scan(
    State(edge): State<Edge>,
    PathText(consumer): PathText,
    Parameters(parameters): Parameters<ScanParameters>,
) -> Result<Response, Problem> {
    let prefix = parameters.prefix.unwrap_or_default();
    if parameters.export {
        let export = edge.ask(move |bus| bus.state_export(&consumer, &prefix)).await?;
        return Ok(lines(export));
    }
    let limit = limit(parameters.limit)?;
    let after = parameters.after;
    let page = edge.ask(move |bus| bus.state_page(&consumer, &prefix, after.as_deref(), limit, ANSWER_BYTES_MAX));
    Ok(Json(page.await?).into_response())
}

/// `GET /state/{consumer}/{key}`
pub(super) async fn entry(
    State(edge): State<Edge>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<StateEntryView>, Problem> {
    let Path((consumer, key)) = path.map_err(|error| Problem::new(&problem::UNKNOWN_PATH, error))?;
    edge.ask(move |bus| bus.state_entry(&consumer, &key)).await.map(Json)
}

/// `DELETE /state/{consumer}`: all state of a consumer that is not deployed.
pub(super) async fn remove(State(edge): State<Edge>, PathText(consumer): PathText) -> Result<Response, Problem> {
    let removed = edge.bus.remove_state(&consumer).await?;
    Ok(Json(json!({ "consumer": consumer, "removed": removed })).into_response())
}

/// One JSON object a line. What breaks off was not whole: the connection is closed in the middle.
fn lines(export: StateExport) -> Response {
    let pages = stream::unfold(Some(export), |export| async move {
        let mut export = export?;
        let read = tokio::task::spawn_blocking(move || (export.next_page(), export)).await;
        let (page, export) = read.expect("the bus answers and does not panic");
        match page {
            Ok(page) if page.is_empty() => None,
            Ok(page) => Some((Ok(text(&page)), Some(export))),
            Err(error) => {
                tracing::error!("an export of state breaks off: {error}");
                Some((Err(error), None))
            }
        }
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pages)).into_response()
}

fn text(page: &[StateEntryView]) -> Bytes {
    let line = |entry| serde_json::to_string(entry).expect("strings always serialize") + "\n";
    page.iter().map(line).collect::<String>().into()
}
