//! One bucket closely: its quotas, its queue and its sessions.

use std::{sync::Arc, time::Duration};

use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Stylize},
    text::{Line, Span, Text},
};
use tower_throttle::store::{
    BucketDetail, BucketKey, BucketView, QueuedView, QuotaKind, QuotaView, SessionView,
};

use super::{bars::bar, list::cut, rates::Rate};
use crate::words;

/// So many sessions are shown: those with something in flight first.
const SESSIONS: usize = 12;

/// Draws what was seen of a bucket; nothing before it was looked at.
pub(super) fn draw(
    frame: &mut Frame<'_>,
    area: Rect,
    key: &Arc<BucketKey>,
    detail: Option<Option<&BucketDetail>>,
    rate: Option<Rate>,
) {
    let mut lines = vec![Line::from(vec![
        words::plain(key.name()).bold(),
        format!("  partition {}", words::plain(key.partition())).dim(),
    ])];
    match detail {
        None => {}
        Some(Some(detail)) => lines.extend(of_detail(detail, rate, area.width)),
        Some(None) => lines.push(Line::from("it has no state any more").dim()),
    }
    frame.render_widget(Text::from(lines), area);
}

fn of_detail(detail: &BucketDetail, rate: Option<Rate>, width: u16) -> Vec<Line<'static>> {
    let mut lines = vec![of_bucket(&detail.bucket, rate), Line::default()];
    for quota in &detail.bucket.quotas {
        lines.extend(of_quota(quota, width));
    }
    lines.push(Line::default());
    lines.push(
        Line::from(format!("QUEUE  {}", words::count(detail.bucket.waiting, "demand"))).bold(),
    );
    for queued in &detail.queue {
        lines.push(of_queued(queued, &detail.bucket));
    }
    lines.push(Line::default());
    lines.push(Line::from(format!("SESSIONS  {}", detail.sessions.len())).bold());
    let mut sessions: Vec<_> = detail.sessions.iter().collect();
    sessions.sort_by_key(|session| (session.in_flight.is_empty(), session.id));
    lines.extend(sessions.iter().take(SESSIONS).map(|session| of_session(session)));
    if sessions.len() > SESSIONS {
        lines.push(Line::from(format!("  and {} more", sessions.len() - SESSIONS)).dim());
    }
    lines
}

fn of_bucket(bucket: &BucketView, rate: Option<Rate>) -> Line<'static> {
    let next = match bucket.predicted {
        Some(Duration::ZERO) => "a new demand starts at once".to_owned(),
        Some(wait) => format!("a new demand starts in {}", words::duration(wait)),
        None => "a new demand starts when a call ends".to_owned(),
    };
    let mut parts: Vec<Span<'static>> = vec![next.into()];
    if let Some(until) = bucket.paused_until {
        let left = words::duration(words::until(until, bucket.at));
        parts.push(format!("  paused for {left}, until {}", words::time(until)).fg(Color::Red));
    }
    if let Some(until) = bucket.asked_until {
        let left = words::duration(words::until(until, bucket.at));
        parts.push(format!("  the provider asked for {left}").fg(Color::Red));
    }
    let counts = format!(
        "  granted {}, no room {}",
        words::grouped(bucket.granted),
        words::grouped(bucket.looks_refused)
    );
    parts.push(counts.into());
    if let Some(Rate { granted, looks_refused }) = rate {
        let rates = format!("  {}/s and {}/s", words::short(granted), words::short(looks_refused));
        parts.push(rates.into());
    }
    Line::from(parts)
}

fn of_quota(quota: &QuotaView, width: u16) -> [Line<'static>; 2] {
    let mut first = vec![Span::from(format!("{:<28} ", cut(&quota.name, 28)))];
    first.extend(bar(quota, width.saturating_sub(60).clamp(8, 60)));
    first.push(
        format!(" {} left of {}", words::amount(quota.available), words::grouped(quota.limit))
            .into(),
    );

    let kind = match (quota.kind, quota.window) {
        (QuotaKind::SlidingWindow, Some(window)) => format!("any {}", words::duration(window)),
        (QuotaKind::TokenBucket, Some(window)) => {
            format!("refills {} per {}", words::grouped(quota.per_window), words::duration(window))
        }
        (QuotaKind::FixedWindow, Some(window)) => format!("each {}", words::duration(window)),
        _ => "while calls run".to_owned(),
    };
    let mut parts = vec![
        format!(
            "  {kind}: {} charged, {} held",
            words::amount(quota.charged),
            words::grouped(quota.held)
        ),
        format!("{} in flight", words::grouped(quota.in_flight)),
    ];
    if quota.withheld > 0.0 {
        let for_long = words::duration(quota.withheld_for);
        parts.push(format!("{} withheld for up to {for_long}", words::amount(quota.withheld)));
    }
    if !quota.reset.is_zero() {
        parts.push(format!("all back in {}", words::duration(quota.reset)));
    }
    let weighted = |(metric, weight): &(String, f64)| match *weight {
        1.0 => words::plain(metric),
        weight => format!("{weight} x {}", words::plain(metric)),
    };
    if !quota.metrics.is_empty() {
        let metrics: Vec<_> = quota.metrics.iter().map(weighted).collect();
        parts.push(format!("counts {}", metrics.join(" + ")));
    }
    [Line::from(first), Line::from(parts.join(", ")).dim()]
}

fn of_queued(queued: &QueuedView, bucket: &BucketView) -> Line<'static> {
    let since = words::duration(bucket.at.duration_since(queued.arrived).unwrap_or_default());
    let mut text = format!(
        "  {} in session {:x} for {}: asks {}, all {}, since {since}",
        words::count(queued.count, "demand"),
        queued.session,
        words::plain(&queued.quota),
        words::grouped(queued.cost),
        words::grouped(queued.sum)
    );
    if queued.headroom > 0.0 {
        text.push_str(&format!(", leaves {:.0} %", queued.headroom * 100.0));
    }
    if let Some(share) = queued.share {
        text.push_str(&format!(", share {share:x}"));
    }
    if queued.is_late {
        text.push_str(", late");
    }
    Line::from(text)
}

fn of_session(session: &SessionView) -> Line<'static> {
    let what = if session.is_detached { "detached" } else { "session" };
    let lease = match session.lease {
        Some(left) => format!("lease {}", words::duration(left)),
        None => "lease ended".to_owned(),
    };
    let in_flight = session.in_flight.iter();
    let in_flight: Vec<_> = in_flight
        .map(|(quota, amount)| format!("{} {}", words::grouped(*amount), words::plain(quota)))
        .collect();
    let in_flight = match in_flight.is_empty() {
        true => "nothing in flight".to_owned(),
        false => format!("in flight: {}", in_flight.join(", ")),
    };
    Line::from(format!("  {what} {:x}  {lease}  {in_flight}", session.id))
}
