//! Several processes share one API key: the provider sees one client that keeps its limits.
//!
//!     cargo run --example fleet
//!
//! Starts a provider on loopback that enforces its limits without slack, a Redis (or Valkey) server
//! of its own, and four workers: processes that know nothing of each other but the address of that
//! server. Each makes its share of a few hundred calls.

mod server;

use std::{env, process::ExitCode};

use quickstart_example::{LIMITS, Load, Provider, Shared, Work, work};
use tokio::process::Command;
use tower_throttle::BoxError;

use self::server::Server;

const WORKERS: usize = 4;
/// Says to a process of this program which of the workers it is.
const WORKER: &str = "FLEET_WORKER";
const REDIS: &str = "FLEET_REDIS";
const PROVIDER: &str = "FLEET_PROVIDER";
const PREFIX: &str = "fleet";

#[tokio::main]
async fn main() -> ExitCode {
    let result = match env::var(WORKER) {
        Ok(number) => worker(&number).await,
        Err(_) => fleet().await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One of the processes: makes its share of the calls and prints what became of them.
async fn worker(number: &str) -> Result<(), BoxError> {
    let load = Load::new(None)?.share(number.parse()?, WORKERS);
    let shared = Shared { url: env::var(REDIS)?, prefix: PREFIX.into() };
    let work = work(&load, env::var(PROVIDER)?, &shared).await?;
    println!("{}", work.json());
    Ok(())
}

/// All of them.
async fn fleet() -> Result<(), BoxError> {
    let server = Server::start()?;
    let provider = Provider::start(LIMITS)?;
    eprintln!("{WORKERS} processes share {} ...", server.url());

    let workers: Vec<_> =
        (0..WORKERS).map(|number| spawn(number, &server, &provider)).collect::<Result<_, _>>()?;
    println!("           calls     ok   reserved     used   refunded  seconds");
    let mut fleet = Work::default();
    for (number, worker) in workers.into_iter().enumerate() {
        let output = worker.await??;
        if !output.status.success() {
            return Err(format!("worker {number} has failed").into());
        }
        let work = Work::from_json(&serde_json::from_slice(&output.stdout)?)
            .ok_or("a worker printed no report")?;
        println!("worker {number}  {}", work.row());
        fleet.add(&work);
    }
    let counts = provider.counts();
    println!("fleet     {}", fleet.row());
    println!("\n429s: {}; utilisation: {:.2}", counts.rejected, fleet.utilisation(counts.tokens));
    match (counts.rejected, fleet.ok == fleet.calls) {
        (0, true) => Ok(()),
        (0, false) => Err("some calls were not answered".into()),
        (rejected, _) => Err(format!("the provider has refused {rejected} calls").into()),
    }
}

type Output = tokio::task::JoinHandle<std::io::Result<std::process::Output>>;

fn spawn(number: usize, server: &Server, provider: &Provider) -> Result<Output, BoxError> {
    let mut command = Command::new(env::current_exe()?);
    command.env(WORKER, number.to_string()).env(REDIS, server.url()).env(PROVIDER, provider.url());
    let output = command.stderr(std::process::Stdio::inherit()).kill_on_drop(true).output();
    Ok(tokio::spawn(output))
}
