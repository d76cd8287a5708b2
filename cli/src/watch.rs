//! `watch`: what happens to buckets, a line for each event. It compares one look with the next, so
//! what begins and ends between two is not seen.

use std::{
    collections::HashMap,
    io::{self, Write},
    pin::pin,
    time::{Duration, SystemTime},
};

use serde_json::json;
use tower_throttle::store::{BucketView, QuotaView, StoreError};

use crate::{
    failure::Failure,
    nodes::Nodes,
    server::Server,
    status::{bucket_as_json, seconds},
    words,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only the buckets of these names
    #[arg(value_name = "BUCKET")]
    buckets: Vec<String>,
    /// Print a JSON object for each event
    #[arg(long)]
    json: bool,
    /// How often to look
    #[arg(long, default_value = "1s", value_parser = words::parse_duration)]
    interval: Duration,
    #[command(flatten)]
    server: Server,
}

/// What happened to a bucket.
#[derive(Debug, PartialEq)]
struct Event {
    /// A word for programs.
    kind: &'static str,
    text: String,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { buckets, json, interval, server } = arguments;
    let mut nodes = server.nodes().await?;
    let mut watch = Watch { buckets, json, seen: look(&mut nodes).await?, outage: None };
    let names = watch.seen.values().filter(|bucket| watch.is_watched(bucket)).count();
    eprintln!("{} on {}; end with Ctrl-C", words::count(names as u64, "bucket"), server.place());
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // One for all: a signal that comes while no other is listened for would be lost.
    let mut ended = pin!(tokio::signal::ctrl_c());
    loop {
        let looked = async {
            ticks.tick().await;
            look(&mut nodes).await
        };
        let now = tokio::select! {
            now = looked => now,
            _ = &mut ended => return Ok(()),
        };
        match watch.tell(now) {
            // The reader of a pipe has gone.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            told => told?,
        }
    }
}

type Seen = HashMap<u64, BucketView>;

async fn look(nodes: &mut Nodes) -> Result<Seen, StoreError> {
    let keys = nodes.buckets().await?;
    let looks = nodes.look(&keys).await?.into_iter().flatten();
    Ok(looks.map(|bucket| (bucket.key.id(), bucket)).collect())
}

struct Watch {
    buckets: Vec<String>,
    json: bool,
    seen: Seen,
    /// What the server did not answer for, once it is told.
    outage: Option<String>,
}

impl Watch {
    fn is_watched(&self, bucket: &BucketView) -> bool {
        self.buckets.is_empty() || self.buckets.iter().any(|name| name == bucket.key.name())
    }

    fn tell(&mut self, now: Result<Seen, StoreError>) -> io::Result<()> {
        let now = match now {
            Ok(now) => now,
            Err(error) => return self.tell_outage(&error),
        };
        let mut out = io::stdout().lock();
        if self.outage.take().is_some() {
            self.print(&mut out, None, &Event::new("reachable", "the server answers again"))?;
        }
        let mut all: Vec<_> = now.values().chain(self.seen.values()).collect();
        all.sort_by(|one, other| one.key.name().cmp(other.key.name()));
        all.dedup_by_key(|bucket| bucket.key.id());
        for bucket in all.into_iter().filter(|bucket| self.is_watched(bucket)) {
            let id = bucket.key.id();
            for event in events(self.seen.get(&id), now.get(&id)) {
                let bucket = now.get(&id).unwrap_or(bucket);
                self.print(&mut out, Some(bucket), &event)?;
            }
        }
        out.flush()?;
        self.seen = now;
        Ok(())
    }

    fn tell_outage(&mut self, error: &StoreError) -> io::Result<()> {
        let what = error.to_string();
        if self.outage.as_ref() != Some(&what) {
            self.print(&mut io::stdout().lock(), None, &Event::new("unreachable", what.clone()))?;
            self.outage = Some(what);
        }
        Ok(())
    }

    fn print(
        &self,
        out: &mut impl Write,
        bucket: Option<&BucketView>,
        event: &Event,
    ) -> io::Result<()> {
        let at = bucket.map_or_else(SystemTime::now, |bucket| bucket.at);
        if self.json {
            let state = bucket.map(bucket_as_json);
            let event =
                json!({"at": seconds(at), "event": event.kind, "text": event.text, "state": state});
            return writeln!(out, "{}", words::plain_json(&event.to_string()));
        }
        let name = bucket.map(|bucket| words::plain(bucket.key.name()) + ": ").unwrap_or_default();
        writeln!(out, "{} {name}{}", words::time(at), words::plain(&event.text))
    }
}

impl Event {
    fn new(kind: &'static str, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// What happened to a bucket between two looks.
fn events(before: Option<&BucketView>, now: Option<&BucketView>) -> Vec<Event> {
    let (before, now) = match (before, now) {
        (Some(before), Some(now)) => (before, now),
        (None, Some(_)) => return vec![Event::new("appeared", "is in use")],
        (Some(_), None) => return vec![Event::new("gone", "has no state any more")],
        (None, None) => return Vec::new(),
    };
    let mut events = Vec::new();
    if before.since != now.since {
        events.push(Event::new("reset", "starts anew, with nothing charged"));
    }
    events.extend(event_of_pause(before, now));
    events.extend(event_of_queue(before, now));
    let limits = |view: &BucketView| {
        view.quotas.iter().map(|quota| (quota.name.clone(), quota.limit)).collect::<Vec<_>>()
    };
    if limits(before) != limits(now) {
        let now = limits(now).into_iter();
        let list: Vec<_> =
            now.map(|(name, limit)| format!("{name}: {}", words::grouped(limit))).collect();
        events.push(Event::new("limits", format!("has other limits: {}", list.join(", "))));
        return events;
    }
    for (before, now) in before.quotas.iter().zip(&now.quotas) {
        events.extend(events_of_quota(before, now));
    }
    events
}

fn event_of_pause(before: &BucketView, now: &BucketView) -> Option<Event> {
    match (before.paused_until, now.paused_until) {
        (was, Some(until)) if was != Some(until) => {
            let left = words::duration(words::until(until, now.at));
            let text = format!("paused for {left}, until {}", words::time(until));
            Some(Event::new("paused", text))
        }
        (Some(_), None) => Some(Event::new("resumed", "goes on after a pause")),
        _ => None,
    }
}

fn event_of_queue(before: &BucketView, now: &BucketView) -> Option<Event> {
    match (before.waiting, now.waiting) {
        (0, 1..) => {
            let text = format!("demands wait: {}", words::grouped(now.waiting));
            Some(Event::new("waiting", text))
        }
        (1.., 0) => Some(Event::new("drained", "no demand waits any more")),
        _ => None,
    }
}

fn events_of_quota(before: &QuotaView, now: &QuotaView) -> Vec<Event> {
    let mut events = Vec::new();
    let name = &now.name;
    let is_used_up = |quota: &QuotaView| quota.available < 1.0;
    match (is_used_up(before), is_used_up(now)) {
        (false, true) => {
            let back = words::duration(now.reset);
            events
                .push(Event::new("exhausted", format!("{name} is used up; all is back in {back}")));
        }
        (true, false) => {
            let left = words::amount(now.available);
            events.push(Event::new("available", format!("{name} has {left} left again")));
        }
        _ => {}
    }
    if before.withheld == 0.0 && now.withheld > 0.0 {
        let (amount, long) = (words::amount(now.withheld), words::duration(now.withheld_for));
        let text =
            format!("{amount} of {name} are withheld for up to {long}, as the provider said");
        events.push(Event::new("withheld", text));
    }
    events
}
