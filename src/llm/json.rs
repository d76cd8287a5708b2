//! Finds a few members in JSON that arrives in pieces.
//!
//! Only the values that are looked for are kept, each up to a bound, so a body may be of any length
//! and is never waited for. The grammar is not checked: in what is not JSON, it finds nothing or
//! less than there is.

use std::borrow::Cow;

use memchr::memchr2;
use serde_json::Value;

/// A value longer than this is not handed on.
const LONGEST_VALUE: usize = 64 * 1024;
/// Most values fit: room for them is made at once.
const USUAL_VALUE: usize = 512;
/// How many levels of objects and arrays are looked into.
const LEVELS: usize = 8;
/// Deeper levels of a value that is repaired are left out: a parser would refuse all of it.
const DEEPEST: usize = 16;
/// Longer keys match nothing.
const LONGEST_KEY: usize = 40;

/// Where a value stands: the keys that lead to it. Arrays on the way are passed through.
pub(crate) type Path = &'static [&'static str];

/// Takes the values that were found.
pub(crate) trait ValueSink {
    /// Takes the value at the path of this number, as it was written; `None` if it is too long.
    fn found(&mut self, path: usize, value: Option<&[u8]>);
}

/// Finds values in JSON that comes in pieces.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// At most 64. Where one leads into the value of another, the other finds texts, numbers and
    /// words only.
    paths: &'static [Path],
    levels: [OpenContainer; LEVELS],
    /// Levels entered that are looked into.
    inside: usize,
    /// Levels entered below those.
    below: u64,
    lexing: Lexing,
    key: [u8; LONGEST_KEY],
    key_length: usize,
    /// What the value that comes next leads to.
    coming: OpenContainer,
    value: Vec<u8>,
    /// The path whose value is being read.
    reading: Option<usize>,
    too_long: bool,
    /// Objects and arrays at the top that were seen to their end.
    ended: u32,
}

/// An object or an array that has been entered.
#[derive(Clone, Copy, Debug, Default)]
struct OpenContainer {
    /// The paths that lead here or further, as bits.
    paths: u64,
    /// How many keys of them have been followed.
    keys: usize,
    is_object: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lexing {
    #[default]
    Between,
    /// In an object, where a key comes next.
    BeforeKey,
    Key,
    Text,
    /// After a backslash, in a key or a text.
    Escape(Quoted),
    /// A number or a word.
    Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quoted {
    Key,
    Text,
}

impl OpenContainer {
    /// Around all values at the top.
    const ROOT: Self = Self { paths: u64::MAX, keys: 0, is_object: false };
}

impl Scanner {
    pub(crate) fn new(paths: &'static [Path]) -> Self {
        debug_assert!(paths.len() <= 64, "paths are bits");
        let mut scanner = Self {
            paths,
            levels: Default::default(),
            inside: 0,
            below: 0,
            lexing: Lexing::Between,
            key: [0; LONGEST_KEY],
            key_length: 0,
            coming: OpenContainer::default(),
            value: Vec::new(),
            reading: None,
            too_long: false,
            ended: 0,
        };
        scanner.reset();
        scanner
    }

    /// Begins another text.
    pub(crate) fn reset(&mut self) {
        self.inside = 0;
        self.below = 0;
        self.lexing = Lexing::Between;
        self.coming = OpenContainer::ROOT;
        self.stop_reading();
        self.ended = 0;
    }

    /// True if an object or array was seen to its end, and no other has begun.
    pub(crate) fn is_complete(&self) -> bool {
        self.ended > 0 && self.inside == 0 && self.below == 0
    }

    /// The objects and arrays that were seen to their end, where several texts follow one another.
    pub(crate) fn ended(&self) -> u32 {
        self.ended
    }

    pub(crate) fn feed(&mut self, mut bytes: &[u8], found: &mut impl ValueSink) {
        while let Some(&byte) = bytes.first() {
            let used = match self.lexing {
                Lexing::Text | Lexing::Key => self.quoted(bytes, found),
                Lexing::Escape(quoted) => {
                    self.keep(&bytes[..1]);
                    self.lexing = if quoted == Quoted::Key { Lexing::Key } else { Lexing::Text };
                    1
                }
                Lexing::Between | Lexing::BeforeKey | Lexing::Word => {
                    self.structural(byte, found);
                    1
                }
            };
            bytes = &bytes[used..];
        }
    }

    /// Reads on within quotes, and returns how many bytes it read.
    fn quoted(&mut self, bytes: &[u8], found: &mut impl ValueSink) -> usize {
        let is_key = self.lexing == Lexing::Key;
        let end = memchr2(b'"', b'\\', bytes);
        let piece = &bytes[..end.map_or(bytes.len(), |end| end + 1)];
        self.keep(piece);
        if is_key {
            let free = &mut self.key[self.key_length.min(LONGEST_KEY)..];
            let fits = piece.len().min(free.len());
            free[..fits].copy_from_slice(&piece[..fits]);
            self.key_length = self.key_length.saturating_add(piece.len());
        }
        match end.map(|end| bytes[end]) {
            Some(b'"') => {
                self.lexing = Lexing::Between;
                if !is_key {
                    self.end_value(found);
                }
            }
            Some(_) => {
                self.lexing = Lexing::Escape(if is_key { Quoted::Key } else { Quoted::Text })
            }
            None => {}
        }
        piece.len()
    }

    fn structural(&mut self, byte: u8, found: &mut impl ValueSink) {
        let was = std::mem::replace(&mut self.lexing, Lexing::Between);
        if was == Lexing::Word && matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n')
        {
            self.end_value(found);
        }
        match byte {
            b'{' | b'[' => self.enter(byte == b'{'),
            b'}' | b']' => {
                self.keep(&[byte]);
                self.leave(found);
            }
            b',' => {
                self.keep(b",");
                self.next_member();
            }
            b':' => {
                self.keep(b":");
                self.follow_key();
            }
            b'"' if was == Lexing::BeforeKey => {
                self.keep(b"\"");
                self.key_length = 0;
                self.lexing = Lexing::Key;
            }
            b'"' => {
                self.begin_value(false);
                self.keep(b"\"");
                self.lexing = Lexing::Text;
            }
            b' ' | b'\t' | b'\r' | b'\n' => {
                if was == Lexing::BeforeKey {
                    self.lexing = was;
                }
            }
            _ => {
                if was != Lexing::Word {
                    self.begin_value(false);
                }
                self.keep(&[byte]);
                self.lexing = Lexing::Word;
            }
        }
    }

    /// Returns the object or array whose members come, if it is looked into.
    fn level(&self) -> Option<&OpenContainer> {
        if self.below > 0 { None } else { self.levels.get(self.inside.checked_sub(1)?) }
    }

    fn enter(&mut self, is_object: bool) {
        self.begin_value(true);
        self.keep(if is_object { b"{" } else { b"[" });
        let coming = OpenContainer { is_object, ..std::mem::take(&mut self.coming) };
        let looked_into = self.below == 0 && self.reading.is_none() && coming.paths != 0;
        if looked_into && self.inside < LEVELS {
            self.levels[self.inside] = coming;
            self.inside += 1;
            self.next_member();
        } else {
            self.below = self.below.saturating_add(1);
        }
    }

    fn leave(&mut self, found: &mut impl ValueSink) {
        if self.below > 0 {
            self.below -= 1;
            self.ended = self.ended.saturating_add(u32::from(self.below == 0 && self.inside == 0));
        } else {
            self.inside = self.inside.saturating_sub(1);
            self.ended = self.ended.saturating_add(u32::from(self.inside == 0));
        }
        self.end_value(found);
    }

    fn next_member(&mut self) {
        // No other value belongs to the last key.
        self.key_length = 0;
        match self.level().copied() {
            Some(level) if level.is_object => self.lexing = Lexing::BeforeKey,
            Some(level) => self.coming = level,
            None => {}
        }
    }

    /// Notes which paths the value of the key leads to.
    fn follow_key(&mut self) {
        let Some(level) = self.level().copied() else { return };
        // The closing quote was kept with the key.
        let key = match self.key_length.checked_sub(1) {
            Some(length) if length < LONGEST_KEY => &self.key[..length],
            _ => &[],
        };
        let leads = |path: &Path| path.get(level.keys).is_some_and(|name| name.as_bytes() == key);
        let paths = places(level.paths).filter(|place| self.paths.get(*place).is_some_and(leads));
        let paths = paths.fold(0, |paths, place| paths | 1 << place);
        self.coming = OpenContainer { paths, keys: level.keys + 1, is_object: false };
    }

    /// Begins to keep a value, if it is one of those looked for.
    fn begin_value(&mut self, is_container: bool) {
        if self.reading.is_some() || self.below > 0 || self.coming.paths == 0 {
            return;
        }
        let coming = self.coming;
        let keys_of = |place: usize| self.paths.get(place).map(|path| path.len());
        if is_container && places(coming.paths).any(|place| keys_of(place) > Some(coming.keys)) {
            return;
        }
        self.reading = places(coming.paths).find(|place| keys_of(*place) == Some(coming.keys));
        if self.reading.is_some() {
            self.value.reserve(USUAL_VALUE);
        }
    }

    /// Ends a value, unless it lies within the one that is being read.
    fn end_value(&mut self, found: &mut impl ValueSink) {
        if self.below > 0 {
            return;
        }
        // No other value belongs to the last key.
        self.key_length = 0;
        if let Some(path) = self.reading {
            found.found(path, if self.too_long { None } else { Some(&self.value) });
            self.stop_reading();
        }
        let is_top = self.inside == 0 && self.below == 0;
        self.coming = if is_top { OpenContainer::ROOT } else { OpenContainer::default() };
    }

    fn stop_reading(&mut self) {
        self.reading = None;
        self.too_long = false;
        self.value.clear();
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.reading.is_none() || self.too_long {
            return;
        }
        if piece.len() > LONGEST_VALUE - self.value.len() {
            self.too_long = true;
            self.value = Vec::new();
        } else {
            self.value.extend_from_slice(piece);
        }
    }
}

/// The places of the bits that are set.
fn places(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = bits.trailing_zeros();
        bits &= bits.checked_sub(1)?;
        Some(place as usize)
    })
}

/// Reads a value. Providers send `NaN`, halves of characters and numbers beyond all floats: each of
/// them becomes null or an empty text, and the rest is read. `None` if there is no value.
pub(crate) fn read_value(json: &[u8]) -> Option<Value> {
    serde_json::from_slice(json).or_else(|_| serde_json::from_slice(&repaired(json))).ok()
}

/// JSON in which each word and text is one that a parser takes, and no deeper than it looks.
fn repaired(json: &[u8]) -> Vec<u8> {
    let mut sound = Vec::with_capacity(json.len());
    let (mut rest, mut depth) = (json, 0_usize);
    while let Some(&first) = rest.first() {
        let (token, after) = rest.split_at(token_length(first, rest));
        rest = after;
        depth = depth.saturating_sub(usize::from(matches!(first, b'}' | b']')));
        match depth.cmp(&DEEPEST) {
            std::cmp::Ordering::Less => sound.extend_from_slice(sound_token(first, token)),
            // In place of what is too deep.
            std::cmp::Ordering::Equal if matches!(first, b'{' | b'[') => {
                sound.extend_from_slice(b"null");
            }
            _ => {}
        }
        depth += usize::from(matches!(first, b'{' | b'['));
    }
    sound
}

/// How long the text, word or sign is that these bytes begin with.
fn token_length(first: u8, bytes: &[u8]) -> usize {
    let is_sign = |byte: u8| b"{}[],: \t\r\n".contains(&byte);
    let of_word = || bytes.iter().position(|byte| is_sign(*byte) || *byte == b'"');
    match first {
        b'"' => text_length(bytes),
        sign if is_sign(sign) => 1,
        _ => of_word().unwrap_or(bytes.len()),
    }
}

/// How long a text is, with both of its quotes.
fn text_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if bytes[at - 1] == b'"' {
            return at;
        }
        at += 1;
    }
    bytes.len()
}

/// The token, or what stands for it where a parser would refuse it.
fn sound_token(first: u8, token: &[u8]) -> &[u8] {
    match first {
        b'"' if serde_json::from_slice::<Cow<'_, str>>(token).is_err() => b"\"\"",
        b'"' | b'{' | b'}' | b'[' | b']' | b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' => token,
        _ if serde_json::from_slice::<Value>(token).is_err() => b"null",
        _ => token,
    }
}

#[cfg(test)]
mod tests;
