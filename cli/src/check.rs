//! `check`: whether a limits file makes sense, and what it means in words.

use std::path::PathBuf;

use tower_throttle::{Limiter, file::LimitsFile};

use crate::{failure::Failure, file_words};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A limits file, in TOML or JSON
    limits: PathBuf,
    /// Only check: print nothing if the file makes sense
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let file = LimitsFile::read(&arguments.limits)?;
    // What is only noticed by those who use it.
    Limiter::new(file.limits()).map_err(|error| in_file(&arguments.limits, error))?;
    let routes = file.routes::<()>().build();
    routes.map_err(|error| in_file(&arguments.limits, error))?;
    if !arguments.quiet {
        print!("{}", file_words::of_file(&file_words::read(&arguments.limits)?));
    }
    Ok(())
}

/// An error of the limits, with the file that they are in.
pub(crate) fn in_file(path: &std::path::Path, error: impl std::fmt::Display) -> Failure {
    Failure::Limits(format!("{}: {error}", path.display()))
}
