//! The list: a block for each bucket, with a line for each of its quotas.

use std::time::Duration;

use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
};
use tower_throttle::store::{BucketView, QuotaView};

use super::{
    bars::bar,
    rates::{Rate, Rates},
};
use crate::words;

/// The widths of the columns: the bucket, the quota, used of its limit, and what follows.
const NAME: usize = 20;
const QUOTA: usize = 22;
const USED: usize = 12;
const NUMBERS: usize = 10;
const HEADS: [&str; 5] = ["WAITING", "NEXT IN", "PAUSED", "GRANTS/s", "NO ROOM/s"];

/// The first bucket to be shown, so that the one under the cursor is on the screen.
pub(super) fn first_shown(
    shown: &[&BucketView],
    first: usize,
    cursor: usize,
    height: u16,
) -> usize {
    let first = first.min(cursor);
    let mut room = usize::from(height).saturating_sub(1);
    // From the cursor upwards, as far as there is room.
    let mut fits = cursor;
    for index in (0..=cursor.min(shown.len().saturating_sub(1))).rev() {
        let lines = shown.get(index).map_or(1, |bucket| lines_of(bucket));
        if lines > room {
            break;
        }
        (room, fits) = (room - lines, index);
    }
    first.max(fits)
}

/// Draws the buckets from the first one on. Returns how many are on the screen.
pub(super) fn draw(
    frame: &mut Frame<'_>,
    area: Rect,
    buckets: &[&BucketView],
    cursor: usize,
    rates: &Rates,
) -> usize {
    if area.height == 0 {
        return 1;
    }
    let width = usize::from(area.width);
    let fixed = NAME + QUOTA + USED + NUMBERS * HEADS.len() + 3;
    let bar_width = width.saturating_sub(fixed).clamp(8, 60) as u16;
    let mut lines = vec![heads(bar_width)];
    let mut drawn = 0;
    for (index, bucket) in buckets.iter().enumerate() {
        if lines.len() >= usize::from(area.height) {
            break;
        }
        let rate = rates.of(bucket.key.id());
        lines.extend(block(bucket, rate, bar_width, index == cursor));
        drawn += 1;
    }
    if buckets.is_empty() {
        lines.push(
            Line::from(
                "no bucket: none is in use below this prefix, or the filter lets none through",
            )
            .dim(),
        );
    }
    lines.truncate(usize::from(area.height));
    frame.render_widget(ratatui::text::Text::from(lines), area);
    drawn.max(1)
}

fn lines_of(bucket: &BucketView) -> usize {
    bucket.quotas.len().max(1)
}

fn heads(bar_width: u16) -> Line<'static> {
    let bar_width = usize::from(bar_width);
    let mut text = format!(
        "{:<NAME$} {:<QUOTA$} {:<bar_width$} {:>USED$}",
        "BUCKET",
        "QUOTA",
        "CHARGED\u{2588} HELD\u{2593} WITHHELD\u{2592}".chars().take(bar_width).collect::<String>(),
        "USED"
    );
    for head in HEADS {
        text.push_str(&format!("{head:>NUMBERS$}"));
    }
    Line::from(text).style(Style::new().add_modifier(Modifier::REVERSED))
}

fn block(
    bucket: &BucketView,
    rate: Option<Rate>,
    bar_width: u16,
    is_selected: bool,
) -> Vec<Line<'static>> {
    let name = cut(bucket.key.name(), NAME);
    let mut lines: Vec<_> = bucket
        .quotas
        .iter()
        .enumerate()
        .map(|(index, quota)| {
            let name = if index == 0 { name.clone() } else { String::new() };
            let name = Span::from(format!("{name:<NAME$} "));
            let name = if is_selected { name.reversed() } else { name.bold() };
            let mut parts = vec![name];
            parts.extend(quota_cells(quota, bar_width));
            if index == 0 {
                parts.extend(numbers(bucket, rate));
            }
            Line::from(parts)
        })
        .collect();
    if lines.is_empty() {
        lines.push(Line::from(name));
    }
    lines
}

fn quota_cells(quota: &QuotaView, bar_width: u16) -> Vec<Span<'static>> {
    let used = quota.charged + quota.held as f64;
    let used = format!("{}/{}", words::short(used), words::short(quota.limit as f64));
    let mut cells = vec![Span::from(format!("{:<QUOTA$} ", cut(&quota.name, QUOTA)))];
    cells.extend(bar(quota, bar_width));
    cells.push(format!(" {used:>USED$}").into());
    cells
}

fn numbers(bucket: &BucketView, rate: Option<Rate>) -> Vec<Span<'static>> {
    let cell = |text: String| Span::from(format!("{text:>NUMBERS$}"));
    let waiting = cell(words::short(bucket.waiting as f64));
    let next = match bucket.predicted {
        Some(Duration::ZERO) => cell("now".into()),
        Some(wait) => cell(words::duration(wait)).fg(Color::Yellow),
        None => cell("in flight".into()).fg(Color::Yellow),
    };
    let paused = match bucket.paused_until {
        Some(until) => cell(words::duration(words::until(until, bucket.at))).fg(Color::Red),
        None => cell("-".into()),
    };
    let rate_of = |number: Option<f64>| cell(number.map_or("-".into(), words::short));
    let no_room = rate_of(rate.map(|rate| rate.looks_refused));
    vec![
        if bucket.waiting > 0 { waiting.fg(Color::Yellow) } else { waiting },
        next,
        paused,
        rate_of(rate.map(|rate| rate.granted)),
        if rate.is_some_and(|rate| rate.looks_refused > 0.0) {
            no_room.fg(Color::Yellow)
        } else {
            no_room
        },
    ]
}

/// A text of at most so many characters, which a terminal shows as they are.
pub(super) fn cut(text: &str, width: usize) -> String {
    let text = words::plain(text);
    if text.chars().count() <= width {
        return text;
    }
    text.chars().take(width - 1).chain(['\u{2026}']).collect()
}
