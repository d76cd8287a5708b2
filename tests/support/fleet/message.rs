//! One line between a test and its worker: an order or an answer.

use std::{collections::BTreeMap, fmt, fmt::Display, str::FromStr};

/// What a line begins with that is a message; others are the test harness's own.
const MARK: &str = "@ ";

/// Keys whose value is the rest of the line.
const TEXTS: [&str; 2] = ["limits", "error"];

/// `@ 7 granted at=1700000000000000 waited=0`: whose it is, what it says, and its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: u64,
    pub verb: String,
    values: BTreeMap<String, String>,
}

impl Message {
    pub fn new(id: u64, verb: &str) -> Self {
        Self { id, verb: verb.into(), values: BTreeMap::new() }
    }

    /// Adds a value, which has no spaces unless it is a text.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Display) -> Self {
        self.values.insert(key.into(), value.to_string().replace('\n', " "));
        self
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// The value as a number or another type; panics where the other side does not keep to this.
    pub fn value<T: FromStr>(&self, key: &str) -> T {
        let value = self.get(key).and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("`{self}` has no valid `{key}`"))
    }

    /// The value, or what stands for none.
    pub fn value_or<T: FromStr>(&self, key: &str, or: T) -> T {
        if self.get(key).is_some() { self.value(key) } else { or }
    }

    /// The values of a comma-separated list.
    pub fn list<T: FromStr>(&self, key: &str) -> Vec<T> {
        let parse = |item: &str| item.parse().ok();
        let list = self.get(key).unwrap_or_default().split(',').filter(|item| !item.is_empty());
        list.map(parse).collect::<Option<_>>().unwrap_or_else(|| panic!("`{self}`: `{key}`"))
    }

    /// The message of a line, if it is one.
    pub fn parse(line: &str) -> Option<Self> {
        let (id, rest) = line.trim_end().strip_prefix(MARK)?.split_once(' ')?;
        let (verb, mut rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let mut message = Self::new(id.parse().ok()?, verb);
        while !rest.is_empty() {
            let (key, after) = rest.split_once('=')?;
            let ends = if TEXTS.contains(&key) { None } else { after.split_once(' ') };
            let (value, next) = ends.unwrap_or((after, ""));
            message = message.with(key, value);
            rest = next;
        }
        Some(message)
    }
}

impl Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{} {}", self.id, self.verb)?;
        let is_text = |key: &str| TEXTS.contains(&key);
        let (texts, plain): (Vec<_>, Vec<_>) =
            self.values.iter().partition(|(key, _)| is_text(key));
        plain.iter().chain(&texts).try_for_each(|(key, value)| write!(f, " {key}={value}"))
    }
}
