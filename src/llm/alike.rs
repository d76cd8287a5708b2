//! Events that differ from one another only where nothing is looked for.
//!
//! The events of a stream are nearly all alike: a few words of an answer in what is the same every time. So one event
//! that told nothing is kept, and those that differ from it only within texts or numbers that are passed over are
//! passed over too, without being read: to compare bytes is many times faster.
//!
//! This is exact. An event is kept with the gaps in which a text or a number stands that [`Scanner`] does not look at,
//! as [`Sse`] and [`Scanner`] tell themselves while they read it. Whatever fills such a gap leaves both in the state
//! they were in, and before, between and after the gaps the bytes are the same. So they would read the same.

use memchr::{memchr_iter, memchr2};

use super::{
    json::{Idle, Scanner},
    rules::Rules,
    sse::{Event, Sink, Sse},
    telling::{PATHS, Seen, Telling, may_tell},
};

/// A longer event is not kept.
const LONGEST: usize = 1_024;
/// Nor is one with more gaps.
const MOST_GAPS: usize = 64;
/// To learn an event takes as long as to read some, so it is done once in so many.
const PRICE: u32 = 16;
/// What may be saved up, and is there at first, since streams begin with events of several kinds.
const CREDIT: u32 = 8 * PRICE;

/// Passes over events that are like one that told nothing.
#[derive(Debug)]
pub(super) struct Alike {
    pattern: Option<Pattern>,
    /// The beginning of an event that is like it so far, and whose rest has yet to come.
    begun: Vec<u8>,
    /// What may be spent on learning, so that a stream of events that are all different is not slowed down.
    credit: u32,
}

impl Default for Alike {
    fn default() -> Self {
        Self { pattern: None, begun: Vec::new(), credit: CREDIT }
    }
}

impl Alike {
    /// How many of these bytes, which begin an event, tell nothing: whole events, and the beginning of one that is cut off
    /// by the end. Where that goes on, [`resume`](Self::resume) must be called first.
    pub(super) fn pass_over(&mut self, bytes: &[u8], rules: &Rules) -> usize {
        let mut rest = bytes;
        loop {
            rest = self.after_known(rest);
            let Some(after) = self.learn(rest, rules) else { break };
            rest = after;
        }
        if !rest.is_empty()
            && self.pattern.as_ref().is_some_and(|pattern| pattern.begins_with(rest))
        {
            self.begun.extend_from_slice(rest);
            rest = &[];
        }
        bytes.len() - rest.len()
    }

    /// What comes after the event that was begun, if it went on like others. If not, [`begun`](Self::begun) is to be read.
    pub(super) fn resume<'b>(&mut self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let length = self.begun.len();
        let Some(pattern) = self.pattern.as_mut().filter(|_| length > 0) else {
            return Some(bytes);
        };
        self.begun.extend_from_slice(&bytes[..bytes.len().min(LONGEST)]);
        if let Some(rest) = pattern.after(&self.begun) {
            let passed = self.begun.len() - rest.len() - length;
            self.begun.clear();
            return Some(&bytes[passed..]);
        }
        // There are no more bytes than these, or they would be too many to be kept.
        if pattern.begins_with(&self.begun) {
            return Some(&[]);
        }
        self.begun.truncate(length);
        None
    }

    /// What was passed over and is to be read after all.
    pub(super) fn begun(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.begun)
    }

    /// What comes after events that are like the one that is kept.
    fn after_known<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut rest = bytes;
        let Some(pattern) = &mut self.pattern else { return rest };
        while !rest.is_empty() {
            let Some(after) = pattern.after(rest) else { break };
            self.credit = CREDIT.min(self.credit + 1);
            rest = after;
        }
        rest
    }

    /// Keeps the event that comes next instead, if it tells nothing.
    #[cold]
    fn learn<'b>(&mut self, bytes: &'b [u8], rules: &Rules) -> Option<&'b [u8]> {
        let (event, rest) = bytes.split_at_checked(length_of_event(bytes)?)?;
        self.credit = CREDIT.min(self.credit + 1);
        self.credit = self.credit.checked_sub(PRICE)?;
        // What tells something is mostly found out without reading it. Models seldom matter.
        let gaps = if may_tell(event, false) { None } else { idle_gaps(event, rules) }?;
        self.pattern = Some(Pattern { event: event.to_vec(), gaps, varying: Vec::new() });
        Some(rest)
    }
}

/// An event, and where others may differ from it.
#[derive(Debug)]
struct Pattern {
    event: Vec<u8>,
    gaps: Vec<Gap>,
    /// Those of the gaps in which events did differ: far fewer, so that they are tried first.
    varying: Vec<Gap>,
}

/// Where in an event a text or a number stands that may be any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    start: usize,
    end: usize,
    holds: Idle,
}

impl Pattern {
    /// What comes after an event that is like this one.
    #[inline]
    fn after<'b>(&mut self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        self.filled(&self.varying, bytes, |_, _| {}).or_else(|| self.vary(bytes))
    }

    /// The same for one that differs where none did before.
    #[cold]
    fn vary<'b>(&mut self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let mut differing = Vec::new();
        let rest = self.filled(&self.gaps, bytes, |gap, content| {
            if content != &self.event[gap.start..gap.end] {
                differing.push(gap);
            }
        })?;
        self.varying.append(&mut differing);
        self.varying.sort_unstable_by_key(|gap| gap.start);
        self.varying.dedup();
        Some(rest)
    }

    /// Whether bytes that end too early are like the beginning of this one, and few enough to be kept.
    fn begins_with(&self, bytes: &[u8]) -> bool {
        if bytes.len() >= LONGEST {
            return false;
        }
        let (mut rest, mut at) = (bytes, 0);
        for gap in &self.varying {
            let same = &self.event[at..gap.start];
            let Some(content) = rest.strip_prefix(same) else { return same.starts_with(rest) };
            let Some(length) = length_of(gap.holds, content) else {
                return is_cut(gap.holds, content);
            };
            (rest, at) = (&content[length..], gap.end);
        }
        self.event[at..].starts_with(rest)
    }

    /// What comes after an event that is the same as this one but for what fills these gaps.
    #[inline]
    fn filled<'b>(
        &self,
        gaps: &[Gap],
        bytes: &'b [u8],
        mut filled: impl FnMut(Gap, &[u8]),
    ) -> Option<&'b [u8]> {
        let (mut rest, mut at) = (bytes, 0);
        for gap in gaps {
            rest = rest.strip_prefix(&self.event[at..gap.start])?;
            let (content, after) = rest.split_at_checked(length_of(gap.holds, rest)?)?;
            filled(*gap, content);
            (rest, at) = (after, gap.end);
        }
        rest.strip_prefix(&self.event[at..])
    }
}

/// How far a text or a number goes on, if all of it is there.
fn length_of(holds: Idle, bytes: &[u8]) -> Option<usize> {
    match holds {
        Idle::Text => length_of_text(bytes),
        Idle::Word => {
            bytes.iter().position(|byte| !byte.is_ascii_digit()).filter(|length| *length > 0)
        }
    }
}

/// Whether what has no end is a text or a number all the same, as far as it goes.
fn is_cut(holds: Idle, bytes: &[u8]) -> bool {
    match holds {
        Idle::Text => memchr2(b'\n', b'\r', bytes).is_none(),
        Idle::Word => bytes.iter().all(u8::is_ascii_digit),
    }
}

fn length_of_text(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += length_of_plain(bytes.get(at..)?)?;
        match bytes[at] {
            b'"' => return Some(at),
            // What is escaped may be anything but the end of the line, which no backslash changes.
            b'\\' if !matches!(bytes.get(at + 1)?, b'\n' | b'\r') => at += 2,
            _ => return None,
        }
    }
}

/// How far it is to the first byte that may end a text. Texts are short, and no branch can foretell how short, so eight bytes
/// are looked at in one go.
fn length_of_plain(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (place, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let ends = b"\"\\\n\r".iter().fold(0, |ends, end| ends | places_of(*end, word));
        if ends != 0 {
            return Some(place * 8 + ends.trailing_zeros() as usize / 8);
        }
    }
    let in_rest = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | b'\n' | b'\r'))?;
    Some(words.len() * 8 + in_rest)
}

/// Where in eight bytes this one stands, as the highest bit of each. All below the first are right.
const fn places_of(byte: u8, word: u64) -> u64 {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    let differs = word ^ (EACH * byte as u64);
    differs.wrapping_sub(EACH) & !differs & (EACH << 7)
}

/// Of the event at the beginning, with the empty line that ends it.
fn length_of_event(bytes: &[u8]) -> Option<usize> {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    memchr_iter(b'\n', bytes).map(|at| at + 1).find_map(|next| match &bytes[next..] {
        [b'\n', ..] => Some(next + 1),
        [b'\r', b'\n', ..] => Some(next + 2),
        _ => None,
    })
}

/// The gaps of an event that tells nothing.
fn idle_gaps(event: &[u8], rules: &Rules) -> Option<Vec<Gap>> {
    let mut sse = Sse::default();
    let mut study = Study { event, rules, gaps: Vec::new(), verdict: Verdict::Unread };
    sse.feed(event, &mut study);
    (study.verdict == Verdict::Idle && sse.is_between_events()).then_some(study.gaps)
}

/// Reads one event, and stops at each text and number.
struct Study<'e> {
    event: &'e [u8],
    rules: &'e Rules,
    gaps: Vec<Gap>,
    verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Unread,
    /// Its data tells nothing.
    Read,
    /// Nor does its end.
    Idle,
    Tells,
}

impl Sink for Study<'_> {
    /// Data of several lines is rare.
    fn data(&mut self, _: &[u8]) {
        self.verdict = Verdict::Tells;
    }

    fn whole(&mut self, data: &[u8]) {
        // All that follows are the ends of two lines.
        let end = if self.event.ends_with(b"\r\n\r\n") { 4 } else { 2 };
        let start = self.event.len() - end - data.len();
        let told_nothing = self.read(data, start) && self.gaps.len() <= MOST_GAPS;
        self.verdict = if told_nothing && self.verdict == Verdict::Unread {
            Verdict::Read
        } else {
            Verdict::Tells
        };
    }

    fn end(&mut self, event: Event) {
        let is_idle = self.verdict == Verdict::Read && event == Event::default();
        self.verdict = if is_idle { Verdict::Idle } else { Verdict::Tells };
    }
}

impl Study<'_> {
    /// Whether data that starts there tells nothing.
    fn read(&mut self, data: &[u8], start: usize) -> bool {
        let (mut scanner, mut seen) = (Scanner::new(PATHS), Seen::default());
        let mut at = 0;
        while at < data.len() {
            scanner.feed(&data[at..=at], &mut Telling { seen: &mut seen, rules: self.rules });
            // A text begins after its quote, a number with its first digit.
            let (first, holds) = match scanner.idle() {
                Some(Idle::Text) => (at + 1, Idle::Text),
                Some(Idle::Word) if data[at].is_ascii_digit() => (at, Idle::Word),
                _ => {
                    at += 1;
                    continue;
                }
            };
            let Some(length) = length_of(holds, &data[first..]) else { return false };
            scanner.feed(
                &data[at + 1..first + length],
                &mut Telling { seen: &mut seen, rules: self.rules },
            );
            at = first + length;
            self.gaps.push(Gap { start: start + first, end: start + at, holds });
        }
        seen == Seen::default()
    }
}

#[cfg(test)]
mod tests;
