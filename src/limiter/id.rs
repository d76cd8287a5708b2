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
    pub(super) at: Micros,
    pub(super) buckets: Vec<String>,
    pub(super) usage: Usage,
}

const ID_VERSION: &str = "1";

impl fmt::Display for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { claim, at, buckets, usage } = self;
        write!(f, "{ID_VERSION} {claim} {at}")?;
        for bucket in buckets {
            write!(f, " {}", Escaped(bucket))?;
        }
        usage.iter().try_for_each(|(metric, amount)| write!(f, " {}={amount}", Escaped(metric)))
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
        let mut number = || words.next()?.parse().ok().filter(|number| *number <= MAX_AMOUNT);
        let (claim, at) = (number()?, number()?);
        let (mut buckets, mut usage) = (Vec::new(), Usage::new());
        for word in words {
            match word.split_once('=') {
                Some((metric, amount)) => usage.set(unescaped(metric)?, amount.parse().ok()?),
                None => buckets.push(unescaped(word)?),
            }
        }
        (!buckets.is_empty()).then_some(Self { claim, at, buckets, usage })
    }
}

/// Text without spaces, `=` and `%`, which are written as `%` and two hexadecimal digits.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            ' ' | '=' | '%' | '\0'..='\x1f' => write!(f, "%{:02x}", u32::from(c)),
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
            at: 1_700_000_000_000_000,
            buckets: vec!["a b=c%{d}\n".into(), "ü".into()],
            usage: usage! { requests: 1, tokens: 1_500 },
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
        ] {
            assert_eq!(text.parse::<ReservationId>(), Err(BadDemand::InvalidId), "{text}");
        }
    }
}
