//! What a store may see of an operation.

use crate::engine::{Batch, Mode, Op};

/// The kind of an operation in a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Reserves a demand, which waits if it does not fit.
    Reserve,
    /// Reserves a demand, or refuses it.
    TryReserve,
    /// Asks whether a demand would fit.
    Ask,
    /// Charges a demand, whether it fits or not.
    Charge,
    /// Ends a call, with what it has really used.
    Settle,
    /// Changes what a call is expected to use.
    Adjust,
    /// Lets any session settle a call.
    Detach,
    /// Says which waiters of the session are not in this batch.
    Waiting,
    /// Pauses a bucket, or ends its pauses.
    Pause,
    /// Says that a provider refused a call.
    Refused,
    /// Says that a provider answered a call.
    Answered,
    /// Says how much a provider left of a quota.
    Cap,
    /// Asks how a bucket stands.
    Status,
}

impl Operation {
    fn of(op: &Op) -> Self {
        match op {
            Op::Reserve(reserve) => match reserve.mode {
                Mode::Wait => Self::Reserve,
                Mode::Try => Self::TryReserve,
                Mode::Dry => Self::Ask,
                Mode::Charge => Self::Charge,
            },
            Op::Settle(settle) if settle.close => Self::Settle,
            Op::Settle(_) => Self::Adjust,
            Op::Detach { .. } => Self::Detach,
            Op::Waiting { .. } => Self::Waiting,
            Op::Pause { .. } => Self::Pause,
            Op::Refused { .. } => Self::Refused,
            Op::Answered { .. } => Self::Answered,
            Op::Cap { .. } => Self::Cap,
            Op::Status { .. } => Self::Status,
        }
    }
}

impl<'a> Batch<'a> {
    /// Returns the kinds of its operations, in their order: for the logs and the tests of a store,
    /// which needs them for nothing else.
    pub fn operations(&self) -> impl ExactSizeIterator<Item = Operation> + use<'a> {
        self.ops.iter().map(Operation::of)
    }
}
