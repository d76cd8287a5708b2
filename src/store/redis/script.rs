//! The script, in parts that mirror the engine's files.

use std::fmt::Write;

use redis::{Cmd, Script};

/// The parts, in the order in which they need each other.
const PARTS: [&str; 20] = [
    include_str!("arguments.lua"),
    include_str!("exact.lua"),
    include_str!("packed.lua"),
    include_str!("ring.lua"),
    include_str!("sliding_window.lua"),
    include_str!("token_bucket.lua"),
    include_str!("fixed_window.lua"),
    include_str!("rule.lua"),
    include_str!("gate.lua"),
    include_str!("cap.lua"),
    include_str!("quota_state.lua"),
    include_str!("shortage.lua"),
    include_str!("due.lua"),
    include_str!("flows.lua"),
    include_str!("heads.lua"),
    include_str!("session_record.lua"),
    include_str!("bucket.lua"),
    include_str!("operations.lua"),
    include_str!("rest.lua"),
    include_str!("apply.lua"),
];

/// Groups of what is rarely needed. The functions of a group are made when `need_` and its name is called: making one
/// at every call costs more than a plain reserve.
const GROUPS: [&str; 4] = ["waiting", "provider", "changes", "rest"];

/// Begins what belongs to a group, up to the end of a part or the next such line.
const RARE: &str = "\n-- RARE ";

/// End the lines that read the clock and that send a wake-up.
const TIME: &str = "-- TIME";
#[cfg(test)]
const PUBLISH: &str = "-- PUBLISH";

/// The script and its digest.
pub(super) struct ApplyScript {
    code: String,
    digest: String,
}

impl ApplyScript {
    pub(super) fn new() -> Self {
        Self::of(assembled())
    }

    /// The script with another line in place of the one that reads the clock.
    pub(super) fn with_clock(&self, line: &str) -> Self {
        Self::of(replaced(&self.code, TIME, line))
    }

    /// The script with another line in place of the one that sends a wake-up.
    #[cfg(test)]
    pub(super) fn with_wakes(&self, line: &str) -> Self {
        Self::of(replaced(&self.code, PUBLISH, line))
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

fn replaced(code: &str, marker: &str, line: &str) -> String {
    let lines: Vec<_> =
        code.lines().map(|code| if code.ends_with(marker) { line } else { code }).collect();
    lines.join("\n")
}

/// The parts in one text: what is rarely needed moves into the function of its group, before the last part.
fn assembled() -> String {
    let (mut plain, mut groups) = (Vec::new(), GROUPS.map(|_| String::new()));
    for part in PARTS {
        let mut sections = part.split(RARE);
        plain.push(sections.next().unwrap_or_default());
        for section in sections {
            let (group, code) = section.split_once('\n').unwrap_or_default();
            let index = GROUPS.iter().position(|name| *name == group).expect("a known group");
            groups[index].push_str(code);
        }
    }
    let mut code =
        String::with_capacity(PARTS.iter().map(|part| part.len()).sum::<usize>() + 4_096);
    // A function of a group that is not its own is known outside of it, too.
    let shared = groups.iter().flat_map(|code| code.lines()).filter_map(|line| name_of(line));
    let needs: Vec<_> = GROUPS.iter().map(|group| format!("need_{group}")).collect();
    let names: Vec<_> = needs.iter().map(String::as_str).chain(shared).collect();
    let last = plain.pop().unwrap_or_default();
    // Writing to a string cannot fail.
    _ = writeln!(code, "local {}", names.join(", "));
    plain.iter().for_each(|part| code.push_str(part));
    for (need, group) in needs.iter().zip(&groups) {
        let first = group.lines().find_map(name_of).unwrap_or_default();
        _ = writeln!(code, "function {need}()\nif {first} then return end\n{group}end");
    }
    code.push_str(last);
    code
}

/// The name of a function that this line defines for all groups.
fn name_of(line: &str) -> Option<&str> {
    line.strip_prefix("function ")?.split('(').next()
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
    fn clock_and_wake_ups_are_in_one_line_each_and_nowhere_else() {
        let code = assembled();
        for (marker, command) in [(TIME, "'TIME'"), (PUBLISH, "redis.pcall(")] {
            assert_eq!(code.lines().filter(|line| line.ends_with(marker)).count(), 1, "{marker}");
            assert_eq!(code.matches(command).count(), 1, "{command}");
        }
        let replaced = ApplyScript::new().with_clock("local clock").with_wakes("").code;
        assert!(!replaced.contains("'TIME'") && !replaced.contains("redis.pcall("));
    }

    #[test]
    fn what_is_rarely_needed_is_made_when_it_is_needed() {
        let code = assembled();
        assert!(!code.contains(RARE));
        for group in GROUPS {
            assert_eq!(
                code.matches(&format!("\nfunction need_{group}()\nif ")).count(),
                1,
                "{group}"
            );
        }
    }
}
