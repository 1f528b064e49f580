//! The picture: how many messages a second each side publishes and has consumed, and what one synchronous publish takes.

use std::fmt::Write as _;

use crate::disk;
use crate::figures::Figures;
use crate::report::number;
use crate::rows::{consumed, publish};

const WIDTH: f64 = 720.0;
const BAR: f64 = 26.0;
const GAP: f64 = 10.0;
const LEFT: f64 = 210.0;
/// Room for the figure behind the longest bar.
const RIGHT: f64 = 150.0;

struct Chart<'a> {
    title: &'a str,
    unit: &'a str,
    bars: &'a [(&'a str, &'a str)],
}

/// An SVG that is legible on a light and on a dark ground.
pub(crate) fn svg(figures: &Figures) -> String {
    let charts = [
        Chart {
            title: "Published and consumed by three consumers, 256-byte messages (more is better)",
            unit: "messages/s",
            bars: &[
                ("Sandpost, synced", consumed::SANDPOST),
                ("NATS, not synced", consumed::NATS),
                ("NATS, synced", consumed::NATS_ALWAYS),
            ],
        },
        Chart {
            title: "One synchronous publish (less is better)",
            unit: "us",
            bars: &[
                ("the disk's fdatasync", disk::MEDIAN_US),
                ("Sandpost, synced", publish::SANDPOST),
                ("NATS, not synced", publish::NATS),
                ("NATS, synced", publish::NATS_ALWAYS),
            ],
        },
    ];
    let mut body = String::new();
    let mut y = GAP;
    for chart in &charts {
        let bars: Vec<_> =
            chart.bars.iter().filter_map(|(name, figure)| Some((*name, figures.summary(figure)?))).collect();
        let most = bars.iter().map(|(_, summary)| summary.most).fold(0.0, f64::max);
        if bars.is_empty() {
            continue;
        }
        let _ = writeln!(body, r#"<text x="0" y="{}" class="title">{}</text>"#, y + 16.0, chart.title);
        y += 30.0;
        for (name, summary) in bars {
            let scale = (WIDTH - LEFT - RIGHT) / most;
            let kind = if name.starts_with("Sandpost") { "ours" } else { "other" };
            let (middle, width) = (y + BAR / 2.0, summary.median * scale);
            let _ = writeln!(
                body,
                r#"<text x="{}" y="{}" text-anchor="end">{name}</text><rect x="{LEFT}" y="{y}" width="{width:.1}" height="{BAR}" class="{kind}"/><line x1="{:.1}" x2="{:.1}" y1="{middle}" y2="{middle}" class="spread"/><text x="{:.1}" y="{}">{} {}</text>"#,
                LEFT - 8.0,
                middle + 5.0,
                LEFT + summary.least * scale,
                LEFT + summary.most * scale,
                LEFT + summary.most * scale + 8.0,
                middle + 5.0,
                number(summary.median),
                chart.unit,
            );
            y += BAR + GAP;
        }
        y += GAP;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" height=\"{y}\" role=\"img\">\n\
         <title>Sandpost beside NATS JetStream</title>\n\
         <style>text {{ font: 14px system-ui, sans-serif; fill: #6b7280 }} .title {{ font-weight: 600 }} \
         .ours {{ fill: #d97706 }} .other {{ fill: #94a3b8 }} .spread {{ stroke: #475569; stroke-width: 2 }}</style>\n{body}</svg>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_stands_for_each_side_that_was_measured() {
        let mut figures = Figures::default();
        figures.add(consumed::SANDPOST, 100_000.0);
        figures.add(consumed::NATS, 50_000.0);
        let picture = svg(&figures);
        assert_eq!(picture.matches("<rect").count(), 2, "{picture}");
        assert!(picture.contains("100,000 messages/s"));
    }
}
