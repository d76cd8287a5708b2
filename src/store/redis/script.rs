//! The script, in parts that mirror the engine's files.

use redis::{Cmd, Script};

const PARTS: &str = concat!(
    include_str!("arguments.lua"),
    include_str!("shortcut.lua"),
    include_str!("numbers.lua"),
    include_str!("ring.lua"),
    include_str!("sliding_window.lua"),
    include_str!("token_bucket.lua"),
    include_str!("fixed_window.lua"),
    include_str!("rule.lua"),
    include_str!("surfaced.lua"),
    include_str!("cap.lua"),
    include_str!("quota_state.lua"),
    include_str!("shortage.lua"),
    include_str!("bucket.lua"),
    include_str!("step.lua"),
    include_str!("apply.lua"),
);

/// Ends the one line that reads the clock.
const TIME: &str = "-- TIME";

/// The script and its digest.
pub(super) struct ApplyScript {
    code: String,
    digest: String,
}

impl ApplyScript {
    pub(super) fn new() -> Self {
        Self::of(PARTS.to_owned())
    }

    /// The script with another line in place of the one that reads the clock.
    pub(super) fn with_clock(line: &str) -> Self {
        let lines: Vec<_> =
            PARTS.lines().map(|code| if code.ends_with(TIME) { line } else { code }).collect();
        Self::of(lines.join("\n"))
    }

    fn of(code: String) -> Self {
        let digest = Script::new(&code).get_hash().to_owned();
        Self { code, digest }
    }

    /// The command that runs the script if the server has it.
    pub(super) fn evalsha(&self, keys: &[Vec<u8>], arguments: &[Vec<u8>]) -> Cmd {
        call("EVALSHA", &self.digest, keys, arguments)
    }

    /// The command that brings the script along.
    pub(super) fn eval(&self, keys: &[Vec<u8>], arguments: &[Vec<u8>]) -> Cmd {
        call("EVAL", &self.code, keys, arguments)
    }
}

fn call(name: &str, script: &str, keys: &[Vec<u8>], arguments: &[Vec<u8>]) -> Cmd {
    let bytes =
        keys.iter().chain(arguments).map(Vec::len).sum::<usize>() + name.len() + script.len() + 4;
    let mut cmd = Cmd::with_capacity(3 + keys.len() + arguments.len(), bytes);
    cmd.arg(name).arg(script).arg(keys.len());
    keys.iter().chain(arguments).for_each(|bytes| {
        cmd.arg(&**bytes);
    });
    cmd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_read_in_one_line_and_nowhere_else() {
        assert_eq!(PARTS.lines().filter(|line| line.ends_with(TIME)).count(), 1);
        assert_eq!(PARTS.matches("'TIME'").count(), 1);
        assert!(!ApplyScript::with_clock("local clock").code.contains("'TIME'"));
    }
}
