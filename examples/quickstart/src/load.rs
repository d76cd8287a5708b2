//! The calls of a run: a trace, scaled so that it takes the provider a good four windows to admit
//! them all.

use std::{path::Path, time::Duration};

use serde_json::json;

use crate::{
    LIMITS,
    trace::{self, Row, TraceError},
};

/// What every caller allows an answer to be, as callers do: far above what most of them are.
const MAX_TOKENS: u64 = 500;
/// A longer prompt is cut.
const MAX_INPUT: u64 = 2_500;
/// What an average call costs after scaling.
const MEAN_TOKENS: f64 = 350.0;
/// All calls together cost what the limits give in so many windows, on top of the first burst.
const WINDOWS: f64 = 4.5;
/// The calls arrive faster than they are admitted, by this factor, so that they have to wait.
const HURRY: f64 = 1.4;

/// One call to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When, after the start.
    pub at: Duration,
    /// Tokens of the prompt.
    pub input: u64,
    /// Tokens of the answer.
    pub output: u64,
    /// Whether the answer is streamed.
    pub stream: bool,
}

impl Call {
    /// The body of its request.
    pub(crate) fn body(&self) -> Vec<u8> {
        let prompt = "word ".repeat(usize::try_from(self.input).unwrap_or(0));
        let body = json!({
            "model": "gpt-4o",
            "max_tokens": MAX_TOKENS,
            "stream": self.stream,
            "messages": [{ "role": "user", "content": prompt }],
            // For the provider, which would know by itself if it had a model. The throttle is not
            // told.
            "metadata": { "answer_tokens": self.output.to_string() },
        });
        body.to_string().into_bytes()
    }
}

/// The calls of a run, in the order of their arrival.
#[derive(Clone, Debug)]
pub struct Load {
    calls: Vec<Call>,
}

impl Load {
    /// The calls of a file, or generated ones.
    ///
    /// # Errors
    /// When the file cannot be read, is malformed or empty.
    pub fn new(trace: Option<&Path>) -> Result<Self, TraceError> {
        let Some(path) = trace else {
            return Ok(Self { calls: scale(&trace::generate(42, 1_000)) });
        };
        let calls = scale(&trace::read(path)?);
        if calls.is_empty() { Err(TraceError::Empty(path.into())) } else { Ok(Self { calls }) }
    }

    /// The share of one of several callers: every `of`-th call, from the `number`-th on.
    #[must_use]
    pub fn share(self, number: usize, of: usize) -> Self {
        Self { calls: self.calls.into_iter().skip(number).step_by(of.max(1)).collect() }
    }

    /// The calls.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }
}

/// Takes as many calls of the trace as the limits admit in the time there is, from its beginning,
/// and again from there if it is too short. Tokens are scaled so that there are a few hundred,
/// instants so that they are too many at once.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "numbers of tokens and calls, far below 2^52"
)]
fn scale(trace: &[Row]) -> Vec<Call> {
    let sample = &trace[..trace.len().min(400)];
    let total: u64 = sample.iter().map(|row| row.context + row.generated).sum();
    if total == 0 {
        return Vec::new();
    }
    let factor = MEAN_TOKENS * sample.len() as f64 / total as f64;
    let tokens = |tokens: u64, max| ((tokens as f64 * factor).round() as u64).clamp(1, max);

    let budget = (LIMITS.tokens as f64 * WINDOWS) as u64 + LIMITS.burst / 2;
    let most = (LIMITS.requests as f64 * WINDOWS) as usize;
    let mut calls: Vec<Call> = Vec::new();
    let (mut sum, mut round) = (0, Duration::ZERO);
    for index in 0.. {
        if sum >= budget || calls.len() >= most {
            break;
        }
        let row = &trace[index % trace.len()];
        if index > 0 && index % trace.len() == 0 {
            round = calls.last().map_or(Duration::ZERO, |last| last.at);
        }
        let call = Call {
            at: round + row.at,
            input: tokens(row.context, MAX_INPUT),
            output: tokens(row.generated, MAX_TOKENS),
            stream: index % 3 == 0,
        };
        sum += call.input + call.output;
        calls.push(call);
    }
    let last = calls.last().map_or(0.0, |call| call.at.as_secs_f64());
    let hurry = LIMITS.window.as_secs_f64() * WINDOWS / HURRY;
    for call in &mut calls {
        // A trace of one instant arrives at once.
        let share = if last > 0.0 { call.at.as_secs_f64() / last } else { 0.0 };
        call.at = Duration::from_secs_f64(share * hurry);
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(calls: &[Call]) -> u64 {
        calls.iter().map(|call| call.input + call.output).sum()
    }

    #[test]
    fn generated_calls_saturate_the_limits_for_four_windows() {
        let load = Load::new(None).expect("generated");
        let calls = load.calls();
        assert!((200..600).contains(&calls.len()), "{}", calls.len());
        assert!(tokens(calls) > 4 * LIMITS.tokens);
        assert!(calls.iter().all(|call| call.output <= MAX_TOKENS && call.input <= MAX_INPUT));
        assert!(calls.windows(2).all(|pair| pair[0].at <= pair[1].at));
        assert!(calls.last().expect("calls").at < LIMITS.window * 4);
        let output: u64 = calls.iter().map(|call| call.output).sum();
        assert!(output * 4 < MAX_TOKENS * calls.len() as u64, "far below what is allowed");
    }

    #[test]
    fn any_trace_is_scaled_to_the_limits() {
        let row = |seconds, context, generated| Row {
            at: Duration::from_secs(seconds),
            context,
            generated,
        };
        assert_eq!(scale(&[]), []);
        assert_eq!(scale(&[row(0, 0, 0)]), []);
        let short = scale(&[row(0, 3, 1), row(9, 1, 3)]);
        assert!(tokens(&short) > 4 * LIMITS.tokens, "a short trace is repeated");
        assert!(short.windows(2).all(|pair| pair[0].at <= pair[1].at));
        let huge = scale(&[row(0, u64::from(u32::MAX), u64::from(u32::MAX))]);
        assert!(tokens(&huge) > 4 * LIMITS.tokens);
        assert!(huge.iter().all(|call| call.at == Duration::ZERO));
        let mut skewed = vec![row(0, 1, 1); 399];
        skewed.push(row(1, 1_000_000, 1));
        assert!(scale(&skewed).len() <= LIMITS.requests * 5, "many tiny calls end in time, too");
    }
}
