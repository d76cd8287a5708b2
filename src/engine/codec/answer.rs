//! The answer to a session's last batch, which is repeated when that comes again.

use super::{
    super::{BucketLevel, Level, Refused, RefusedBy, Seen, Verdict, Violation},
    Coded, DecodeError, Decoder, Encoder, ensure,
};

impl Coded for Seen {
    fn write(&self, out: &mut Encoder) {
        let Self { now, was, born, expires } = *self;
        [now, was, born, expires].iter().for_each(|time| out.number(*time));
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            now: from.number()?,
            was: from.number()?,
            born: from.number()?,
            expires: from.number()?,
        })
    }
}

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

impl Coded for Violation {
    fn write(&self, out: &mut Encoder) {
        let Self { by, available, wait, alone, at_best, asked, holds, rank, before } = self;
        by.write(out);
        available.write(out);
        wait.write(out);
        alone.write(out);
        at_best.write(out);
        asked.write(out);
        holds.write(out);
        rank.write(out);
        before.write(out);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (by, available, wait) = (Coded::read(from)?, Coded::read(from)?, Coded::read(from)?);
        Ok(Self {
            by,
            available,
            wait,
            alone: if from.has_heard() { Coded::read(from)? } else { wait },
            at_best: Coded::read(from)?,
            asked: Coded::read(from)?,
            holds: Coded::read(from)?,
            rank: Coded::read(from)?,
            before: Coded::read(from)?,
        })
    }
}

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

impl Coded for BucketLevel {
    fn write(&self, out: &mut Encoder) {
        let Self { quotas, paused_until, asked_until, waiting, granted, refused } = self;
        out.list(quotas);
        [*paused_until, *asked_until, *waiting].iter().for_each(|number| out.number(*number));
        [*granted, *refused].iter().for_each(|count| out.number(*count));
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (quotas, paused_until, asked_until, waiting) =
            (from.list()?, from.number()?, from.number()?, from.number()?);
        let (granted, refused) = from.counts()?;
        Ok(Self { quotas, paused_until, asked_until, waiting, granted, refused })
    }
}

impl Coded for Level {
    fn write(&self, out: &mut Encoder) {
        let Self { charged, in_flight, reset, withheld, withheld_for, asked } = *self;
        [charged, in_flight, reset, withheld, withheld_for]
            .iter()
            .for_each(|number| out.number(*number));
        asked.write(out);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            charged: from.number()?,
            in_flight: from.number()?,
            reset: from.number()?,
            withheld: from.number()?,
            withheld_for: from.number()?,
            asked: Coded::read(from)?,
        })
    }
}
