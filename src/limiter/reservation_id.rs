//! The name of a detached reservation, which can be sent as text.

use std::{fmt, str::FromStr};

use crate::{
    engine::{MAX_AMOUNT, Micros},
    error::BadDemand,
    usage::Usage,
};

/// Names a detached reservation to any process that knows the same limits. It can be sent as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationId {
    pub(super) claim: u64,
    /// When it was granted, by the time of each bucket.
    pub(super) at: Vec<Micros>,
    pub(super) buckets: Vec<String>,
    pub(super) usage: Usage,
    /// Usages of buckets that were asked for another one, by their indexes.
    pub(super) others: Vec<(u16, Usage)>,
}

const ID_VERSION: &str = "1";

impl fmt::Display for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { claim, at, buckets, usage, others } = self;
        write!(f, "{ID_VERSION} {claim} ")?;
        for (index, at) in at.iter().enumerate() {
            write!(f, "{}{at}", if index > 0 { "," } else { "" })?;
        }
        for bucket in buckets {
            write!(f, " {}", Escaped(bucket))?;
        }
        usage.iter().try_for_each(|(metric, amount)| write!(f, " {}={amount}", Escaped(metric)))?;
        others.iter().try_for_each(|(index, usage)| {
            usage
                .iter()
                .try_for_each(|(metric, amount)| write!(f, " {index}:{}={amount}", Escaped(metric)))
        })
    }
}

impl FromStr for ReservationId {
    type Err = BadDemand;

    fn from_str(text: &str) -> Result<Self, BadDemand> {
        Self::parse(text).ok_or(BadDemand::InvalidId)
    }
}

impl ReservationId {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next() != Some(ID_VERSION) {
            return None;
        }
        let number = |text: &str| text.parse().ok().filter(|number| *number <= MAX_AMOUNT);
        let claim = number(words.next()?)?;
        let at = words.next()?.split(',').map(number).collect::<Option<Vec<_>>>()?;
        let mut id =
            Self { claim, at, buckets: Vec::new(), usage: Usage::new(), others: Vec::new() };
        for word in words {
            match word.split_once('=') {
                Some((metric, amount)) => id.set(metric, amount.parse().ok()?)?,
                None => id.buckets.push(unescaped(word)?),
            }
        }
        (!id.buckets.is_empty()).then_some(id)
    }

    /// Sets the amount of a metric, of the usage of all buckets or of that of one.
    fn set(&mut self, metric: &str, amount: u64) -> Option<()> {
        let Some((index, metric)) = metric.split_once(':') else {
            self.usage.set(unescaped(metric)?, amount);
            return Some(());
        };
        let index = index.parse().ok()?;
        let known =
            self.others.iter().position(|(other, _)| *other == index).unwrap_or_else(|| {
                self.others.push((index, Usage::new()));
                self.others.len() - 1
            });
        self.others[known].1.set(unescaped(metric)?, amount);
        Some(())
    }
}

/// Text without spaces, `=`, `:` and `%`, which are written as `%` and two hexadecimal digits.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            ' ' | '=' | ':' | '%' | '\0'..='\x1f' => write!(f, "%{:02x}", u32::from(c)),
            c => write!(f, "{c}"),
        })
    }
}

fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let code = u8::from_str_radix(part.get(..2)?, 16).ok().filter(u8::is_ascii)?;
        plain.push(char::from(code));
        plain.push_str(&part[2..]);
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage;

    #[test]
    fn an_id_survives_being_text() {
        let id = ReservationId {
            claim: 17,
            at: vec![1_700_000_000_000_000, 17],
            buckets: vec!["a b=c%{d}:\n".into(), "ü".into()],
            usage: usage! { requests: 1, tokens: 1_500 },
            others: vec![(1, Usage::new().with("a:b", 7))],
        };
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn other_text_is_no_id() {
        for text in [
            "",
            "1",
            "1 2",
            "1 2 3",
            "2 2 3 a",
            "1 x 3 a",
            "1 2 3 a=x",
            "1 2 3 %",
            "1 2 3 %zz",
            "1 2 3 %ü",
            "1 2 3,x a",
            "1 2 3 a x:y=1",
        ] {
            assert_eq!(text.parse::<ReservationId>(), Err(BadDemand::InvalidId), "{text}");
        }
    }
}
