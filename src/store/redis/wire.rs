//! What goes to the script and what comes back: packed little-endian doubles, as `arguments.lua`
//! and `operations.lua` document. What comes back is not trusted.

use smallvec::{SmallVec, smallvec};

use crate::{
    engine::{
        Answer, BucketLevel, Level, Line, MAX_AMOUNT, Micros, Mode, Op, Outcome, Refused,
        RefusedBy, Reserve, Rule, Seen, Settle, TokenBucket, Verdict, Verdicts, Violation, Window,
    },
    store::{Batch, Bucket},
};

/// As many quotas as one bucket, and as one batch, may be about: the script packs the state of a
/// bucket in one call.
const MAX_RULES_OF_BUCKET: usize = 500;
const MAX_RULES: usize = 10_000;

/// Part of every digest of rules: that of a state which another version wrote is never the same.
/// It changes, here and in `bucket.lua`, with the layout or the meaning of what is stored. It need
/// not when messages change: they go with the text of the script, which each version names by its
/// own digest.
pub(super) const VERSION: u64 = 5;

/// How many numbers a state has that are not a quota's.
pub(super) const OF_BUCKET: u64 = 12;

/// Packed numbers.
#[derive(Default)]
struct Numbers(Vec<u8>);

impl Numbers {
    fn push(&mut self, number: u64) {
        self.push_double(number.min(MAX_AMOUNT) as f64);
    }

    fn push_double(&mut self, number: f64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn extend(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|&number| self.push(number));
    }

    fn len(&self) -> usize {
        self.0.len() / 8
    }

    fn set(&mut self, index: usize, number: u64) {
        if let Some((bytes, _)) = self.0[8 * index..].split_first_chunk_mut() {
            *bytes = (number as f64).to_le_bytes();
        }
    }
}

/// The arguments of the script, or why there are none. Wake-ups go to channels whose names begin
/// with `channel`, none if that is empty; `sharded` ones stay in the cluster's shard. What the
/// quotas are called goes along each time: the script looks at it where a quota is new.
pub(super) fn encode(
    batch: &Batch<'_>,
    channel: &[u8],
    sharded: bool,
) -> Result<Vec<Vec<u8>>, &'static str> {
    let rules = || batch.buckets.iter().map(|bucket| bucket.rules.len());
    if rules().sum::<usize>() > MAX_RULES || rules().any(|rules| rules > MAX_RULES_OF_BUCKET) {
        return Err("a demand on too many quotas");
    }
    if !batch.ops.iter().all(|op| fits_rules(op, batch.buckets)) {
        return Err("an operation without an amount for each quota");
    }
    let has_flows =
        |op: &Op| matches!(op, Op::Reserve(r) if r.mode == Mode::Wait && r.flow.id != 0);
    let is_told = |index: usize| {
        let told =
            |op: &Op| matches!(op, Op::Waiting { bucket, .. } if usize::from(*bucket) == index);
        batch.ops.iter().any(told)
    };
    let tells = batch.ops.iter().any(|op| matches!(op, Op::Waiting { .. }));

    let expected = 6 + 15 * batch.buckets.len() + 12 * batch.ops.len();
    let mut message = Numbers(Vec::with_capacity(8 * expected));
    let messages = u64::from(sharded) + 2 * u64::from(batch.unhinted);
    message.extend(&[batch.session, batch.seq, batch.lease, messages]);
    message.extend(&[batch.ops.iter().any(has_flows).into(), batch.buckets.len() as u64]);
    for (index, Bucket { key, rules, .. }) in batch.buckets.iter().enumerate() {
        let size = OF_BUCKET + rules.iter().map(|rule| kind_of(rule).1).sum::<u64>();
        message.extend(&[key.id(), (tells && is_told(index)).into()]);
        message.extend(&[digest(rules), size, rules.len() as u64]);
        rules.iter().for_each(|rule| encode_rule(&mut message, rule));
    }
    batch.ops.chunk_by(are_alike).for_each(|run| encode_run(&mut message, run));
    let notes = batch.buckets.iter().map(|bucket| bucket.notes().as_bytes().to_vec());
    Ok([message.0, channel.to_vec()].into_iter().chain(notes).collect())
}

/// Stands for all that a state knows of rules. The boundaries of a calendar are none of it.
pub(super) fn digest(rules: &[Rule]) -> u64 {
    // FNV-1a, by numbers.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |number: u64| {
        hash = (hash ^ number).wrapping_mul(0x0100_0000_01b3);
        hash ^= hash >> 32;
    };
    add(VERSION);
    rules.iter().flat_map(numbers_of).for_each(add);
    hash & MAX_AMOUNT
}

/// The number of a rule's kind, and how many numbers a state has of its quota.
pub(super) fn kind_of(rule: &Rule) -> (u64, u64) {
    match &rule.window {
        Window::Sliding { .. } => (1, 5),
        Window::TokenBucket(_) => (2, 11),
        Window::Fixed { .. } => (3, 4),
        Window::InFlight => (4, 2),
        Window::Calendar { .. } => (5, 4),
    }
}

/// What a state knows of a rule.
fn numbers_of(rule: &Rule) -> SmallVec<[u64; 10]> {
    let mut numbers = smallvec![rule.id, rule.limit, kind_of(rule).0, rule.held.into()];
    match &rule.window {
        Window::Sliding { slot, slots } => numbers.extend([*slot, *slots]),
        Window::TokenBucket(TokenBucket { tick, units, burst, max_debt, slot, slots }) => {
            numbers.extend([*tick, *units, *burst, *max_debt, *slot, (*slots).max(1)]);
        }
        Window::Fixed { .. } | Window::Calendar { .. } | Window::InFlight => {}
    }
    numbers
}

fn encode_rule(to: &mut Numbers, rule: &Rule) {
    to.extend(&numbers_of(rule));
    match &rule.window {
        Window::Sliding { .. } | Window::TokenBucket(_) | Window::InFlight => {}
        Window::Fixed { length, anchor } => to.extend(&[*length, *anchor]),
        Window::Calendar { boundaries } => {
            to.push(boundaries.len() as u64);
            to.extend(boundaries);
        }
    }
}

/// Whether an operation names buckets of the batch, and has an amount for each of their quotas.
fn fits_rules(op: &Op, buckets: &[Bucket]) -> bool {
    let on = op.buckets();
    let counts = on.iter().map(|&bucket| buckets.get(usize::from(bucket)).map(|b| b.rules.len()));
    let count = counts.sum::<Option<usize>>().filter(|_| !on.is_empty());
    match op {
        Op::Reserve(Reserve { costs, .. }) => count == Some(costs.len()),
        Op::Settle(Settle { at, reserved, actual, .. }) => {
            at.len() == on.len() && count == Some(reserved.len()) && count == Some(actual.len())
        }
        Op::Detach { reserved, .. } => count == Some(reserved.len()),
        _ => count.is_some(),
    }
}

/// Whether operations may be in one run, which says once what they have in common.
fn are_alike(op: &Op, next: &Op) -> bool {
    match (op, next) {
        (Op::Reserve(op), Op::Reserve(next)) => {
            (op.mode, op.headroom, &op.flow, &op.on)
                == (next.mode, next.headroom, &next.flow, &next.on)
        }
        (Op::Settle(op), Op::Settle(next)) => {
            (op.close, &op.on) == (next.close, &next.on)
                && op.claim.is_none()
                && next.claim.is_none()
        }
        _ => false,
    }
}

/// Appends operations that are alike.
fn encode_run(to: &mut Numbers, run: &[Op]) {
    let Some(op) = run.first() else { return };
    match op {
        Op::Reserve(Reserve { on, costs, headroom, mode, flow, .. }) => {
            let kind = match mode {
                Mode::Charge => 0,
                Mode::Wait => 1,
                Mode::Try => 2,
                Mode::Dry => 3,
            };
            let common = [*headroom, flow.id, flow.weight.into()];
            let number = |op: &Op, column: usize| match (op, column) {
                (Op::Reserve(op), 0) => op.waiter,
                (Op::Reserve(op), 1) => op.age,
                (Op::Reserve(op), _) => op.costs.get(column - 2).copied().unwrap_or(op.patience),
                _ => 0,
            };
            encode_columns(to, kind, common, on, run, 3 + costs.len(), number);
        }
        Op::Settle(Settle { on, at, reserved, actual, close, claim }) => {
            let kind = if *close { 4 } else { 5 } + if claim.is_some() { 2 } else { 0 };
            let (first, second) = (at.len(), at.len() + reserved.len());
            let number = |op: &Op, column: usize| match op {
                Op::Settle(op) if column < first => op.at[column],
                Op::Settle(op) if column < second => op.reserved[column - first],
                Op::Settle(op) => op.actual[column - second],
                _ => 0,
            };
            let common = [claim.unwrap_or(0), 0, 0];
            encode_columns(to, kind, common, on, run, second + actual.len(), number);
        }
        Op::Detach { on, claim, reserved, lease } => {
            begin_run(to, 8, 1, [*claim, *lease, 0], on, reserved.len());
            to.extend(reserved);
        }
        Op::Waiting { bucket, lines } => {
            to.extend(&[9, u64::from(*bucket), lines.len() as u64]);
            lines.iter().for_each(|line| encode_line(to, line));
        }
        Op::Pause { bucket, lasts } => to.extend(&[10, u64::from(*bucket), *lasts]),
        Op::Refused { bucket, quota, at, asked, lasts, longest } => {
            to.extend(&[11, u64::from(*bucket), quota.is_some().into(), quota.unwrap_or(0)]);
            to.extend(&[*at, *asked, *lasts, *longest]);
        }
        Op::Answered { bucket, at } => to.extend(&[12, u64::from(*bucket), *at]),
        Op::Cap { bucket, quota, left, at, lasts } => {
            to.extend(&[13, u64::from(*bucket), *quota, *left, *at, *lasts]);
        }
        Op::Status { bucket } => to.extend(&[14, u64::from(*bucket)]),
    }
}

/// Appends what begins a run, after which `size` numbers follow. Returns the index of that size.
fn begin_run(
    to: &mut Numbers,
    kind: u64,
    many: usize,
    common: [u64; 3],
    on: &[u16],
    size: usize,
) -> usize {
    to.extend(&[kind, many as u64]);
    to.extend(&common);
    let index = to.len();
    to.extend(&[size as u64, on.len() as u64]);
    on.iter().for_each(|&bucket| to.push(bucket.into()));
    index
}

/// Appends a run in columns, so many of `number`. A number that all operations have is written
/// once.
fn encode_columns(
    to: &mut Numbers,
    kind: u64,
    common: [u64; 3],
    on: &[u16],
    run: &[Op],
    columns: usize,
    number: impl Fn(&Op, usize) -> u64,
) {
    let size = begin_run(to, kind, run.len(), common, on, 0);
    let places = to.len();
    (0..2 * columns).for_each(|_| to.push(0));
    for column in 0..columns {
        // Lua counts from 1.
        to.set(places + 2 * column, to.len() as u64 + 1);
        let first = run.first().map_or(0, |op| number(op, column));
        if run.iter().all(|op| number(op, column) == first) {
            to.push(first);
        } else {
            to.set(places + 2 * column + 1, 1);
            run.iter().for_each(|op| to.push(number(op, column)));
        }
    }
    to.set(size, (to.len() - places) as u64);
}

fn encode_line(to: &mut Numbers, line: &Line) {
    let Line { rule, headroom, flow, space, waiter, age, cost, part, count, sum, last } = line;
    to.extend(&[u64::from(*rule), *headroom, flow.id, *space, *waiter, *age, *cost]);
    to.push_double(*part);
    to.extend(&[*count, *sum, *last]);
}

/// Why a reply is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It has not the length that it says: something on the way has cut it off. The answer is lost.
    Cut,
    /// It is none of the script's.
    Foreign,
}

/// The answer in `reply` to a batch of so many operations about so many buckets.
pub(super) fn decode(reply: &[u8], buckets: usize, ops: usize) -> Result<Answer, Unreadable> {
    let mut reader = Reader(reply);
    let length = match reader.integer() {
        Some(length) => length,
        None if reply.len() < 8 => return Err(Unreadable::Cut),
        None => return Err(Unreadable::Foreign),
    };
    if usize::try_from(length) != Ok(reply.len()) {
        return Err(Unreadable::Cut);
    }
    decode_answer(&mut reader, buckets, ops).ok_or(Unreadable::Foreign)
}

fn decode_answer(reply: &mut Reader<'_>, buckets: usize, ops: usize) -> Option<Answer> {
    let wall = reply.amount()?;
    let outcome = match reply.amount()? {
        0 => decode_applied(reply, buckets, ops)?,
        1 => Outcome::Stale,
        2 => Outcome::Uncharted,
        _ => return None,
    };
    reply.0.is_empty().then_some(Answer { wall, outcome })
}

fn decode_applied(reply: &mut Reader<'_>, buckets: usize, ops: usize) -> Option<Outcome> {
    let seen = |_| {
        let (now, was) = (reply.amount()?, reply.amount()?);
        Some(Seen { now, was, born: reply.amount()?, expires: reply.amount()? })
    };
    let buckets = (0..buckets).map(seen).collect::<Option<_>>()?;
    let mut verdicts = Verdicts::with_capacity(ops);
    while verdicts.len() < ops {
        let plain = match reply.amount()? {
            1 => Verdict::Granted { probe: false },
            2 => Verdict::Granted { probe: true },
            3 => Verdict::Fits,
            4 => Verdict::Done,
            5 => Verdict::NoClaim,
            6 => {
                verdicts.push(Verdict::Refused(Box::new(decode_refused(reply)?)));
                continue;
            }
            7 => {
                verdicts.push(Verdict::Status(Box::new(decode_status(reply)?)));
                continue;
            }
            _ => return None,
        };
        let many = usize::try_from(reply.amount()?).ok()?;
        if many == 0 || many > ops - verdicts.len() {
            return None;
        }
        verdicts.extend(std::iter::repeat_n(plain, many));
    }
    Some(Outcome::Applied { buckets, verdicts })
}

fn decode_refused(reply: &mut Reader<'_>) -> Option<Refused> {
    let count = reply.count(9)?;
    let violations = (0..count).map(|_| decode_violation(reply)).collect::<Option<_>>()?;
    Some(Refused { violations, tag: reply.double()?, part: reply.double()? })
}

fn decode_violation(reply: &mut Reader<'_>) -> Option<Violation> {
    let by = match reply.integer()? {
        pause @ ..0 => RefusedBy::Pause(usize::try_from(-1 - pause).ok()?),
        rule => RefusedBy::Rule(usize::try_from(rule).ok()?),
    };
    Some(Violation {
        by,
        available: reply.integer()?,
        wait: reply.some_amount()?,
        alone: reply.some_amount()?,
        at_best: reply.amount()?,
        asked: reply.some_amount()?,
        holds: reply.amount()? == 1,
        rank: reply.amount()?,
        before: reply.amount()?,
    })
}

fn decode_status(reply: &mut Reader<'_>) -> Option<BucketLevel> {
    let count = reply.count(6)?;
    let level = |_| {
        Some(Level {
            charged: reply.amount()?,
            in_flight: reply.amount()?,
            reset: reply.amount()?,
            withheld: reply.amount()?,
            withheld_for: reply.amount()?,
            asked: reply.some_amount()?,
        })
    };
    let quotas = (0..count).map(level).collect::<Option<_>>()?;
    let (paused_until, asked_until) = (reply.amount()?, reply.amount()?);
    let waiting = reply.amount()?;
    let (granted, refused) = (reply.amount()?, reply.amount()?);
    Some(BucketLevel { quotas, paused_until, asked_until, waiting, granted, refused })
}

/// Reads a reply from its beginning.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn double(&mut self) -> Option<f64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(f64::from_le_bytes(*bytes)).filter(|number| !number.is_nan())
    }

    fn integer(&mut self) -> Option<i64> {
        // Also refuses what is not finite.
        let number = self.double()?;
        (number.abs() <= MAX_AMOUNT as f64 && number.fract() == 0.0).then_some(number as i64)
    }

    fn amount(&mut self) -> Option<u64> {
        u64::try_from(self.integer()?).ok()
    }

    /// An amount, or -1, which stands for none.
    fn some_amount(&mut self) -> Option<Option<Micros>> {
        match self.integer()? {
            -1 => Some(None),
            amount => Some(Some(u64::try_from(amount).ok()?)),
        }
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

    /// A reply with these numbers after its length.
    fn reply(numbers: &[f64]) -> Vec<u8> {
        let length = (8 * numbers.len() + 8) as f64;
        std::iter::once(&length).chain(numbers).flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn an_answer_is_read_back() {
        let refused = [
            6.0, 2.0, -1.0, -7.0, -1.0, 2.0, 3.0, -1.0, 1.0, 0.0, 0.0, 4.0, 0.0, 5.0, -1.0, 5.0,
            6.0, 0.0, 2.0, 3.0,
        ];
        let numbers = [
            &[9.0, 0.0, 8.0, 7.0, 1.0, 2.0, 1.0, 2.0][..],
            &refused,
            &[0.5, 0.25, 7.0, 0.0, 8.0, 9.0, 3.0, 4.0, 5.0],
        ];
        let reply = reply(&numbers.concat());
        let (by, rank) = (RefusedBy::Pause(0), 0);
        let paused = Violation {
            by,
            available: -7,
            wait: None,
            alone: Some(2),
            at_best: 3,
            asked: None,
            holds: true,
            rank,
            before: 0,
        };
        let by = RefusedBy::Rule(4);
        let short = Violation {
            by,
            available: 0,
            wait: Some(5),
            alone: None,
            at_best: 5,
            asked: Some(6),
            holds: false,
            rank: 2,
            before: 3,
        };
        let refused =
            Refused { violations: [paused, short].into_iter().collect(), tag: 0.5, part: 0.25 };
        let status = BucketLevel {
            paused_until: 8,
            asked_until: 9,
            waiting: 3,
            granted: 4,
            refused: 5,
            ..BucketLevel::default()
        };
        let granted = Verdict::Granted { probe: false };
        let verdicts = [
            granted.clone(),
            granted,
            Verdict::Refused(refused.into()),
            Verdict::Status(status.into()),
        ];
        let buckets = [Seen { now: 8, was: 7, born: 1, expires: 2 }].into_iter().collect();
        let outcome = Outcome::Applied { buckets, verdicts: verdicts.into_iter().collect() };
        assert_eq!(decode(&reply, 1, 4), Ok(Answer { wall: 9, outcome }));
        for cut in 0..reply.len() {
            assert_eq!(decode(&reply[..cut], 1, 4), Err(Unreadable::Cut));
        }
        assert_eq!(decode(&[&reply[..], &[0]].concat(), 1, 4), Err(Unreadable::Cut));
        assert_eq!(decode(&reply, 1, 3), Err(Unreadable::Foreign));
        assert_eq!(decode(&reply, 2, 4), Err(Unreadable::Foreign));
    }

    /// What is sent for operations, as the script finds it: at indexes from 1.
    fn sent(ops: &[Op]) -> Vec<f64> {
        let mut message = Numbers::default();
        ops.chunk_by(are_alike).for_each(|run| encode_run(&mut message, run));
        message.0.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
    }

    fn settle(at: u64, reserved: [u64; 2], actual: [u64; 2]) -> Settle {
        Settle {
            on: [0].into_iter().collect(),
            at: [at].into_iter().collect(),
            reserved: reserved.into_iter().collect(),
            actual: actual.into_iter().collect(),
            close: true,
            claim: None,
        }
    }

    #[test]
    fn operations_that_are_alike_are_one_run_with_each_equal_number_once() {
        let settles = [settle(50, [1, 90], [1, 40]), settle(51, [1, 80], [1, 40])].map(Op::Settle);
        let run = [4.0, 2.0, 0.0, 0.0, 0.0, 17.0, 1.0, 0.0];
        let places = [19.0, 1.0, 21.0, 0.0, 22.0, 1.0, 24.0, 0.0, 25.0, 0.0];
        let numbers = [50.0, 51.0, 1.0, 90.0, 80.0, 1.0, 40.0];
        assert_eq!(sent(&settles), [&run[..], &places, &numbers].concat());
    }

    #[test]
    fn operations_that_differ_otherwise_are_runs_of_their_own() {
        let first = settle(50, [1, 90], [1, 40]);
        for other in [
            Settle { close: false, ..first.clone() },
            Settle { claim: Some(7), ..first.clone() },
            Settle { on: [1].into_iter().collect(), ..first.clone() },
        ] {
            let alone = sent(&[Op::Settle(other.clone())]).len();
            let both = sent(&[Op::Settle(first.clone()), Op::Settle(other)]);
            assert_eq!(both.len(), sent(&[Op::Settle(first.clone())]).len() + alone);
            assert_eq!(both[1], 1.0);
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
            &[1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9e15],
            &[1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
            &[1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 6.0, 9e15],
            &[1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 7.0, 9e15],
        ] {
            assert_eq!(decode(&reply(numbers), 1, 1), Err(Unreadable::Foreign), "{numbers:?}");
        }
        assert_eq!(decode(b"mine and longer than a number", 1, 1), Err(Unreadable::Foreign));
    }
}
