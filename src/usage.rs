//! What a call uses: an amount per metric.

use std::{array, borrow::Cow, fmt, slice};

/// Calls made: counted as 1 per call unless a usage says otherwise.
pub(crate) const REQUESTS: &str = "requests";
/// Tokens sent.
pub(crate) const INPUT_TOKENS: &str = "input_tokens";
/// Tokens received.
pub(crate) const OUTPUT_TOKENS: &str = "output_tokens";
/// Tokens sent and received, where they count alike.
pub(crate) const TOKENS: &str = "tokens";

/// A metric that is known even where no quota counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standard {
    Requests,
    Input,
    Output,
    Tokens,
}

impl Standard {
    const ALL: [(Self, &str); 4] = [
        (Self::Requests, REQUESTS),
        (Self::Input, INPUT_TOKENS),
        (Self::Output, OUTPUT_TOKENS),
        (Self::Tokens, TOKENS),
    ];

    /// True if `tokens` stands for it where only that is given.
    pub(crate) fn is_part(self) -> bool {
        matches!(self, Self::Input | Self::Output)
    }

    /// Its bit in a set of metrics.
    const fn bit(self) -> u64 {
        1 << self as u64
    }

    /// Returns the standard name that `name` may be meant for: it differs from that in number,
    /// case, its stroke or one letter, or it is another API's name for the same. A quota that
    /// counts what no usage gives would never bite.
    pub(crate) fn meant_by(name: &str) -> Option<&'static str> {
        let alike = |name: &str| {
            let name = name.to_lowercase().replace(['-', ' '], "_");
            name.strip_suffix('s').unwrap_or(&name).to_owned()
        };
        let own = alike(name);
        let elsewhere = match own.as_str() {
            "total_token" => Some(TOKENS),
            "prompt_token" => Some(INPUT_TOKENS),
            "completion_token" => Some(OUTPUT_TOKENS),
            _ => None,
        };
        let is_near = |standard: &&str| is_one_edit_apart(&own, &alike(standard));
        let near = || Self::ALL.into_iter().map(|(_, standard)| standard).find(is_near);
        elsewhere.or_else(near).filter(|standard| *standard != name)
    }

    #[inline]
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, own)| *own == name).map(|(standard, _)| standard)
    }
}

/// True if one byte that is added, left out or another makes one text of the other, or none does.
fn is_one_edit_apart(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    let (short, long) = (short.as_bytes(), long.as_bytes());
    let start = short.iter().zip(long).take_while(|(a, b)| a == b).count();
    match long.len() - short.len() {
        0 => short.iter().skip(start + 1).eq(long.iter().skip(start + 1)),
        1 => short.iter().skip(start).eq(long.iter().skip(start + 1)),
        _ => false,
    }
}

/// What one call uses, estimated or actual: whole amounts per metric.
///
/// Any name is a metric. Four are known without a quota: `requests`, `input_tokens`,
/// `output_tokens` and `tokens`. `tokens` stands for input and output together where only those are
/// given, and a usage that gives only `tokens` counts as that many on a quota over input or output.
///
/// ```
/// use tower_throttle::{Usage, usage};
///
/// let usage = usage! { requests: 1, input_tokens: 300, output_tokens: 112 };
/// assert_eq!(usage.get("tokens"), Some(412));
///
/// // Names that are not literals, and pairs.
/// let pairs = [("requests", 1), ("input_tokens", 300), ("output_tokens", 112)];
/// assert_eq!(usage, Usage::from_iter(pairs));
/// assert_eq!(usage.iter().map(|(_, amount)| amount).sum::<u64>(), 413);
/// ```
#[derive(Default)]
pub struct Usage {
    standard: Amounts,
    /// Boxed, since hardly any call has them and every reservation carries a usage.
    others: Option<Box<Others>>,
}

/// Amounts of metrics that are not [`Standard`].
type Others = Vec<(Cow<'static, str>, u64)>;

/// An amount of each [`Standard`] metric that is given.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Amounts {
    /// 0 where an amount is not given.
    amounts: [u64; 4],
    /// A bit for each amount that is given. As wide as an amount: a struct with padding is slower
    /// to move.
    given: u64,
}

impl Amounts {
    #[inline]
    fn get(&self, metric: Standard) -> Option<u64> {
        self.gives(metric).then_some(self.amounts[metric as usize])
    }

    fn set(&mut self, metric: Standard, amount: u64) {
        self.amounts[metric as usize] = amount;
        self.given |= metric.bit();
    }

    /// Copies the amounts of `metrics`, a bit for each, that `from` gives and this does not.
    #[inline]
    fn fill(&mut self, metrics: u64, from: &Self) {
        let filled = metrics & from.given & !self.given;
        for metric in [Standard::Requests, Standard::Input, Standard::Output, Standard::Tokens] {
            if filled & metric.bit() != 0 {
                self.amounts[metric as usize] = from.amounts[metric as usize];
            }
        }
        self.given |= filled;
    }

    fn gives(&self, metric: Standard) -> bool {
        self.given & metric.bit() != 0
    }

    #[inline]
    fn corrected(self, mut actual: Self) -> Self {
        const REQUESTS: u64 = Standard::Requests.bit();
        const PARTS: u64 = Standard::Input.bit() | Standard::Output.bit();
        const WHOLE: u64 = Standard::Tokens.bit();

        let (told, known) = (actual.given, actual.given | self.given);
        // A part that was reserved would contradict a whole that was used, and the other way round.
        let parts = if told & WHOLE != 0 { 0 } else { PARTS };
        let whole = if told & PARTS != 0 && known & PARTS == PARTS { 0 } else { WHOLE };
        actual.fill(REQUESTS | parts | whole, &self);
        actual
    }
}

impl Usage {
    /// A usage of nothing.
    #[inline]
    pub const fn new() -> Self {
        Self { standard: Amounts { amounts: [0; 4], given: 0 }, others: None }
    }

    /// Sets the amount of one metric.
    #[must_use]
    #[inline]
    pub fn with(mut self, metric: impl Into<Cow<'static, str>>, amount: u64) -> Self {
        self.set(metric, amount);
        self
    }

    /// Sets the amount of one metric.
    #[inline]
    pub fn set(&mut self, metric: impl Into<Cow<'static, str>>, amount: u64) {
        let metric = metric.into();
        match Standard::named(&metric) {
            Some(standard) => self.standard.set(standard, amount),
            None => self.set_other(metric, amount),
        }
    }

    /// Apart, so that the compiler reduces `set` of a literal name to a store.
    #[cold]
    fn set_other(&mut self, metric: Cow<'static, str>, amount: u64) {
        let others = self.others.get_or_insert_default();
        match others.iter_mut().find(|(name, _)| *name == metric) {
            Some((_, present)) => *present = amount,
            None => others.push((metric, amount)),
        }
    }

    /// Returns the amount of one metric, if it is given or follows from `tokens`, `input_tokens`
    /// and `output_tokens`.
    #[inline]
    pub fn get(&self, metric: &str) -> Option<u64> {
        match Standard::named(metric) {
            Some(standard) => self.standard(standard),
            None => self.other(metric),
        }
    }

    /// Returns the amount of a standard metric, if it is given itself.
    #[inline]
    pub(crate) fn given(&self, metric: Standard) -> Option<u64> {
        self.standard.get(metric)
    }

    /// Returns the amount of a standard metric, if it is given or follows from others.
    pub(crate) fn standard(&self, metric: Standard) -> Option<u64> {
        let given = |metric| self.standard.get(metric);
        given(metric).or_else(|| match metric {
            Standard::Requests => None,
            Standard::Input => {
                Some(given(Standard::Tokens)?.saturating_sub(given(Standard::Output)?))
            }
            Standard::Output => {
                Some(given(Standard::Tokens)?.saturating_sub(given(Standard::Input)?))
            }
            Standard::Tokens => {
                Some(given(Standard::Input)?.saturating_add(given(Standard::Output)?))
            }
        })
    }

    fn other(&self, metric: &str) -> Option<u64> {
        self.iter_others().find(|(name, _)| *name == metric).map(|(_, amount)| amount)
    }

    /// Returns the amounts that were given, as pairs of a metric and an amount.
    pub fn iter(&self) -> UsageIter<'_> {
        UsageIter {
            standard: Standard::ALL.into_iter(),
            amounts: self.standard,
            others: self.others.as_deref().map_or(&[][..], Vec::as_slice).iter(),
        }
    }

    /// True if it gives nothing but standard metrics.
    #[inline]
    pub(crate) fn is_standard(&self) -> bool {
        self.others.is_none()
    }

    /// Returns the amounts of metrics that are not standard, so that some quota has to know them.
    pub(crate) fn iter_others(&self) -> impl Iterator<Item = (&str, u64)> {
        self.others
            .iter()
            .flat_map(|others| others.iter())
            .map(|(metric, amount)| (metric.as_ref(), *amount))
    }

    /// Returns `tokens`, if it gives that and neither input nor output.
    pub(crate) fn only_tokens(&self) -> Option<u64> {
        let names_part =
            self.standard.gives(Standard::Input) || self.standard.gives(Standard::Output);
        if names_part { None } else { self.standard.get(Standard::Tokens) }
    }

    /// Returns this estimate, corrected by the actual usage: what `actual` does not name keeps its
    /// amount.
    #[inline]
    pub(crate) fn corrected(&self, actual: &Self) -> Self {
        let others = match (&self.others, &actual.others) {
            (None, None) => None,
            _ => self.corrected_others(actual),
        };
        Self { standard: self.standard.corrected(actual.standard), others }
    }

    #[cold]
    fn corrected_others(&self, actual: &Self) -> Option<Box<Others>> {
        let mut corrected = actual.others.clone();
        for (metric, amount) in self.others.iter().flat_map(|others| others.iter()) {
            if actual.other(metric).is_none() {
                corrected.get_or_insert_default().push((metric.clone(), *amount));
            }
        }
        corrected
    }

    /// Returns the larger of both amounts, metric by metric.
    pub(crate) fn at_least(&self, seen: &Self) -> Self {
        let mut larger = self.corrected(seen);
        larger.for_each(|metric, amount| *amount = (*amount).max(self.get(metric).unwrap_or(0)));
        if let Some(tokens) = self.only_tokens()
            && larger.get(TOKENS).is_none_or(|seen| seen < tokens)
        {
            let requests = larger.standard;
            larger.standard = Amounts::default();
            larger.standard.fill(Standard::Requests.bit(), &requests);
            larger.standard.set(Standard::Tokens, tokens);
        }
        larger
    }

    /// Returns a usage of the same metrics with nothing of each but of requests.
    pub(crate) fn requests_only(&self) -> Self {
        let requests = self.standard.get(Standard::Requests).unwrap_or(1);
        let mut usage = self.zeroed();
        usage.standard.set(Standard::Requests, requests);
        usage
    }

    /// Returns a usage of the same metrics with nothing of each.
    pub(crate) fn zeroed(&self) -> Self {
        let mut zeroed = self.clone();
        zeroed.for_each(|_, amount| *amount = 0);
        zeroed
    }

    fn for_each(&mut self, mut change: impl FnMut(&str, &mut u64)) {
        for (metric, name) in Standard::ALL {
            if self.standard.gives(metric) {
                change(name, &mut self.standard.amounts[metric as usize]);
            }
        }
        let others = self.others.iter_mut().flat_map(|others| others.iter_mut());
        others.for_each(|(metric, amount)| change(metric, amount));
    }
}

#[cold]
fn cloned(others: &Others) -> Box<Others> {
    Box::new(others.clone())
}

impl Clone for Usage {
    #[inline]
    fn clone(&self) -> Self {
        Self { standard: self.standard, others: self.others.as_deref().map(cloned) }
    }
}

impl fmt::Debug for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Two usages are equal when they give the same amounts, in whatever order.
impl PartialEq for Usage {
    fn eq(&self, other: &Self) -> bool {
        self.standard == other.standard
            && self.iter_others().count() == other.iter_others().count()
            && self.iter_others().all(|(metric, amount)| other.other(metric) == Some(amount))
    }
}

impl Eq for Usage {}

/// The amounts of a [`Usage`]: see [`Usage::iter`].
#[derive(Clone)]
pub struct UsageIter<'a> {
    standard: array::IntoIter<(Standard, &'static str), 4>,
    amounts: Amounts,
    others: slice::Iter<'a, (Cow<'static, str>, u64)>,
}

impl<'a> Iterator for UsageIter<'a> {
    type Item = (&'a str, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let amounts = self.amounts;
        self.standard
            .find_map(|(metric, name)| Some((name, amounts.get(metric)?)))
            .or_else(|| self.others.next().map(|(metric, amount)| (metric.as_ref(), *amount)))
    }
}

impl fmt::Debug for UsageIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl<'a> IntoIterator for &'a Usage {
    type Item = (&'a str, u64);
    type IntoIter = UsageIter<'a>;

    fn into_iter(self) -> UsageIter<'a> {
        self.iter()
    }
}

/// Sets the amounts one after the other, as [`Usage::set`] does: the last one of a metric counts.
impl<M: Into<Cow<'static, str>>> Extend<(M, u64)> for Usage {
    fn extend<T: IntoIterator<Item = (M, u64)>>(&mut self, amounts: T) {
        amounts.into_iter().for_each(|(metric, amount)| self.set(metric, amount));
    }
}

impl<M: Into<Cow<'static, str>>> FromIterator<(M, u64)> for Usage {
    fn from_iter<T: IntoIterator<Item = (M, u64)>>(amounts: T) -> Self {
        let mut usage = Self::new();
        usage.extend(amounts);
        usage
    }
}

/// An amount of a metric, as [`usage!`](crate::usage) takes it.
///
/// All unsigned integers are amounts, and an `i32`, since that is what a literal is whose type
/// nothing says. One that is negative is 0; one that is too large is the largest.
#[doc(hidden)]
pub trait Amount: sealed::Sealed {
    /// Returns it as usages hold it.
    fn amount(self) -> u64;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! amounts {
    ($($integer:ty, $beyond:expr;)*) => {$(
        impl sealed::Sealed for $integer {}

        impl Amount for $integer {
            #[inline]
            fn amount(self) -> u64 {
                u64::try_from(self).unwrap_or($beyond)
            }
        }
    )*};
}

amounts! {
    u8, u64::MAX;
    u16, u64::MAX;
    u32, u64::MAX;
    u64, u64::MAX;
    u128, u64::MAX;
    usize, u64::MAX;
    i32, 0;
}

/// A [`Usage`] from `metric: amount` pairs. An amount is any unsigned integer, or an `i32`, of
/// which a negative one is 0; a literal has no suffix, or `u64`. A metric is a name, or text in
/// quotes where it is no identifier. A name is never a variable:
/// `Usage::new().with(metric, amount)` takes one.
///
/// ```
/// use tower_throttle::usage;
///
/// let prompt = "Why?";
/// let images: u8 = 2;
/// let usage = usage! { requests: 1, tokens: prompt.len(), images: images, "cpu-ms": 1_500 };
/// assert_eq!(usage.get("tokens"), Some(4));
/// assert_eq!(usage.get("cpu-ms"), Some(1_500));
/// ```
#[macro_export]
macro_rules! usage {
    (@to $usage:expr;) => { $usage };
    (@to $usage:expr; $metric:ident $($rest:tt)*) => {
        $crate::usage!(@amount $usage; stringify!($metric); $($rest)*)
    };
    (@to $usage:expr; $metric:literal $($rest:tt)*) => {
        $crate::usage!(@amount $usage; $metric; $($rest)*)
    };
    // A literal is a `u64`, however large.
    (@amount $usage:expr; $metric:expr; : $amount:literal $(, $($rest:tt)*)?) => {
        $crate::usage!(@to $usage.with($metric, $amount); $($($rest)*)?)
    };
    (@amount $usage:expr; $metric:expr; : $amount:expr $(, $($rest:tt)*)?) => {
        $crate::usage!(
            @to $usage.with($metric, $crate::__private::Amount::amount($amount)); $($($rest)*)?
        )
    };
    (@ $($other:tt)*) => {
        compile_error!("`usage!` takes pairs: `usage! { requests: 1, \"cpu-ms\": 1_500 }`")
    };
    ($($pairs:tt)*) => { $crate::usage!(@to $crate::Usage::new(); $($pairs)*) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_collects_from_and_iterates_over_pairs() {
        let pairs = vec![(String::from("rows"), 7), ("requests".into(), 2), ("tokens".into(), 0)];
        let mut usage: Usage = pairs.into_iter().collect();
        assert_eq!(usage, usage! { requests: 2, tokens: 0, rows: 7 });
        usage.extend([("rows", 8), ("input_tokens", 3)]);
        let mut seen = Vec::new();
        for (metric, amount) in &usage {
            seen.push((metric, amount));
        }
        let expected = [("requests", 2), ("input_tokens", 3), ("tokens", 0), ("rows", 8)];
        assert_eq!(seen, expected);
        assert_eq!(
            seen.into_iter().map(|(metric, n)| (metric.to_owned(), n)).collect::<Usage>(),
            usage
        );
        assert_eq!(Usage::new().iter().next(), None);
    }

    #[test]
    fn any_unsigned_integer_is_an_amount_and_text_a_name() {
        let (small, long, wide) = (7_u8, vec![0; 3].len(), u128::MAX);
        let below = -1;
        let usage = usage! {
            requests: small,
            tokens: long + 1,
            "a-b": wide,
            large: 5_000_000_000,
            few: if small > 1 { 2 } else { 3 },
            none: below,
        };
        let expected = [
            ("requests", 7),
            ("tokens", 4),
            ("a-b", u64::MAX),
            ("large", 5_000_000_000),
            ("few", 2),
            ("none", 0),
        ];
        assert_eq!(usage.iter().collect::<Vec<_>>(), expected);
        assert_eq!(usage! {}, Usage::new());
    }

    #[test]
    fn what_a_settle_does_not_name_keeps_its_amount() {
        let reserved = usage! { requests: 1, tokens: 1_500 };
        assert_eq!(
            reserved.corrected(&usage! { tokens: 412 }),
            usage! { requests: 1, tokens: 412 }
        );
        assert_eq!(reserved.corrected(&usage! {}), reserved);
    }

    #[test]
    fn tokens_follow_input_and_output() {
        let reserved = usage! { tokens: 1_500 };
        assert_eq!(
            reserved.corrected(&usage! { input_tokens: 3, output_tokens: 4 }).get(TOKENS),
            Some(7)
        );

        let split = usage! { input_tokens: 1_000, output_tokens: 500 };
        assert_eq!(split.corrected(&usage! { output_tokens: 20 }).get(TOKENS), Some(1_020));
        assert_eq!(split.corrected(&usage! { tokens: 20 }).only_tokens(), Some(20));
        assert_eq!(usage! { tokens: 9, output_tokens: 4 }.get(INPUT_TOKENS), Some(5));
    }

    #[test]
    fn what_was_seen_is_a_lower_bound() {
        let reserved = usage! { requests: 1, tokens: 1_500 };
        assert_eq!(reserved.at_least(&usage! { tokens: 10 }), reserved);
        assert_eq!(reserved.at_least(&usage! { tokens: 2_000 }).get(TOKENS), Some(2_000));
        assert_eq!(reserved.at_least(&usage! { input_tokens: 3, output_tokens: 5 }), reserved);
        let seen = usage! { input_tokens: 3, output_tokens: 5_000 };
        assert_eq!(reserved.at_least(&seen).get(TOKENS), Some(5_003));
    }
}
