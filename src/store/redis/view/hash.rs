//! The fields of a bucket's hash, as `bucket.lua` documents them, and what they say. It trusts none
//! of them: another program may have written there.

use std::{collections::HashMap, sync::Arc};

use crate::{
    engine::{
        BucketState, Cap, Gate, Head, MAX_AMOUNT, Micros, Outlook, QuotaState, Rule, SessionRecord,
        Share, TokenBucket, Window,
    },
    quota::{MAX_SLOTS, QuotaNote, Resets},
    store::redis::wire::{OF_BUCKET, VERSION, kind_of},
};

/// Numbers of a quota's shape, of a head, of a gate or cap with its id, and of a record before its
/// shares.
const SHAPE: usize = 10;
const HEAD: usize = 19;
const GATE: usize = 12;
const RECORD: usize = 7;

/// What a bucket's hash holds, by the names of its fields.
pub(super) type Fields = HashMap<Vec<u8>, Vec<u8>>;

/// What a digest stands for: the quotas in the order in which the numbers of a state have them.
#[derive(Clone, Debug)]
pub(super) struct Shapes {
    pub(super) quotas: Vec<QuotaShape>,
    /// The rules, but for boundaries of calendars.
    rules: Arc<[Rule]>,
    fields: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub(super) struct QuotaShape {
    pub(super) note: QuotaNote,
    is_named: bool,
    /// What is known of a fixed window: without its note that is not when it begins.
    is_charted: bool,
}

/// A state as of the last batch, and what else is known of it.
pub(super) struct HashState {
    pub(super) digest: u64,
    pub(super) kept_until: Micros,
    due_first: Micros,
    pub(super) bucket: BucketState,
}

/// The name of a field: a letter and a number.
fn field(kind: u8, id: u64) -> Vec<u8> {
    [&[kind][..], &(id as f64).to_le_bytes()].concat()
}

/// The digest of the rules that a state obeyed last.
pub(super) fn digest_of(state: &[u8]) -> Option<u64> {
    whole(*doubles(state).first()?)
}

impl Shapes {
    /// What the fields of a whole hash say of its quotas; nothing if they are not as they should
    /// be.
    pub(super) fn read(fields: &Fields) -> Option<Self> {
        let numbers = doubles(fields.get(&b"d"[..])?);
        let (version, shapes) = numbers.split_first()?;
        if whole(*version)? != VERSION || shapes.len() % SHAPE != 0 {
            return None;
        }
        let (shapes, _) = shapes.as_chunks::<SHAPE>();
        let read = |shape: &[f64; SHAPE]| {
            let shape = shape.map(whole);
            let id = shape[0]?;
            let note = fields.get(&field(b'n', id)).map(|line| String::from_utf8_lossy(line));
            let note = note.map(|line| QuotaNote::read(&line));
            let rule = rule_of(&shape, note.as_ref())?;
            let is_of_zone = |note: &QuotaNote| matches!(note.resets, Resets::In(_));
            let is_charted = !matches!(&rule.window, Window::Calendar { .. })
                || note.as_ref().is_some_and(is_of_zone);
            let note = note.filter(|note| !note.name.is_empty());
            let is_named = note.is_some();
            let note = note.unwrap_or_else(|| unnamed(&rule));
            Some((QuotaShape { note, is_named, is_charted }, rule))
        };
        let (quotas, rules): (_, Vec<_>) =
            shapes.iter().map(read).collect::<Option<Vec<_>>>()?.into_iter().unzip();
        let slides = |rule: &&Rule| matches!(rule.window, Window::Sliding { .. });
        let rings = rules.iter().filter(slides).map(|rule| field(b'c', rule.id));
        let fields = [b"s", b"h", b"g"].map(|name| name.to_vec()).into_iter().chain(rings);
        Some(Self { quotas, fields: fields.collect(), rules: rules.into() })
    }

    /// The fields that tell how a bucket stands: its state first, heads, gates, and the rings of
    /// sliding windows.
    pub(super) fn fields(&self) -> &[Vec<u8>] {
        &self.fields
    }

    /// Whether every quota has a note.
    pub(super) fn are_named(&self) -> bool {
        self.quotas.iter().all(|shape| shape.is_named)
    }

    /// The rules as of the store's clock, and whether all that they say is known: not where a
    /// calendar begins that has no note.
    pub(super) fn rules(&self, wall: Micros, state: &HashState) -> (Arc<[Rule]>, bool) {
        if !self.rules.iter().any(|rule| matches!(rule.window, Window::Calendar { .. })) {
            return (self.rules.clone(), true);
        }
        let (mut is_known, quotas) = (true, state.bucket.quotas());
        let rules =
            self.rules.iter().zip(&self.quotas).zip(quotas).map(|((rule, shape), quota)| {
                let Window::Calendar { .. } = rule.window else { return rule.clone() };
                let boundaries = boundaries(&shape.note, wall).filter(|_| shape.is_charted);
                is_known &= boundaries.is_some();
                let until_then = || [0, quota.window_end().unwrap_or(0).max(wall + 1)].into();
                let window = Window::Calendar { boundaries: boundaries.unwrap_or_else(until_then) };
                Rule { window, ..rule.clone() }
            });
        (rules.collect(), is_known)
    }
}

/// The midnights around an instant, if the zone is known here.
fn boundaries(note: &QuotaNote, wall: Micros) -> Option<Arc<[Micros]>> {
    #[cfg(feature = "timezone")]
    if let (Resets::In(zone), Some(window)) = (&note.resets, note.window) {
        let window = std::time::Duration::from_micros(window);
        let calendar = crate::calendar::Calendar::of(zone, window).ok()?;
        return Some(calendar.boundaries(wall)).filter(|boundaries| !boundaries.is_empty());
    }
    let _ = (note, wall);
    None
}

/// What is said of a quota without a note.
fn unnamed(rule: &Rule) -> QuotaNote {
    let window = match &rule.window {
        Window::Sliding { slot, slots } => Some(slot.saturating_mul(*slots)),
        Window::TokenBucket(bucket) => Some(bucket.units.saturating_mul(bucket.tick)),
        Window::Fixed { length, .. } => Some(*length),
        Window::Calendar { .. } | Window::InFlight => None,
    };
    QuotaNote {
        name: format!("quota {:x}", rule.id),
        window,
        resets: Resets::Never,
        weights: Vec::new(),
    }
}

fn rule_of(shape: &[Option<u64>; SHAPE], note: Option<&QuotaNote>) -> Option<Rule> {
    let [id, kind, holds, limit, slot, len, rate, tick, units, max_debt] = *shape;
    let at_least_1 = |number: Option<u64>| number.filter(|number| *number > 0);
    // No quota has a ring of more slots than this, whatever its numbers say. Of the current slot
    // there is one more.
    let len = len.filter(|len| (1..=u64::from(MAX_SLOTS) + 1).contains(len));
    let (mut limit, mut held) = (limit?, holds? == 1);
    let window = match kind? {
        1 => Window::Sliding { slot: at_least_1(slot)?, slots: len?.checked_sub(1)? },
        2 => {
            let burst = std::mem::replace(&mut limit, rate?);
            Window::TokenBucket(TokenBucket {
                tick: at_least_1(tick)?,
                units: at_least_1(units)?,
                burst,
                max_debt: max_debt?,
                slot: at_least_1(slot)?,
                slots: len?,
            })
        }
        3 => match note.map(|note| (&note.resets, note.window)) {
            Some((Resets::At(anchor), Some(length))) if length > 0 => {
                Window::Fixed { length, anchor: anchor % length }
            }
            _ => Window::Calendar { boundaries: Arc::new([]) },
        },
        4 => {
            held = false;
            Window::InFlight
        }
        _ => return None,
    };
    Some(Rule { id: id?, limit, held, window })
}

impl HashState {
    /// What the fields say, of rules that have these shapes; nothing if they are not as they should
    /// be.
    pub(super) fn read<'a>(
        shapes: &Shapes,
        state: &[u8],
        get: impl Fn(&[u8]) -> Option<&'a [u8]>,
        records: Vec<SessionRecord>,
    ) -> Option<Self> {
        let mut list = doubles(state);
        // The virtual time of flows is no whole number, and is not looked at.
        *list.get_mut(8)? = 0.0;
        let list = list.into_iter().map(whole).collect::<Option<Vec<_>>>()?;
        let (head, mut rest) = list.split_at_checked(OF_BUCKET as usize)?;
        let gates = get(b"g").map(doubles).unwrap_or_default();
        let gates: Vec<_> = gates.as_chunks().0.iter().map(gate_of).collect::<Option<_>>()?;
        let gate_with = |id: f64| gates.iter().find(|(of, ..)| *of == id);
        let mut quotas = Vec::with_capacity(shapes.rules.len());
        for rule in shapes.rules.iter() {
            let cap = gate_with(rule.id as f64);
            let cap = cap.map(|(_, gate, [amount, until])| Cap::stored(*amount, *until, *gate));
            let (numbers, after) = rest.split_at_checked(kind_of(rule).1 as usize)?;
            let slots = match rule.window {
                Window::Sliding { slots, .. } => {
                    let ring = get(&field(b'c', rule.id)).unwrap_or_default();
                    slots_of(numbers[3], numbers[4], slots + 1, ring)?
                }
                _ => Vec::new(),
            };
            quotas.push(QuotaState::stored(rule, numbers, &slots, cap)?);
            rest = after;
        }
        let gate = gate_with(-1.0).map(|(_, gate, _)| *gate);
        let heads = doubles(get(b"h").unwrap_or_default());
        let heads = heads.as_chunks::<HEAD>().0.iter().map(head_of).collect::<Option<_>>()?;
        let &[digest, born, now, offset, expires, kept_until, due_first, .., granted, refused] =
            head
        else {
            return None;
        };
        let numbers = [born, now, offset, expires, granted, refused];
        let bucket = BucketState::stored(numbers, gate, quotas, heads, records).ok()?;
        rest.is_empty().then_some(Self { digest, kept_until, due_first, bucket })
    }

    /// The bucket's time at this one of the store.
    pub(super) fn now(&self, wall: Micros) -> Micros {
        self.bucket.now().max(wall + self.bucket.offset())
    }

    /// Whether something has ended that the numbers still count.
    pub(super) fn is_due(&self, wall: Micros) -> bool {
        let counts = |quota: &QuotaState| quota.in_flight > 0;
        self.due_first <= self.now(wall)
            && (!self.bucket.heads().is_empty() || self.bucket.quotas().iter().any(counts))
    }
}

/// What a whole hash says of sessions.
pub(super) fn records_of(fields: &Fields) -> Option<Vec<SessionRecord>> {
    let of_session = |(name, packed): (&Vec<u8>, &Vec<u8>)| {
        let id = name.strip_prefix(b"r").filter(|id| id.len() == 8)?;
        Some(record_of(whole(*doubles(id).first()?)?, packed))
    };
    let mut records = fields.iter().filter_map(of_session).collect::<Option<Vec<_>>>()?;
    records.sort_unstable_by_key(|record| record.id);
    Some(records)
}

/// The id of a quota, or -1 for the bucket; its gate, and what a cap has besides.
fn gate_of(numbers: &[f64; GATE]) -> Option<(f64, Gate, [u64; 2])> {
    Some((numbers[0], Gate::stored(wholes(&numbers[1..10])?), wholes(&numbers[10..])?))
}

/// The charges of a sliding window, oldest first. A ring that was never touched is not stored.
fn slots_of(head: u64, newest: u64, len: u64, ring: &[u8]) -> Option<Vec<u64>> {
    let ring = doubles(ring);
    let of_slot = |age: u64| match head.checked_sub(age) {
        _ if age == 0 => Some(newest),
        Some(slot) if !ring.is_empty() => whole(*ring.get((slot % len) as usize)?),
        _ => Some(0),
    };
    (0..len).rev().map(of_slot).collect()
}

fn head_of(head: &[f64; HEAD]) -> Option<Head> {
    let [session, quota, headroom, flow, space, waiter, arrival, cost] = wholes(&head[..8])?;
    let [count, sum, last, due, held_until, is_behind, outlook] = wholes(&head[9..16])?;
    Some(Head {
        session,
        quota,
        headroom,
        flow,
        space,
        waiter,
        arrival,
        cost,
        part: head[8],
        tag: head[16],
        place: whole(head[17])?,
        heard: whole(head[18])?,
        count,
        sum,
        last,
        due,
        held_until,
        is_behind: is_behind == 1,
        outlook: Outlook::of(outlook),
    })
}

fn record_of(id: u64, packed: &[u8]) -> Option<SessionRecord> {
    let numbers = doubles(packed.get(..8 * RECORD)?);
    let (numbers, [shares]) = (wholes(&numbers)?, wholes(&numbers[RECORD - 1..])?);
    let rest = &packed[8 * RECORD..];
    let shares = usize::try_from(shares).ok().filter(|count| *count <= rest.len() / 16)?;
    let shares = doubles(&rest[..16 * shares]);
    let share = |share: &[f64; 2]| wholes(share).map(|[quota, amount]| Share { quota, amount });
    let in_flight = shares.as_chunks().0.iter().map(share).collect::<Option<_>>()?;
    Some(SessionRecord::stored(id, numbers, in_flight))
}

fn doubles(packed: &[u8]) -> Vec<f64> {
    packed.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

/// So many amounts, times or ids.
fn wholes<const N: usize>(numbers: &[f64]) -> Option<[u64; N]> {
    let mut wholes = [0; N];
    let pairs = wholes.iter_mut().zip(numbers);
    pairs.into_iter().try_for_each(|(to, number)| whole(*number).map(|number| *to = number))?;
    Some(wholes)
}

/// An amount, a time or an id.
fn whole(number: f64) -> Option<u64> {
    let is_one = number >= 0.0 && number <= MAX_AMOUNT as f64 && number.fract() == 0.0;
    is_one.then_some(number as u64)
}
