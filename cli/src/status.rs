//! `status`: how one bucket stands, for people or as JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tower_throttle::store::{BucketDetail, BucketView, QuotaKind, QuotaView};

use crate::{failure::Failure, server::Bucket, words};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    bucket: Bucket,
    /// Print one JSON object; times in it are seconds
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { bucket, json } = arguments;
    let mut nodes = bucket.server().nodes().await?;
    let key = bucket.find(&mut nodes).await?;
    let detail = nodes.look_closely(&key).await?.ok_or_else(|| {
        Failure::Refused("the state of this bucket was written by another version".into())
    })?;
    if json {
        println!("{}", words::plain_json(&format!("{:#}", detail_as_json(&detail))));
    } else {
        print!("{}", in_words(&detail));
    }
    Ok(())
}

fn in_words(detail: &BucketDetail) -> String {
    let BucketView { key, at, .. } = &detail.bucket;
    let mut lines = vec![format!(
        "{}  (partition {}, {})",
        words::plain(key.name()),
        words::plain(key.partition()),
        words::time(*at)
    )];
    lines.extend(detail.bucket.quotas.iter().map(quota_line));
    lines.extend(state_lines(&detail.bucket));
    if !detail.queue.is_empty() {
        lines.push("queue, first come first:".to_owned());
    }
    for queued in &detail.queue {
        lines.push(format!(
            "  {} for {} of {}, the first since {}{}",
            words::count(queued.count, "demand"),
            words::grouped(queued.sum),
            words::plain(&queued.quota),
            words::duration(at.duration_since(queued.arrived).unwrap_or_default()),
            if queued.is_late { ", its process is late" } else { "" }
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// One quota: `  tokens per minute: 12,000 of 30,000 charged, 500 held; 17,500 left, all in 42s`.
fn quota_line(quota: &QuotaView) -> String {
    let mut parts = Vec::new();
    if quota.kind != QuotaKind::Concurrency {
        parts.push(format!("{} charged", words::amount(quota.charged)));
    }
    if quota.held > 0 || quota.kind == QuotaKind::Concurrency {
        parts.push(format!("{} held", words::grouped(quota.held)));
    }
    if quota.withheld > 0.0 {
        let for_long = words::duration(quota.withheld_for);
        parts.push(format!("{} withheld for up to {for_long}", words::amount(quota.withheld)));
    }
    let reset = match quota.reset {
        Duration::ZERO => String::new(),
        reset => format!(", all back in {}", words::duration(reset)),
    };
    format!(
        "  {}: {} of {}; {} left{reset}",
        words::plain(&quota.name),
        parts.join(", "),
        words::grouped(quota.limit),
        words::amount(quota.available)
    )
}

/// What there is to say of a bucket beside its quotas.
fn state_lines(bucket: &BucketView) -> Vec<String> {
    let mut lines = Vec::new();
    let next = match bucket.predicted {
        Some(Duration::ZERO) => "would start at once".to_owned(),
        Some(wait) => format!("would start in {}", words::duration(wait)),
        None => "starts when a call ends".to_owned(),
    };
    lines.push(format!("  waiting: {}; a new one {next}", words::count(bucket.waiting, "demand")));
    if let Some(until) = bucket.paused_until {
        let left = words::duration(words::until(until, bucket.at));
        lines.push(format!("  paused until {}, for {left}", words::time(until)));
    }
    if let Some(until) = bucket.asked_until {
        let left = words::duration(words::until(until, bucket.at));
        lines.push(format!("  its provider asked to wait for {left}: demands are refused"));
    }
    lines.push(format!(
        "  granted {} since {}, looks that found no room: {}; last used {} ago",
        words::grouped(bucket.granted),
        words::time(bucket.since),
        words::grouped(bucket.looks_refused),
        words::duration(bucket.at.duration_since(bucket.used).unwrap_or_default())
    ));
    lines
}

fn detail_as_json(detail: &BucketDetail) -> Value {
    let mut value = bucket_as_json(&detail.bucket);
    let queue = detail.queue.iter().map(|queued| {
        json!({
            "session": queued.session,
            "quota": &*queued.quota,
            "headroom": queued.headroom,
            "share": queued.share,
            "arrived": seconds(queued.arrived),
            "cost": queued.cost,
            "count": queued.count,
            "sum": queued.sum,
            "late": queued.is_late,
        })
    });
    let sessions = detail.sessions.iter().map(|session| {
        let in_flight = session.in_flight.iter();
        json!({
            "id": session.id,
            "detached": session.is_detached,
            "lease": session.lease.map(|lease| lease.as_secs_f64()),
            "in_flight": in_flight
                .map(|(quota, amount)| json!({"quota": &**quota, "amount": amount}))
                .collect::<Vec<_>>(),
        })
    });
    value["queue"] = queue.collect();
    value["sessions"] = sessions.collect();
    value
}

/// A bucket as JSON: also that of the events of `watch`.
pub(crate) fn bucket_as_json(bucket: &BucketView) -> Value {
    json!({
        "bucket": bucket.key.name(),
        "partition": bucket.key.partition(),
        "at": seconds(bucket.at),
        "quotas": bucket.quotas.iter().map(quota_as_json).collect::<Vec<_>>(),
        "waiting": bucket.waiting,
        "predicted": bucket.predicted.map(|wait| wait.as_secs_f64()),
        "paused_until": bucket.paused_until.map(seconds),
        "asked_until": bucket.asked_until.map(seconds),
        "granted": bucket.granted,
        "looks_refused": bucket.looks_refused,
        "since": seconds(bucket.since),
        "used": seconds(bucket.used),
    })
}

fn quota_as_json(quota: &QuotaView) -> Value {
    let metrics = quota.metrics.iter();
    json!({
        "quota": &*quota.name,
        "kind": match quota.kind {
            QuotaKind::SlidingWindow => "sliding_window",
            QuotaKind::TokenBucket => "token_bucket",
            QuotaKind::FixedWindow => "fixed_window",
            QuotaKind::Concurrency => "concurrency",
            _ => "other",
        },
        "window": quota.window.map(|window| window.as_secs_f64()),
        "metrics": metrics
            .map(|(metric, weight)| json!({"metric": metric, "weight": weight}))
            .collect::<Vec<_>>(),
        "limit": quota.limit,
        "per_window": quota.per_window,
        "charged": quota.charged,
        "held": quota.held,
        "in_flight": quota.in_flight,
        "withheld": quota.withheld,
        "withheld_for": quota.withheld_for.as_secs_f64(),
        "available": quota.available,
        "reset": quota.reset.as_secs_f64(),
    })
}

pub(crate) fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
