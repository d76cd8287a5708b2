//! The answer to a session's last batch, which is repeated when that comes again.

use super::{
    super::{BucketLevel, Level, Refused, RefusedBy, Seen, Verdict, Violation},
    Coded, DecodeError, Decoder, Encoder, coded, ensure,
};

coded!(Seen { now, was, born, expires });

impl Coded for Verdict {
    fn write(&self, out: &mut Encoder) {
        match self {
            Self::Done => out.byte(0),
            Self::Granted { probe: false } => out.byte(1),
            Self::Granted { probe: true } => out.byte(2),
            Self::Fits => out.byte(3),
            Self::NoClaim => out.byte(4),
            Self::Refused(refused) => {
                out.byte(5);
                refused.write(out);
            }
            Self::Status(level) => {
                out.byte(6);
                level.write(out);
            }
        }
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match from.byte()? {
            0 => Self::Done,
            1 => Self::Granted { probe: false },
            2 => Self::Granted { probe: true },
            3 => Self::Fits,
            4 => Self::NoClaim,
            5 => Self::Refused(Coded::read(from)?),
            6 => Self::Status(Coded::read(from)?),
            _ => return Err(DecodeError::Damaged),
        })
    }
}

impl Coded for Refused {
    fn write(&self, out: &mut Encoder) {
        let Self { violations, tag, part } = self;
        out.list(violations);
        tag.write(out);
        part.write(out);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let refused =
            Self { violations: from.list()?, tag: Coded::read(from)?, part: Coded::read(from)? };
        ensure(!refused.violations.is_empty())?;
        Ok(refused)
    }
}

coded!(Violation { by, available, wait, alone, at_best, asked, holds, rank, before });

/// The lowest bit says which it is.
impl Coded for RefusedBy {
    fn write(&self, out: &mut Encoder) {
        let (index, is_pause) = match *self {
            Self::Rule(index) => (index, 0),
            Self::Pause(index) => (index, 1),
        };
        out.number((index as u64) << 1 | is_pause);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let number = from.number()?;
        let index = usize::try_from(number >> 1).map_err(|_| DecodeError::Damaged)?;
        Ok(if number & 1 == 0 { Self::Rule(index) } else { Self::Pause(index) })
    }
}

coded!(BucketLevel { quotas, paused_until, asked_until, waiting, granted, refused });

coded!(Level { charged, in_flight, reset, withheld, withheld_for, asked });
