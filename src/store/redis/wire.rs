//! What goes to the script and what comes back: packed little-endian doubles, as `apply.lua` documents. What comes
//! back is not trusted.

use crate::{
    engine::{
        Answer, Level, Life, MAX_AMOUNT, Micros, Mode, Op, Outcome, Paused, RefusedBy, Rule,
        TokenBucket, Verdict, Violation, Window,
    },
    store::{Batch, Bucket},
};

/// As many numbers as one argument may have; the script unpacks an argument in one call.
const NUMBERS_PER_ARGUMENT: usize = 6_000;

/// As many quotas as one batch may be about, so that an operation fits into an argument.
const MAX_RULES: usize = 1_000;

/// Packed numbers.
#[derive(Default)]
struct Numbers(Vec<u8>);

impl Numbers {
    fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count * 8))
    }

    fn push(&mut self, number: u64) {
        self.0.extend_from_slice(&(number.min(MAX_AMOUNT) as f64).to_le_bytes());
    }

    fn extend(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|&number| self.push(number));
    }

    fn len(&self) -> usize {
        self.0.len() / 8
    }

    fn increment(&mut self, index: usize) {
        if let Some((bytes, _)) = self.0[8 * index..].split_first_chunk_mut() {
            *bytes = (f64::from_le_bytes(*bytes) + 1.0).to_le_bytes();
        }
    }
}

/// The arguments of the script, or why there are none.
pub(super) fn encode(batch: &Batch<'_>) -> Result<Vec<Vec<u8>>, &'static str> {
    let rules: usize = batch.buckets.iter().map(|bucket| bucket.rules.len()).sum();
    if rules > MAX_RULES {
        return Err("a demand on too many quotas");
    }
    if !batch.ops.iter().all(|op| fits_rules(op, rules)) {
        return Err("an operation without an amount for each quota");
    }

    let lane = [b"l", &(batch.lane.min(MAX_AMOUNT) as f64).to_le_bytes()[..]].concat();
    let expected = 4 + 3 * rules + batch.ops.len() * (1 + 2 * rules);
    let mut message = Numbers::with_capacity(expected.min(NUMBERS_PER_ARGUMENT));
    let mut declared = Numbers::with_capacity(2 * batch.buckets.len() + 10 * rules);
    message.extend(&[batch.seq, batch.lease]);
    match batch.buckets {
        [bucket] => encode_shortcut(&mut message, &bucket.rules),
        _ => message.extend(&[0, 0]),
    }
    for Bucket { rules, .. } in batch.buckets {
        declared.extend(&[digest(rules).unwrap_or(0), rules.len() as u64]);
        rules.iter().for_each(|rule| encode_rule(&mut declared, rule));
    }

    let mut arguments = vec![lane, Vec::new(), declared.0];
    let mut first = None;
    let mut run = None;
    for op in batch.ops {
        if message.len() + 3 + 2 * rules > NUMBERS_PER_ARGUMENT {
            let full = std::mem::take(&mut message).0;
            run = None;
            match first {
                None => first = Some(full),
                Some(_) => arguments.push(full),
            }
        }
        run = encode_op(&mut message, op, run);
    }
    match first {
        None => arguments[1] = message.0,
        Some(first) => {
            arguments[1] = first;
            arguments.push(message.0);
        }
    }
    Ok(arguments)
}

/// What the script's shortcut needs to know of the rules, if it can be taken at all.
fn encode_shortcut(to: &mut Numbers, rules: &[Rule]) {
    let Some(digest) = digest(rules) else { return to.extend(&[0, 0]) };
    to.extend(&[digest, rules.len() as u64]);
    for rule in rules {
        if let Window::Sliding { slot, slots } = rule.window {
            to.extend(&[rule.limit, slot, slot.saturating_mul(slots + 1)]);
        }
    }
}

/// Stands for the identities of rules, if they are such that the shortcut can be taken.
fn digest(rules: &[Rule]) -> Option<u64> {
    // FNV-1a, by numbers.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for rule in rules {
        let Window::Sliding { slot, slots } = rule.window else { return None };
        if rule.held {
            return None;
        }
        for number in [rule.id, slot, slots] {
            hash = (hash ^ number).wrapping_mul(0x0100_0000_01b3);
            hash ^= hash >> 32;
        }
    }
    Some((hash & MAX_AMOUNT).max(1))
}

fn fits_rules(op: &Op, rules: usize) -> bool {
    match op {
        Op::Reserve { costs, .. } => costs.len() == rules,
        Op::Settle { reserved, actual, .. } => reserved.len() == rules && actual.len() == rules,
        Op::Detach { reserved, .. } => reserved.len() == rules,
        Op::Pause(_) | Op::Surface { .. } | Op::Cap { .. } | Op::Status => true,
    }
}

fn encode_rule(to: &mut Numbers, rule: &Rule) {
    let kind = match &rule.window {
        Window::Sliding { .. } => 1,
        Window::TokenBucket(_) => 2,
        Window::Fixed { .. } => 3,
        Window::InFlight => 4,
        Window::Calendar { .. } => 5,
    };
    to.extend(&[rule.id, rule.limit, kind, rule.held.into()]);
    match &rule.window {
        Window::Sliding { slot, slots } => to.extend(&[*slot, *slots]),
        Window::TokenBucket(TokenBucket { tick, units, burst, max_debt, slot, slots }) => {
            to.extend(&[*tick, *units, *burst, *max_debt, *slot, (*slots).max(1)]);
        }
        Window::Fixed { length, anchor } => to.extend(&[*length, *anchor]),
        Window::InFlight => {}
        Window::Calendar { boundaries } => {
            to.push(boundaries.len() as u64);
            to.extend(boundaries);
        }
    }
}

/// Operations of one kind that follow each other: a run says once what they have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Run {
    kind: u64,
    headroom: u64,
    /// Where it says how many there are.
    many: usize,
}

/// Appends an operation, to the run before it if it is of its kind. Answers the run that it is part of.
fn encode_op(to: &mut Numbers, op: &Op, run: Option<Run>) -> Option<Run> {
    let continued = |to: &mut Numbers, kind, headroom| match run {
        Some(run) if (run.kind, run.headroom) == (kind, headroom) => {
            to.increment(run.many);
            (run, true)
        }
        _ => {
            to.extend(&[kind, 1]);
            (Run { kind, headroom, many: to.len() - 1 }, false)
        }
    };
    match op {
        Op::Reserve { costs, headroom, explain, mode } => {
            let mode = match mode {
                Mode::Wait => 1,
                Mode::Try => 2,
                Mode::Dry => 3,
            };
            let (run, runs) = continued(to, if *explain { mode + 3 } else { mode }, *headroom);
            if !runs {
                to.push(*headroom);
            }
            to.extend(costs);
            Some(run)
        }
        Op::Settle { at, reserved, actual, close, claim: None } => {
            let (run, _) = continued(to, if *close { 7 } else { 8 }, 0);
            to.push(*at);
            to.extend(reserved);
            to.extend(actual);
            Some(run)
        }
        Op::Settle { at, reserved, actual, close, claim: Some(claim) } => {
            to.extend(&[if *close { 9 } else { 10 }, *at, *claim]);
            to.extend(reserved);
            to.extend(actual);
            None
        }
        Op::Detach { claim, reserved, lease } => {
            to.extend(&[11, *claim, *lease]);
            to.extend(reserved);
            None
        }
        Op::Pause(duration) => {
            to.extend(&[12, *duration]);
            None
        }
        Op::Status => {
            to.push(13);
            None
        }
        Op::Cap { quota, left: Some(left), at, lasts } => {
            to.extend(&[14, *quota, *left, *at, *lasts]);
            None
        }
        Op::Cap { quota, left: None, lasts, .. } => {
            to.extend(&[15, *quota, *lasts]);
            None
        }
        Op::Surface { quota: None, asked, lasts } => {
            to.extend(&[16, *asked, *lasts]);
            None
        }
        Op::Surface { quota: Some(quota), asked, lasts } => {
            to.extend(&[17, *quota, *asked, *lasts]);
            None
        }
    }
}

/// The answer in `reply` to a batch about so many buckets; `None` if that is no answer of the script's.
pub(super) fn decode(reply: &[u8], buckets: usize) -> Option<Answer> {
    let mut reply = Reader(reply);
    let wall = reply.amount()?;
    let outcome = match reply.amount()? {
        0 => decode_applied(&mut reply, buckets)?,
        1 => Outcome::Stale,
        2 => Outcome::Uncharted,
        _ => return None,
    };
    reply.0.is_empty().then_some(Answer { wall, outcome })
}

fn decode_applied(reply: &mut Reader<'_>, buckets: usize) -> Option<Outcome> {
    let now = reply.amount()?;
    let lives = (0..buckets)
        .map(|_| Some(Life { born: reply.amount()?, expires: reply.amount()? }))
        .collect::<Option<_>>()?;
    let (verdicts, reasons) = (reply.amount()?, reply.amount()?);
    let codes = reply.bytes(usize::try_from(verdicts).ok()?)?;
    if reply.0.len() as u64 != reasons.checked_mul(8)? {
        return None;
    }
    let verdicts = codes.iter().map(|&code| decode_verdict(code, reply)).collect::<Option<_>>()?;
    Some(Outcome::Applied { now, lives, verdicts })
}

fn decode_verdict(code: u8, reasons: &mut Reader<'_>) -> Option<Verdict> {
    Some(match code {
        1 => Verdict::Granted,
        2 => Verdict::Fits,
        3 => Verdict::Refused(Box::default()),
        4 => {
            let count = reasons.count(5)?;
            Verdict::Refused((0..count).map(|_| decode_violation(reasons)).collect::<Option<_>>()?)
        }
        5 => Verdict::Done,
        6 => Verdict::NoClaim,
        7 => {
            let count = reasons.count(6)?;
            let levels = (0..count).map(|_| decode_level(reasons)).collect::<Option<_>>()?;
            let (until, asked_until) = (reasons.amount()?, reasons.amount()?);
            Verdict::Status(levels, Paused { until, asked_until })
        }
        _ => return None,
    })
}

fn decode_violation(reasons: &mut Reader<'_>) -> Option<Violation> {
    let by = match reasons.integer()? {
        pause @ ..0 => RefusedBy::Pause(usize::try_from(-1 - pause).ok()?),
        rule => RefusedBy::Rule(usize::try_from(rule).ok()?),
    };
    let available = reasons.integer()?;
    let wait = match reasons.integer()? {
        -1 => None,
        wait => Some(Micros::try_from(wait).ok()?),
    };
    let (at_best, asked) = (reasons.amount()?, reasons.some_amount()?);
    Some(Violation { by, available, wait, at_best, asked })
}

fn decode_level(reasons: &mut Reader<'_>) -> Option<Level> {
    Some(Level {
        charged: reasons.amount()?,
        in_flight: reasons.amount()?,
        reset: reasons.amount()?,
        withheld: reasons.amount()?,
        withheld_for: reasons.amount()?,
        asked: reasons.some_amount()?,
    })
}

/// Reads a reply from its beginning.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn integer(&mut self) -> Option<i64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        let number = f64::from_le_bytes(*bytes);
        // Also refuses what is not a number or not finite.
        (number.abs() <= MAX_AMOUNT as f64 && number.fract() == 0.0).then_some(number as i64)
    }

    fn amount(&mut self) -> Option<u64> {
        u64::try_from(self.integer()?).ok()
    }

    /// An amount that is never 0, which stands for none.
    fn some_amount(&mut self) -> Option<Option<u64>> {
        self.amount().map(|amount| Some(amount).filter(|amount| *amount > 0))
    }

    /// How many items follow, of at least so many numbers each.
    fn count(&mut self, numbers: usize) -> Option<usize> {
        let count = usize::try_from(self.amount()?).ok()?;
        (count.checked_mul(8 * numbers)? <= self.0.len()).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(numbers: &[f64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn an_answer_is_read_back() {
        let mut reply = packed(&[9.0, 0.0, 8.0, 1.0, 2.0, 3.0, 14.0]);
        reply.extend([1, 4, 7]);
        reply.extend(packed(&[
            2.0, -1.0, -7.0, -1.0, 3.0, 0.0, 4.0, 0.0, 5.0, 5.0, 6.0, 0.0, 8.0, 9.0,
        ]));
        let paused = Violation {
            by: RefusedBy::Pause(0),
            available: -7,
            wait: None,
            at_best: 3,
            asked: None,
        };
        let by = RefusedBy::Rule(4);
        let short = Violation { by, available: 0, wait: Some(5), at_best: 5, asked: Some(6) };
        let refused = Verdict::Refused(Box::new([paused, short]));
        let status = Verdict::Status(Box::default(), Paused { until: 8, asked_until: 9 });
        assert_eq!(
            decode(&reply, 1),
            Some(Answer {
                wall: 9,
                outcome: Outcome::Applied {
                    now: 8,
                    lives: [Life { born: 1, expires: 2 }].into_iter().collect(),
                    verdicts: [Verdict::Granted, refused, status].into_iter().collect(),
                }
            })
        );
        for cut in 0..reply.len() {
            assert_eq!(decode(&reply[..cut], 1), None);
        }
    }

    #[test]
    fn what_is_no_answer_is_told_apart_and_never_panics() {
        for numbers in [
            &[f64::NAN, 1.0][..],
            &[f64::INFINITY, 1.0],
            &[-1.0, 1.0],
            &[1e300, 1.0],
            &[0.5, 1.0],
            &[1.0, 3.0],
            &[1.0, 1.0, 1.0],
            &[1.0, 0.0, 1.0, 1.0, 1.0, 9e15, 0.0],
            &[1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 9e15],
        ] {
            assert_eq!(decode(&packed(numbers), 1), None, "{numbers:?}");
        }
        let mut reply = packed(&[1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        reply.push(7);
        reply.extend(packed(&[9e15]));
        assert_eq!(decode(&reply, 1), None);
    }
}
