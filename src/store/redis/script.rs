//! The script, in parts that mirror the engine's files. What a comment there says is not said again
//! in the parts: they tell what differs, and how things are stored.

use std::{collections::HashMap, fmt::Write};

use redis::{Cmd, Script};

/// The parts, in the order in which they need each other.
const PARTS: [&str; 25] = [
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
    include_str!("ahead.lua"),
    include_str!("operations.lua"),
    include_str!("order.lua"),
    include_str!("own_heads.lua"),
    include_str!("candidate.lua"),
    include_str!("front.lua"),
    include_str!("rest.lua"),
    include_str!("apply.lua"),
];

/// Groups of what is rarely needed. The functions of a group are made when it is first asked for:
/// making all of them at every call costs more than a plain reserve.
const GROUPS: [&str; 11] = [
    "packed", "rows", "rings", "draining", "fixed", "classes", "holds", "waiting", "provider",
    "changes", "rest",
];

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

/// The parts in one text: what is rarely needed moves into one function, before the last part, and
/// constants into their places. A closure costs by what it captures, and each of these would be
/// captured by many.
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
    let last = plain.pop().unwrap_or_default();
    let mut code = String::from("local rare = {}\n");
    plain.iter().for_each(|part| code.push_str(part));
    code.push_str(
        "setmetatable(rare, {__index = function(rare, group)\n\
         local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max\n",
    );
    for (group, part) in GROUPS.iter().zip(&groups) {
        // Writing to a string cannot fail.
        _ = writeln!(
            code,
            "if group == '{group}' then\nlocal {group} = {{}}\nrare.{group} = {group}\n{part}\nend"
        );
    }
    code.push_str("return rawget(rare, group)\nend})\n");
    code.push_str(last);
    with_constants(&code)
}

/// The code with every constant in its places: a line `local NAME = number` declares one.
fn with_constants(code: &str) -> String {
    let is_declared = |line: &&str| constant(line).is_some();
    let constants: HashMap<_, _> = code.lines().filter_map(constant).collect();
    let mut to = String::with_capacity(code.len());
    for line in
        code.lines().filter(|line| !is_declared(line) && !line.trim_start().starts_with("--"))
    {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut rest = line;
        while !rest.is_empty() {
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end.max(1));
            to.push_str(constants.get(word).unwrap_or(&word));
            rest = after;
        }
        to.push('\n');
    }
    to
}

fn constant(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix("local ")?.split_once(" = ")?;
    let is_constant = name.bytes().all(|c| c.is_ascii_uppercase() || c == b'_');
    (is_constant && value.bytes().all(|c| c.is_ascii_digit())).then_some((name, value))
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
                code.matches(&format!("if group == '{group}' then\n")).count(),
                1,
                "{group}"
            );
        }
    }

    #[test]
    fn constants_are_put_in_their_places() {
        let code =
            "local MAX = 7\nlocal MAX_OF = {1}\n-- A comment on MAX.\nreturn MAX, MAX_OF, 'xMAX'\n";
        assert_eq!(with_constants(code), "local MAX_OF = {1}\nreturn 7, MAX_OF, 'xMAX'\n");
        assert!(!assembled().contains("MAX_AMOUNT"));
    }
}
