//! See and steer limits that many processes share: `tower-throttle --help`. This file reads the
//! command line and calls one module per subcommand.

mod check;
mod explain;
mod failure;
mod file_words;
mod nodes;
mod serve;
mod server;
mod simulate;
mod status;
mod steer;
mod top;
mod watch;
mod words;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::failure::Failure;

/// See and steer the limits that processes share by tower-throttle.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = failure::EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show how a bucket stands
    Status(status::Arguments),
    /// Show all buckets, live
    Top(top::Arguments),
    /// Print what happens to buckets, a line for each event
    Watch(watch::Arguments),
    /// Let nothing pass on a bucket for a while
    Pause(steer::PauseArguments),
    /// End all pauses of a bucket
    Resume(steer::ResumeArguments),
    /// Forget what a bucket has charged, held and withheld
    Reset(steer::ResetArguments),
    /// Check a limits file, and say in words what it means
    Check(check::Arguments),
    /// Say which bucket and which quotas a model or name has by a limits file
    Explain(explain::Arguments),
    /// Throttle the calls of any client that takes a base URL
    Serve(Box<serve::Arguments>),
    /// Simulate a provider, and what limits and strategies make of a trace
    Simulate(Box<simulate::Arguments>),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Some of it is what a server or a file says.
            eprintln!("tower-throttle: {}", words::plain_lines(&failure.to_string()));
            failure.exit_code()
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    // Only a service has work for several threads.
    let mut builder = match command {
        Command::Serve(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build().map_err(Failure::other)?;
    let result = runtime.block_on(async {
        match command {
            Command::Status(arguments) => status::run(arguments).await,
            Command::Top(arguments) => top::run(arguments).await,
            Command::Watch(arguments) => watch::run(arguments).await,
            Command::Pause(arguments) => steer::pause(arguments).await,
            Command::Resume(arguments) => steer::resume(arguments).await,
            Command::Reset(arguments) => steer::reset(arguments).await,
            Command::Check(arguments) => check::run(&arguments),
            Command::Explain(arguments) => explain::run(&arguments).await,
            Command::Serve(arguments) => serve::run(*arguments).await,
            Command::Simulate(arguments) => simulate::run(&arguments).await,
        }
    });
    // A look-up of a name may still be under way.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_makes_sense() {
        super::Arguments::command().debug_assert();
    }
}
