//! Lines on the standard error output. Nothing that a caller sent is in them: there may be a key
//! anywhere in it.

use std::{
    fmt,
    io::{self, Write},
};

use tower_throttle::observe::{Event, Observer};

use crate::words;

/// Where warnings go, and with `--verbose` a line for each call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log {
    is_verbose: bool,
}

impl Log {
    pub(super) fn new(is_verbose: bool) -> Self {
        Self { is_verbose }
    }

    pub(super) fn warn(self, line: fmt::Arguments<'_>) {
        // What cannot be told is no reason to stop.
        let _ = writeln!(io::stderr(), "tower-throttle: {line}");
    }

    /// Writes a line if every call is to be told of.
    pub(super) fn tell(self, line: fmt::Arguments<'_>) {
        if self.is_verbose {
            self.warn(line);
        }
    }
}

impl Observer for Log {
    fn on_event(&self, event: &Event<'_>) {
        match event {
            Event::Degraded { error, .. } => {
                self.warn(format_args!("the store cannot be reached: {error}"));
            }
            Event::Recovered => self.warn(format_args!("the store answers again")),
            Event::StateLost { bucket, .. } => self.warn(format_args!(
                "the store has lost the state of bucket {}, which starts empty",
                words::plain(bucket)
            )),
            Event::Paused { bucket, applied, .. } => self.tell(format_args!(
                "bucket {}: the provider asked for a wait of {}",
                words::plain(bucket),
                words::duration(*applied)
            )),
            _ => {}
        }
    }
}
