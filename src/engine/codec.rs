//! The bytes of a bucket's state: how its parts are written and read again.
//!
//! Each part writes its fields in the order of its file, and what follows from other fields is left
//! out. Reading trusts nothing: a length allocates only what its bytes can fill, and a part refuses
//! values that its own methods never leave behind.

mod answer;

use std::{error::Error, fmt};

use smallvec::{Array, SmallVec};

use super::{MAX_AMOUNT, Micros};

/// What every state begins with.
const MAGIC: [u8; 3] = *b"TTB";

/// Counts the formats. A release that stores another one gives it a new number, and reads the old.
const VERSION: u8 = 5;

/// Magic, version and checksum.
pub(super) const HEADER: usize = 8;

/// Why bytes are not the state of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// They are something else: they do not begin as a state does.
    Foreign,
    /// They are of a version that this one does not know.
    Version(u8),
    /// They are cut off or changed.
    Damaged,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("these bytes are not the state of a bucket"),
            Self::Version(version) => {
                write!(f, "version {version} of a bucket's state is not known")
            }
            Self::Damaged => f.write_str("the state of the bucket is damaged"),
        }
    }
}

impl Error for DecodeError {}

/// A part of a state that writes and reads itself.
pub(crate) trait Coded: Sized {
    fn write(&self, out: &mut Encoder);
    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError>;
}

/// A part that is its fields, in this order: so no field is forgotten.
macro_rules! coded {
    ($part:ident { $($field:ident $(<= $most:expr)? $(=> $least:expr)?),* $(,)? }) => {
        impl $crate::engine::codec::Coded for $part {
            fn write(&self, out: &mut $crate::engine::codec::Encoder) {
                let Self { $($field),* } = self;
                $($crate::engine::codec::Coded::write($field, out);)*
            }

            fn read(
                from: &mut $crate::engine::codec::Decoder<'_>,
            ) -> Result<Self, $crate::engine::codec::DecodeError> {
                $(
                    let $field = $crate::engine::codec::Coded::read(from)?;
                    $($crate::engine::codec::ensure($field <= $most)?;)?
                    $($crate::engine::codec::ensure($field >= $least)?;)?
                )*
                Ok(Self { $($field),* })
            }
        }
    };
}
pub(super) use coded;

/// A part that is one of several: the number of its variant, and then the fields of that.
macro_rules! coded_enum {
    ($part:ident {
        $($number:literal => $variant:ident { $($field:tt : $value:ident),* }),* $(,)?
    }) => {
        impl $crate::engine::codec::Coded for $part {
            fn write(&self, out: &mut $crate::engine::codec::Encoder) {
                match self {
                    $(Self::$variant { $($field: $value),* } => {
                        out.byte($number);
                        $($crate::engine::codec::Coded::write($value, out);)*
                    })*
                }
            }

            fn read(
                from: &mut $crate::engine::codec::Decoder<'_>,
            ) -> Result<Self, $crate::engine::codec::DecodeError> {
                Ok(match from.byte()? {
                    $($number => {
                        $(let $value = $crate::engine::codec::Coded::read(from)?;)*
                        Self::$variant { $($field: $value),* }
                    })*
                    _ => return Err($crate::engine::codec::DecodeError::Damaged),
                })
            }
        }
    };
}
pub(super) use coded_enum;

/// The bytes of `value`, with what says that they are its bytes.
pub(crate) fn encode(value: &impl Coded) -> Vec<u8> {
    let mut out = Encoder(Vec::with_capacity(1_024));
    out.0.extend(MAGIC);
    out.0.push(VERSION);
    out.0.extend([0; 4]);
    value.write(&mut out);
    let mut bytes = out.0;
    seal(&mut bytes);
    bytes
}

/// Puts the checksum into bytes that are complete.
pub(crate) fn seal(bytes: &mut [u8]) {
    let sum = checksum(&bytes[HEADER..]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&sum.to_le_bytes());
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode<T: Coded>(bytes: &[u8]) -> Result<T, DecodeError> {
    let bytes = bytes.strip_prefix(&MAGIC).ok_or(DecodeError::Foreign)?;
    let (&version, bytes) = bytes.split_first().ok_or(DecodeError::Damaged)?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let (&sum, rest) = bytes.split_first_chunk().ok_or(DecodeError::Damaged)?;
    if u32::from_le_bytes(sum) != checksum(rest) {
        return Err(DecodeError::Damaged);
    }
    let mut from = Decoder { rest, now: 0 };
    let value = T::read(&mut from)?;
    ensure(from.rest.is_empty())?;
    Ok(value)
}

/// Notices accidents, not attacks.
fn checksum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let hash = words.iter().chain([&last]).fold(bytes.len() as u64, |hash, word| {
        let mixed = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 32)
    });
    hash as u32
}

/// What does not hold is [damage](DecodeError::Damaged).
pub(crate) fn ensure(holds: bool) -> Result<(), DecodeError> {
    if holds { Ok(()) } else { Err(DecodeError::Damaged) }
}

/// Bytes that grow.
#[derive(Debug)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// A number in as few bytes as it needs: seven bits in each, the lowest first, and the top bit
    /// where more follow.
    pub(crate) fn number(&mut self, number: u64) {
        let mut left = number;
        while left >= 0x80 {
            self.0.push(left as u8 | 0x80);
            left >>= 7;
        }
        self.0.push(left as u8);
    }

    pub(crate) fn numbers(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|number| self.number(*number));
    }

    pub(crate) fn list<'a, T: Coded + 'a>(
        &mut self,
        items: impl IntoIterator<Item = &'a T, IntoIter: ExactSizeIterator>,
    ) {
        let items = items.into_iter();
        self.number(items.len() as u64);
        items.for_each(|item| item.write(self));
    }
}

/// Bytes that have not been read yet.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
    /// The time of the bucket, once that is known. Nothing in it has happened later.
    pub(crate) now: Micros,
}

impl Decoder<'_> {
    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(DecodeError::Damaged)?;
        self.rest = rest;
        Ok(byte)
    }

    /// Any number of 64 bits.
    fn word(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            ensure(bits << shift >> shift == bits)?;
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(DecodeError::Damaged)
    }

    /// An amount, a time or an id: they all are exact in a double.
    pub(crate) fn number(&mut self) -> Result<u64, DecodeError> {
        let number = self.word()?;
        ensure(number <= MAX_AMOUNT)?;
        Ok(number)
    }

    pub(crate) fn numbers<const N: usize>(&mut self) -> Result<[u64; N], DecodeError> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = self.number()?;
        }
        Ok(numbers)
    }

    /// Every item takes a byte at least, so what is claimed to follow allocates nothing by itself.
    pub(crate) fn list<T: Coded, C: FromIterator<T>>(&mut self) -> Result<C, DecodeError> {
        let len = self.number()?;
        (0..len).map(|_| T::read(self)).collect()
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> u64 {
        self.rest.len() as u64
    }
}

impl Coded for u64 {
    fn write(&self, out: &mut Encoder) {
        out.number(*self);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        from.number()
    }
}

/// The sign is the lowest bit.
impl Coded for i64 {
    fn write(&self, out: &mut Encoder) {
        out.number(((*self << 1) ^ (*self >> 63)) as u64);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let number = from.word()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }
}

/// Eight bytes: tags of flows, which are finite and never negative.
impl Coded for f64 {
    fn write(&self, out: &mut Encoder) {
        out.0.extend(self.to_bits().to_le_bytes());
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (&bits, rest) = from.rest.split_first_chunk().ok_or(DecodeError::Damaged)?;
        from.rest = rest;
        let number = Self::from_bits(u64::from_le_bytes(bits));
        ensure(number.is_finite() && number >= 0.0)?;
        Ok(number)
    }
}

impl Coded for bool {
    fn write(&self, out: &mut Encoder) {
        out.byte(u8::from(*self));
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match from.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Damaged),
        }
    }
}

impl<T: Coded> Coded for Option<T> {
    fn write(&self, out: &mut Encoder) {
        self.is_some().write(out);
        if let Some(value) = self {
            value.write(out);
        }
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(if bool::read(from)? { Some(T::read(from)?) } else { None })
    }
}

impl<T: Coded> Coded for Vec<T> {
    fn write(&self, out: &mut Encoder) {
        out.list(self);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        from.list()
    }
}

impl<A: Array<Item: Coded>> Coded for SmallVec<A> {
    fn write(&self, out: &mut Encoder) {
        out.list(self);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        from.list()
    }
}

impl<T: Coded> Coded for Box<[T]> {
    fn write(&self, out: &mut Encoder) {
        out.list(&**self);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        from.list()
    }
}

impl<T: Coded> Coded for Box<T> {
    fn write(&self, out: &mut Encoder) {
        T::write(self, out);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        T::read(from).map(Self::new)
    }
}

impl<A: Coded, B: Coded> Coded for (A, B) {
    fn write(&self, out: &mut Encoder) {
        self.0.write(out);
        self.1.write(out);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok((A::read(from)?, B::read(from)?))
    }
}
