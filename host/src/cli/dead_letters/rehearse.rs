//! `sandpost dead-letters redrive --component`: which dead letters a component that is not deployed would handle.

use std::path::Path;

use super::{RedriveArgs, telling_line};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, Text, duration, plain, short, text};

pub(super) fn run(component: &Path, args: &RedriveArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let bytes = std::fs::read(component)
        .map_err(|error| Failure::Failed(format!("{} cannot be read: {error}", component.display())))?;
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.filter.parts().map(|(name, value)| (name, value.clone())));
    if !args.ids.is_empty() {
        query.push(("ids", args.ids.join(",")));
    }
    let answer = client.post_bytes("/dead-letters/rehearse", &query, &bytes)?;
    if output.json {
        return output.line(&answer.text);
    }
    let rehearsal = answer.value()?;
    let outcomes = rehearsal["outcomes"].as_object().into_iter().flatten();
    let outcomes: Vec<_> = outcomes.map(|(outcome, count)| format!("{} {outcome}", text(count))).collect();
    if outcomes.is_empty() {
        output.line("No dead letter was rehearsed")?;
    } else {
        let (count, digest) = (text(&rehearsal["rehearsed"]), short(&rehearsal["digest"]));
        output.line(format!("{count} rehearsed on {digest}, and nothing committed: {}", outcomes.join(", ")))?;
    }
    let left = rehearsal["left"].as_u64().unwrap_or(0);
    if left > 0 {
        output.line(format!("{left} more were not: the time was over, their topics are no longer taken, or their messages cannot be read"))?;
    }
    let letters: Vec<_> = rehearsal["letters"].as_array().into_iter().flatten().collect();
    if letters.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let rows = letters.into_iter().map(|letter| {
        let outcome = text(&letter["outcome"]);
        vec![
            plain(&letter["id"]),
            if outcome == "acked" { Text::Good(outcome) } else { Text::Bad(outcome) },
            Text::Plain(duration(letter["duration_us"].as_u64().unwrap_or(0))),
            plain(&letter["publishes"]),
            plain(&letter["writes"]),
            Text::Plain(telling_line(&text(&letter["text"]))),
        ]
    });
    output.table(&["id", "outcome", "took", "publishes", "writes", "error"], rows)
}
