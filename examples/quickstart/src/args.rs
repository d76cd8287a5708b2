//! The command line: few enough flags to be read by hand.

use std::{fmt, path::PathBuf};

/// What `--help` prints.
pub const HELP: &str = "\
Makes a few hundred calls to a provider on loopback that enforces its limits without slack: first
with plain retries, then through tower-throttle. Takes less than half a minute.

Usage: cargo run --example quickstart -- [OPTIONS]

Options:
  --json        print one JSON object instead of a table
  --trace FILE  replay the calls of a CSV file with the columns
                TIMESTAMP,ContextTokens,GeneratedTokens (such as the Azure LLM inference traces),
                scaled to the limits, instead of generated ones
  --help        print this

Environment:
  REDIS_URL     keep the throttle's limits on this server (redis://...) instead of in memory
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// `--help`.
    Help,
    /// Anything else.
    Run(Options),
}

/// How to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Print JSON.
    pub json: bool,
    /// The file to replay.
    pub trace: Option<PathBuf>,
    /// Where the throttle keeps its limits, if not in memory.
    pub redis: Option<String>,
}

/// Why a command line is not understood.
#[derive(Debug, PartialEq, Eq)]
pub struct ArgsError(String);

impl fmt::Display for ArgsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; --help says what there is", self.0)
    }
}

impl std::error::Error for ArgsError {}

/// Reads the arguments (without the program's name) and the value of `REDIS_URL`. An empty one
/// counts as none.
///
/// # Errors
/// At the first argument that is not understood.
pub fn parse(
    args: impl IntoIterator<Item = String>,
    redis_url: Option<String>,
) -> Result<Command, ArgsError> {
    let mut options =
        Options { redis: redis_url.filter(|url| !url.trim().is_empty()), ..Options::default() };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let (flag, value) = match arg.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        match (flag, value) {
            ("--help" | "-h", None) => return Ok(Command::Help),
            ("--json", None) => options.json = true,
            ("--trace", value) => match value.or_else(|| args.next()) {
                Some(file) if !file.is_empty() => options.trace = Some(file.into()),
                _ => return Err(ArgsError("--trace needs a file".into())),
            },
            _ => return Err(ArgsError(format!("unknown argument `{arg}`"))),
        }
    }
    Ok(Command::Run(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Command, ArgsError> {
        parse(args.iter().map(ToString::to_string), None)
    }

    #[test]
    fn flags_are_read() {
        assert_eq!(parsed(&[]), Ok(Command::Run(Options::default())));
        let options = Options { json: true, trace: Some("a b.csv".into()), redis: None };
        assert_eq!(parsed(&["--json", "--trace", "a b.csv"]), Ok(Command::Run(options)));
        let options = Options { trace: Some("x=y.csv".into()), ..Options::default() };
        assert_eq!(parsed(&["--trace=x=y.csv"]), Ok(Command::Run(options)));
        assert_eq!(parsed(&["--json", "--help"]), Ok(Command::Help));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (args, named) in [
            (&["--jsn"][..], "--jsn"),
            (&["--json=1"], "--json=1"),
            (&["x"], "`x`"),
            (&["--trace"], "--trace"),
        ] {
            let error = parsed(args).expect_err("refused").to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn an_empty_redis_url_is_none() {
        let redis = |url: &str| match parse([], Some(url.into())) {
            Ok(Command::Run(options)) => options.redis,
            other => panic!("{other:?}"),
        };
        assert_eq!(redis(""), None);
        assert_eq!(redis("redis://localhost/"), Some("redis://localhost/".into()));
    }
}
