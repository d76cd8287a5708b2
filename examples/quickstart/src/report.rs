//! What is printed in the end.

use std::fmt::Write;

use crate::{Counts, LIMITS, driver::Driven};

/// The numbers of one phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Phase {
    /// Calls made.
    pub calls: u64,
    /// Calls answered in the end.
    pub ok: u64,
    /// Responses with 429, counted by the provider.
    pub rejected: u64,
    /// Tokens reserved at the throttle.
    pub reserved: u64,
    /// Tokens used, as the answers tell.
    pub used: u64,
    /// Tokens that were reserved, turned out not to be used, and came back.
    pub refunded: u64,
    /// Tokens that the provider admitted, as a share of limit x seconds / window. The bucket is
    /// full when a phase begins, so a little more than 1 is possible.
    pub utilisation: f64,
    /// From the first call to the end of the last answer.
    pub seconds: f64,
    /// Why the first call that was given up was.
    pub error: Option<String>,
}

/// What the throttle reserved and got back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Metered {
    pub(crate) reserved: u64,
    pub(crate) refunded: u64,
}

impl Phase {
    #[expect(clippy::cast_precision_loss, reason = "tokens, far below 2^52")]
    pub(crate) fn new(driven: &Driven, counts: &Counts, metered: Option<Metered>) -> Self {
        let Metered { reserved, refunded } = metered.unwrap_or_default();
        let seconds = driven.elapsed.as_secs_f64();
        let allowed = LIMITS.tokens as f64 * seconds / LIMITS.window.as_secs_f64();
        Self {
            calls: driven.calls,
            ok: driven.ok,
            rejected: counts.rejected,
            reserved,
            used: driven.used,
            refunded,
            utilisation: if allowed > 0.0 { counts.tokens as f64 / allowed } else { 0.0 },
            seconds,
            error: driven.error.as_ref().map(ToString::to_string),
        }
    }

    fn json(&self) -> String {
        format!(
            "{{\"calls\": {}, \"ok\": {}, \"rejected\": {}, \"reserved\": {}, \"used\": {}, \"refunded\": {}, \
             \"utilisation\": {:.3}, \"seconds\": {:.2}}}",
            self.calls,
            self.ok,
            self.rejected,
            self.reserved,
            self.used,
            self.refunded,
            self.utilisation,
            self.seconds
        )
    }
}

/// The numbers of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// With plain retries.
    pub unthrottled: Phase,
    /// Through the throttle.
    pub throttled: Phase,
}

impl Report {
    /// One JSON object.
    pub fn json(&self) -> String {
        format!(
            "{{\"unthrottled\": {}, \"throttled\": {}}}",
            self.unthrottled.json(),
            self.throttled.json()
        )
    }

    /// A small table.
    pub fn table(&self) -> String {
        let window = LIMITS.window.as_secs_f64();
        let mut text = format!(
            "The provider admits {} requests in any {window} s and {} tokens per {window} s, {} at once.\n\n\
             {:12} {:>6} {:>6} {:>6} {:>10} {:>8} {:>10} {:>12} {:>8}\n",
            LIMITS.requests,
            LIMITS.tokens,
            LIMITS.burst,
            "",
            "calls",
            "ok",
            "429s",
            "reserved",
            "used",
            "refunded",
            "utilisation",
            "seconds"
        );
        for (name, phase) in [("unthrottled", &self.unthrottled), ("throttled", &self.throttled)] {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{name:12} {:>6} {:>6} {:>6} {:>10} {:>8} {:>10} {:>12.2} {:>8.1}",
                phase.calls,
                phase.ok,
                phase.rejected,
                phase.reserved,
                phase.used,
                phase.refunded,
                phase.utilisation,
                phase.seconds
            );
        }
        text += "\nUtilisation is the tokens that the provider admitted, of limit x seconds / window. The bucket is \
                 full\nwhen a phase begins, so a little more than 1 is possible.\n";
        for (name, phase) in [("unthrottled", &self.unthrottled), ("throttled", &self.throttled)] {
            if let Some(error) = &phase.error {
                let _ = writeln!(text, "{name}: {} calls failed: {error}", phase.calls - phase.ok);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;

    #[test]
    fn json_is_one_object_with_the_keys_that_were_promised() {
        let json: serde_json::Value =
            serde_json::from_str(&Report::default().json()).expect("the report is JSON");
        let phases = json.as_object().expect("an object");
        // Another crate may ask serde_json to keep the order.
        let keys = |object: &serde_json::Map<_, _>| -> BTreeSet<String> {
            object.keys().cloned().collect()
        };
        assert_eq!(keys(phases), ["throttled", "unthrottled"].map(String::from).into());
        for phase in phases.values() {
            let keys = keys(phase.as_object().expect("an object"));
            let promised = [
                "calls",
                "ok",
                "refunded",
                "rejected",
                "reserved",
                "seconds",
                "used",
                "utilisation",
            ];
            assert_eq!(keys, promised.map(String::from).into());
            assert!(
                phase.as_object().expect("an object").values().all(serde_json::Value::is_number)
            );
        }
    }

    #[test]
    fn utilisation_is_what_was_admitted_of_what_could_be() {
        let driven = Driven { calls: 9, ok: 9, elapsed: LIMITS.window * 2, ..Driven::default() };
        let counts = Counts { requests: 9, tokens: LIMITS.tokens, rejected: 3 };
        let phase = Phase::new(&driven, &counts, None);
        assert!((phase.utilisation - 0.5).abs() < 1e-9);
        assert_eq!((phase.rejected, phase.reserved), (3, 0));
        let never = Driven { elapsed: Duration::ZERO, ..Driven::default() };
        assert!(Phase::new(&never, &counts, None).utilisation.abs() < 1e-9);
    }
}
