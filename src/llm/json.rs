//! JSON that comes in pieces, read for a few of its members.
//!
//! Nothing of a body is kept but the values looked for, each up to a bound, so that a body may be of any length and is
//! never waited for. It checks no grammar: of what is not JSON it finds nothing, or less than there is.

use memchr::memchr2;

/// A value longer than this is not handed on.
const LONGEST_VALUE: usize = 16 * 1024;
/// How many levels of objects and arrays are looked into.
const LEVELS: usize = 8;
/// Longer keys match nothing.
const LONGEST_KEY: usize = 24;

/// Where a value stands: the keys that lead to it. Arrays on the way are passed through.
pub(crate) type Path = &'static [&'static str];

/// What reads the values that were found: the place of the path, and the value as it was written, unless it is too long.
pub(crate) trait Found {
    fn found(&mut self, path: usize, value: Option<&[u8]>);
}

/// Finds values in JSON that comes in pieces.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// At most 32, none of which leads into the value of another.
    paths: &'static [Path],
    levels: [Level; LEVELS],
    /// Levels entered that are looked into.
    inside: usize,
    /// Levels entered below those.
    below: u64,
    lexing: Lexing,
    key: [u8; LONGEST_KEY],
    key_length: usize,
    /// What the value that comes next leads to.
    coming: Level,
    value: Vec<u8>,
    /// The path whose value is being read.
    reading: Option<usize>,
    too_long: bool,
    /// One value, and the end of it, was seen.
    complete: bool,
}

/// An object or an array that has been entered.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    /// The paths that lead here or further, as bits.
    paths: u32,
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

/// Where nothing depends on the bytes that come, as long as they go on in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    /// In a text, up to the quote that ends it.
    Text,
    /// In a number or a word.
    Word,
}

impl Scanner {
    pub(crate) fn new(paths: &'static [Path]) -> Self {
        debug_assert!(paths.len() <= 32, "paths are bits");
        let mut scanner = Self {
            paths,
            levels: Default::default(),
            inside: 0,
            below: 0,
            lexing: Lexing::Between,
            key: [0; LONGEST_KEY],
            key_length: 0,
            coming: Level::default(),
            value: Vec::new(),
            reading: None,
            too_long: false,
            complete: false,
        };
        scanner.reset();
        scanner
    }

    /// Makes ready for another text.
    pub(crate) fn reset(&mut self) {
        self.inside = 0;
        self.below = 0;
        self.lexing = Lexing::Between;
        self.coming = Level { paths: u32::MAX, keys: 0, is_object: false };
        self.stop_reading();
        self.complete = false;
    }

    /// Whether one object or array was seen to its end.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// What it is in, if that is a value nobody looks for.
    pub(crate) fn idle(&self) -> Option<Idle> {
        match self.lexing {
            Lexing::Text | Lexing::Escape(Quoted::Text) if self.reading.is_none() => {
                Some(Idle::Text)
            }
            Lexing::Word if self.reading.is_none() => Some(Idle::Word),
            _ => None,
        }
    }

    pub(crate) fn feed(&mut self, mut bytes: &[u8], found: &mut impl Found) {
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

    /// Within quotes, as far as the bytes go.
    fn quoted(&mut self, bytes: &[u8], found: &mut impl Found) -> usize {
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

    fn structural(&mut self, byte: u8, found: &mut impl Found) {
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
                self.begin_value();
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
                    self.begin_value();
                }
                self.keep(&[byte]);
                self.lexing = Lexing::Word;
            }
        }
    }

    /// The object or array whose members come, if it is looked into.
    fn level(&self) -> Option<&Level> {
        if self.below > 0 { None } else { self.levels.get(self.inside.checked_sub(1)?) }
    }

    fn enter(&mut self, is_object: bool) {
        self.begin_value();
        self.keep(if is_object { b"{" } else { b"[" });
        let coming = Level { is_object, ..std::mem::take(&mut self.coming) };
        let looked_into = self.below == 0 && self.reading.is_none() && coming.paths != 0;
        if looked_into && self.inside < LEVELS {
            self.levels[self.inside] = coming;
            self.inside += 1;
            self.next_member();
        } else {
            self.below = self.below.saturating_add(1);
        }
    }

    fn leave(&mut self, found: &mut impl Found) {
        if self.below > 0 {
            self.below -= 1;
        } else {
            self.inside = self.inside.saturating_sub(1);
            self.complete |= self.inside == 0;
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

    /// The key is known: which paths does its value lead to?
    fn follow_key(&mut self) {
        let Some(level) = self.level().copied() else { return };
        // The closing quote was kept with the key.
        let key = match self.key_length.checked_sub(1) {
            Some(length) if length < LONGEST_KEY => &self.key[..length],
            _ => &[],
        };
        let leads = |path: &Path| path.get(level.keys).is_some_and(|name| name.as_bytes() == key);
        let paths =
            self.paths.iter().enumerate().filter(|(place, _)| level.paths & (1 << place) != 0);
        let paths =
            paths.filter(|(_, path)| leads(path)).fold(0, |paths, (place, _)| paths | 1 << place);
        self.coming = Level { paths, keys: level.keys + 1, is_object: false };
    }

    /// A value begins: is it one of those looked for?
    fn begin_value(&mut self) {
        if self.reading.is_some() || self.below > 0 || self.coming.paths == 0 {
            return;
        }
        let ends = |(place, path): &(usize, &Path)| {
            self.coming.paths & (1 << place) != 0 && path.len() == self.coming.keys
        };
        self.reading = self.paths.iter().enumerate().find(ends).map(|(place, _)| place);
    }

    /// A value ended, unless it lies within the one that is being read.
    fn end_value(&mut self, found: &mut impl Found) {
        if self.below > 0 {
            return;
        }
        // No other value belongs to the last key.
        self.key_length = 0;
        if let Some(path) = self.reading {
            found.found(path, if self.too_long { None } else { Some(&self.value) });
            self.stop_reading();
        }
        self.coming = Level::default();
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

#[cfg(test)]
mod tests;
