//! `pause`, `resume` and `reset`: what changes a bucket for all processes that share it.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    time::Duration,
};

use crate::{failure::Failure, server::Bucket, words};

/// The longest pause: a week, as in the library.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

#[derive(Debug, clap::Args)]
pub(crate) struct PauseArguments {
    #[command(flatten)]
    bucket: Bucket,
    /// For how long: 30s, 5m, 2h; a week at most. A pause never shortens another
    #[arg(value_parser = words::parse_duration)]
    duration: Duration,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArguments {
    #[command(flatten)]
    bucket: Bucket,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ResetArguments {
    #[command(flatten)]
    bucket: Bucket,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn pause(arguments: PauseArguments) -> Result<(), Failure> {
    let PauseArguments { bucket, duration } = arguments;
    if duration > LONGEST {
        return Err(Failure::Usage("a pause lasts for a week at most".into()));
    }
    let mut nodes = bucket.server().nodes().await?;
    let key = bucket.find(&mut nodes).await?;
    if !nodes.store_of(&key).pause(&key, duration).await? {
        return Err(bucket.unknown());
    }
    let until = match &nodes.look(&[key]).await?[..] {
        [Some(now)] => now.paused_until,
        _ => None,
    };
    let until = until.map(|until| format!(" until {}", words::time(until))).unwrap_or_default();
    println!("{} is paused{until}", words::plain(bucket.name()));
    Ok(())
}

pub(crate) async fn resume(arguments: ResumeArguments) -> Result<(), Failure> {
    let ResumeArguments { bucket } = arguments;
    let mut nodes = bucket.server().nodes().await?;
    let key = bucket.find(&mut nodes).await?;
    if !nodes.store_of(&key).resume(&key).await? {
        return Err(bucket.unknown());
    }
    println!("{} goes on", words::plain(bucket.name()));
    Ok(())
}

pub(crate) async fn reset(arguments: ResetArguments) -> Result<(), Failure> {
    let ResetArguments { bucket, yes } = arguments;
    let mut nodes = bucket.server().nodes().await?;
    let key = bucket.find(&mut nodes).await?;
    if !yes {
        let looks = nodes.look(std::slice::from_ref(&key)).await?;
        let waiting = looks.into_iter().flatten().next().map_or(0, |bucket| bucket.waiting);
        ask(&format!(
            "Forget what `{}` below the prefix `{}` on {} has charged, held and withheld? {} \
             there, and its limits are open again at once.",
            words::plain(bucket.name()),
            bucket.server().prefix(),
            bucket.server().place(),
            match waiting {
                1 => "1 demand waits".to_owned(),
                _ => format!("{} demands wait", words::grouped(waiting)),
            }
        ))?;
    }
    if !nodes.store_of(&key).reset(&key).await? {
        return Err(bucket.unknown());
    }
    println!("{} is as if it was never used", words::plain(bucket.name()));
    Ok(())
}

/// Asks at the terminal. Where there is none, nothing is confirmed.
fn ask(question: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        eprintln!("There is no terminal to ask at: confirm with --yes.");
        return Err(Failure::Unconfirmed);
    }
    print!("{question} [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Unconfirmed),
    }
}
