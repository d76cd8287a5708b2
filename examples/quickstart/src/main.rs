//! `cargo run --example quickstart`: the same calls at the same limits, first with plain retries
//! and then through the throttle. `-- --help` says what else it does.

use std::process::ExitCode;

use quickstart_example::{Command, HELP, Load, parse, run};

#[tokio::main]
async fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1), std::env::var("REDIS_URL").ok()) {
        Ok(Command::Run(options)) => options,
        Ok(Command::Help) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(2, &error),
    };
    let load = match Load::new(options.trace.as_deref()) {
        Ok(load) => load,
        Err(error) => return fail(2, &error),
    };
    match run(&load, options.redis.as_deref(), !options.json).await {
        Ok(report) if options.json => println!("{}", report.json()),
        Ok(report) => print!("{}", report.table()),
        Err(error) => return fail(1, &*error),
    }
    ExitCode::SUCCESS
}

/// Says what went wrong, and why as far as the error knows more than it says.
fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    let mut said = error.to_string();
    eprintln!("quickstart: {said}");
    for cause in std::iter::successors(error.source(), |cause| cause.source()) {
        let cause = cause.to_string();
        if !said.contains(&cause) {
            eprintln!("  because: {cause}");
            said = cause;
        }
    }
    ExitCode::from(code)
}
