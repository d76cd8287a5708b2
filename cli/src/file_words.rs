//! What a limits file says, in words. The library has read the file before and found that it makes
//! sense, so nothing is checked here.

use std::{fmt::Write, fs, path::Path};

use serde_json::{Map, Value};

use crate::{failure::Failure, words};

/// The members of a file, as its format names them.
#[derive(Debug)]
pub(crate) struct File(Value);

pub(crate) fn read(path: &Path) -> Result<File, Failure> {
    let text = fs::read_to_string(path)?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let value = if is_json {
        serde_json::from_str(&text).map_err(Failure::other)
    } else {
        toml::from_str(&text).map_err(Failure::other)
    };
    value.map(File)
}

impl File {
    fn table<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let members = self.0[name].as_object().into_iter().flat_map(Map::iter);
        members.map(|(name, value)| (name.as_str(), value))
    }

    fn list<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Value> {
        self.0[name].as_array().into_iter().flatten()
    }

    pub(crate) fn buckets(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.table("buckets")
    }

    /// Whether a name that is declared nowhere passes unlimited.
    pub(crate) fn are_others_unlimited(&self) -> bool {
        self.0["undeclared"] == "unlimited"
    }

    /// The pattern by which a name has this bucket: the longest, and of equal ones the first.
    pub(crate) fn family(&self, name: &str, bucket: &str) -> Option<&str> {
        let patterns = self.list("families").filter(|family| family["bucket"] == bucket);
        let patterns = patterns.filter_map(|family| family["pattern"].as_str());
        let matching = patterns.filter(|pattern| wildmatch::WildMatch::new(pattern).matches(name));
        matching.reduce(|one, other| if other.len() > one.len() { other } else { one })
    }
}

/// The whole file.
pub(crate) fn of_file(file: &File) -> String {
    let mut text = String::new();
    for (name, _) in file.buckets() {
        text.push_str(&of_bucket(file, name));
    }
    if file.buckets().next().is_none() {
        line(&mut text, "no buckets");
    }
    for family in file.list("families") {
        let (pattern, bucket) = (plain(&family["pattern"]), plain(&family["bucket"]));
        line(&mut text, &format!("names like `{pattern}` share the bucket {bucket}"));
    }
    for (name, class) in file.table("classes") {
        line(&mut text, &format!("class {}: {}", words::plain(name), of_class(class)));
    }
    for (share, weight) in file.table("weights") {
        let share = words::plain(share);
        line(
            &mut text,
            &format!("share {share}: gets {weight} times what a share of weight 1 gets"),
        );
    }
    for route in file.list("routes") {
        line(&mut text, &of_route(route));
    }
    for (model, price) in file.table("price") {
        line(&mut text, &of_price(model, price));
    }
    for (name, upstream) in file.table("upstreams") {
        line(&mut text, &of_upstream(name, upstream));
    }
    let undeclared = of_undeclared(&file.0["undeclared"]);
    line(&mut text, &format!("names that are declared nowhere {undeclared}"));
    let unavailable = on_unavailable(&file.0["on_unavailable"]);
    line(&mut text, &format!("while the store cannot be reached, demands {unavailable}"));
    text
}

/// What becomes of demands while the store cannot be reached.
fn on_unavailable(value: &Value) -> String {
    match value {
        Value::String(what) if what == "allow" => "pass uncounted".to_owned(),
        Value::Object(local) => {
            format!("are throttled by {} of each limit in each process", share(&local["local"]))
        }
        _ => "fail".to_owned(),
    }
}

/// A bucket with its quotas.
pub(crate) fn of_bucket(file: &File, name: &str) -> String {
    let bucket = &file.0["buckets"][name];
    let partition = bucket["partition"].as_str().or(file.0["partition"].as_str());
    let partition = match partition {
        Some(partition) => format!(" (partition {})", words::plain(partition)),
        None => String::new(),
    };
    let mut text = format!("bucket {}{partition}\n", words::plain(name));
    for quota in bucket["quotas"].as_array().into_iter().flatten() {
        line(&mut text, &format!("  {}", of_quota(quota)));
    }
    text
}

fn of_quota(quota: &Value) -> String {
    let limit = number(&quota["limit"]);
    let what = metrics(quota);
    let per = plain(&quota["per"]);
    let mut text = match quota["kind"].as_str().unwrap_or("sliding_window") {
        "concurrency" => format!("at most {limit} calls in flight"),
        "token_bucket" => {
            let at_once = match (&quota["burst"], &quota["burst_times"]) {
                (Value::Null, Value::Null) => limit.clone(),
                (Value::Null, times) => format!("{times} times as many"),
                (burst, _) => number(burst),
            };
            format!("{limit} {what} per {per}, refilled steadily; at most {at_once} at once")
        }
        "paced" => match &quota["over"] {
            Value::Null => format!("{limit} {what} per {per}, evenly one after the other"),
            over => format!("{limit} {what} per {per}, evenly over any {}", plain(over)),
        },
        _ if quota["kind"] == "fixed_window" || per.contains(" in ") => {
            let anchor = match &quota["anchor"] {
                Value::Null => String::new(),
                anchor => format!("; a window begins {} after the Unix epoch", plain(anchor)),
            };
            format!("at most {limit} {what} in each {per}, then all at once again{anchor}")
        }
        _ => format!("at most {limit} {what} in any {per}"),
    };
    let weights = quota["weights"].as_object().into_iter().flatten();
    for (metric, weight) in weights {
        _ = write!(text, "; each of {} counts {weight} times", words::plain(metric));
    }
    if quota["charge_at"] == "end" {
        text.push_str("; held while a call runs, and counted from its end on");
    }
    if let Some(debt) = quota.get("max_debt") {
        _ = write!(text, "; at most {} are believed above that", number(debt));
    }
    if let Some(value) = quota.get("on_unavailable") {
        let what = on_unavailable(value);
        _ = write!(text, "; while the store cannot be reached, demands on it {what}");
    }
    if let Some(name) = quota["name"].as_str() {
        _ = write!(text, "  [{}]", words::plain(name));
    }
    text
}

fn metrics(quota: &Value) -> String {
    let weights = quota["weights"].as_object().into_iter().flat_map(Map::keys);
    let first = quota["metric"].as_str().into_iter().map(words::plain);
    let all: Vec<_> = first.chain(weights.map(|metric| words::plain(metric))).collect();
    all.join(" + ")
}

fn of_class(class: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(start) = class["head_start"].as_str() {
        parts.push(format!("goes before what came up to {} earlier", words::plain(start)));
    }
    if class["headroom"].as_f64().is_some_and(|share| share > 0.0) {
        parts.push(format!("leaves {} of each limit to others", share(&class["headroom"])));
    }
    if parts.is_empty() { "as without a class".to_owned() } else { parts.join("; ") }
}

fn of_route(route: &Value) -> String {
    let target = match route["bucket"].as_str() {
        Some(bucket) => {
            let others = route["and"].as_array().into_iter().flatten().map(plain);
            let buckets: Vec<_> = [words::plain(bucket)].into_iter().chain(others).collect();
            format!("go to the bucket {}", buckets.join(" and to "))
        }
        None if route["refuse"] == true => "are refused".to_owned(),
        None => "pass unlimited and uncounted".to_owned(),
    };
    let mut text = format!("requests for `{}` {target}", plain(&route["match"]));
    let usage: Vec<_> = route["usage"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(metric, amount)| format!("{} {}", number(amount), words::plain(metric)))
        .collect();
    if !usage.is_empty() {
        _ = write!(text, ", each for {} at most", usage.join(" and "));
    }
    for (member, word) in
        [("class", "of class"), ("share", "of share"), ("max_wait", "waiting at most")]
    {
        if let Some(value) = route[member].as_str() {
            _ = write!(text, ", {word} {}", words::plain(value));
        }
    }
    text
}

/// What becomes of names or requests without a bucket.
fn of_undeclared(undeclared: &Value) -> String {
    match undeclared {
        Value::String(what) if what == "unlimited" => "pass unlimited and uncounted".to_owned(),
        Value::Object(to) => format!("go to the bucket {}", plain(&to["bucket"])),
        _ => "are refused".to_owned(),
    }
}

fn of_upstream(name: &str, upstream: &Value) -> String {
    let rules = upstream["rules"].as_str().unwrap_or(name);
    let full = match &upstream["max_wait"] {
        _ if upstream["when_full"] == "refuse" => "is refused".to_owned(),
        Value::Null => "waits 60 s at most".to_owned(),
        wait => format!("waits {} at most", plain(wait)),
    };
    let mut text = format!(
        "upstream {}: {}, by the rules of {}; what is full {full}",
        words::plain(name),
        plain(&upstream["url"]),
        words::plain(rules)
    );
    if !upstream["unreadable"].is_null() {
        let unreadable = of_undeclared(&upstream["unreadable"]);
        _ = write!(text, "; requests that name no model {unreadable}");
    }
    if upstream["include_usage"] == true {
        text.push_str("; streams are asked for their usage");
    }
    text
}

fn of_price(model: &str, price: &Value) -> String {
    let parts = [
        ("input", "in"),
        ("output", "out"),
        ("cached", "cached"),
        ("cache_write", "written to the cache"),
    ];
    let parts = parts.iter().filter(|(member, _)| !price[member].is_null());
    let parts: Vec<_> = parts.map(|(member, word)| format!("{} {word}", price[member])).collect();
    format!("price of {}: {} for a million tokens", words::plain(model), parts.join(", "))
}

/// A text of the file.
fn plain(value: &Value) -> String {
    value.as_str().map(words::plain).unwrap_or_else(|| value.to_string())
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| value.to_string(), words::grouped)
}

/// A share as a part of a hundred.
fn share(value: &Value) -> String {
    let percent = value.as_f64().unwrap_or_default() * 100.0;
    format!("{} %", words::amount((percent * 10.0).round() / 10.0))
}

fn line(text: &mut String, words: &str) {
    text.push_str(words);
    text.push('\n');
}
