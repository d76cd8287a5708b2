//! `simulate`: what limits make of a trace, by one strategy or by several.

mod chart;
mod listen;
mod options;
mod results;

use std::{error::Error, fs, io::Write, net::SocketAddr, path::PathBuf, time::Duration};

use tower_throttle::{
    file::LimitsFile,
    simulate::{Simulation, SimulationError, SimulationReport, Strategy, Trace, TraceShape},
};

use self::{
    options::{Part, ProviderKind, When},
    results::Results,
};
use crate::failure::Failure;

/// Where calls come from: one of these options is needed.
const CALLS: [&str; 3] = ["trace", "synthetic", "listen"];

/// What is about the calls, and means nothing where none are made.
const OF_CALLS: [&str; 11] = [
    "at_once", "class", "compare", "headers", "jitter", "json", "others", "share", "strategy",
    "svg", "workers",
];

/// No more calls are made up.
const MOST_CALLS: f64 = 1e7;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("calls").required(true).args(CALLS))]
pub(crate) struct Arguments {
    /// A limits file, in TOML or JSON: what is declared, and what the provider enforces
    #[arg(long)]
    limits: PathBuf,
    /// The bucket, if the file has several
    #[arg(long)]
    bucket: Option<String>,
    /// A CSV file with the columns arrival (TIMESTAMP), input (ContextTokens), output
    /// (GeneratedTokens), and if they matter max_tokens, class, share
    #[arg(long, value_name = "CSV")]
    trace: Option<PathBuf>,
    /// Make calls up, like those of a chat service
    #[arg(long)]
    synthetic: bool,
    /// Make no calls: be the provider, over HTTP and in real time, until the process is ended.
    /// Requests are as OpenAI's; answers take a fifth of their max_tokens on the average
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = OF_CALLS)]
    listen: Option<SocketAddr>,
    /// How many calls are made up for each minute, on the average
    #[arg(long, value_name = "N", default_value_t = 332.0, requires = "synthetic")]
    calls_per_minute: f64,
    /// For how many minutes calls are made up
    #[arg(long, value_name = "N", default_value_t = 60.0, requires = "synthetic")]
    minutes: f64,
    /// Let all calls come at once
    #[arg(long)]
    at_once: bool,
    /// Give a part of the calls a class, such as batch=0.3; may be repeated
    #[arg(long, value_name = "NAME=PART")]
    class: Vec<Part>,
    /// Give a part of the calls a share, such as tenant-7=0.5; may be repeated
    #[arg(long, value_name = "NAME=PART")]
    share: Vec<Part>,
    /// How many callers there are; each makes one call at a time
    #[arg(long, value_name = "N", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
    /// The max_tokens of calls that have none of their own
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    max_tokens: u64,
    /// The seed of what is left to chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How the provider looks at a window
    #[arg(long, value_enum, default_value_t = ProviderKind::Declared)]
    provider: ProviderKind,
    /// When the provider counts tokens
    #[arg(long, value_enum)]
    counting: Option<When>,
    /// How long the provider takes until the first token
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = options::latency)]
    first_token: Duration,
    /// How long the provider takes for each token
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = options::latency)]
    per_token: Duration,
    /// By how much the way to the provider is longer at most
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = options::latency)]
    jitter: Duration,
    /// The part of the limits that other users of the key take, from 0 to 1
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = options::part)]
    others: f64,
    /// Let responses tell what is left, in OpenAI's headers
    #[arg(long)]
    headers: bool,
    /// How calls are made
    #[arg(long, value_enum, default_value_t = options::Way::Bound)]
    strategy: options::Way,
    /// Compare all strategies, on the same calls and the same seed
    #[arg(long, conflicts_with = "strategy")]
    compare: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Draw a chart into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let simulation = simulation(arguments)?;
    if let Some(address) = arguments.listen {
        let provider = simulation.provider().clone();
        return listen::run(address, provider, arguments.max_tokens, arguments.seed).await;
    }
    let strategies = match arguments.compare {
        true => Strategy::ALL.to_vec(),
        false => vec![arguments.strategy.strategy()],
    };
    let reports = strategies.iter().map(|strategy| report(&simulation, *strategy));
    let reports = reports.collect::<Result<Vec<_>, _>>()?;
    // What twice the tier brings is asked of this crate where it is among those compared.
    let asked = if arguments.compare { Strategy::Bound } else { arguments.strategy.strategy() };
    let doubled = report(&simulation.doubled(), asked)?;
    let results = Results { simulation: &simulation, reports: &reports, doubled: &doubled };
    if let Some(path) = &arguments.svg {
        let drawn = chart::draw(&simulation, &reports).map_err(Failure::other)?;
        let failed = |error| Failure::Other(format!("{}: {error}", path.display()));
        fs::write(path, drawn).map_err(failed)?;
    }
    let text = if arguments.json { results.json() } else { results.table() };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn report(simulation: &Simulation, strategy: Strategy) -> Result<SimulationReport, Failure> {
    simulation.run(strategy).map_err(failure)
}

/// What is simulated, by the command line.
fn simulation(arguments: &Arguments) -> Result<Simulation, Failure> {
    let file = LimitsFile::read(&arguments.limits)?;
    let bucket = bucket(arguments, &file)?;
    let trace = trace(arguments)?;
    let simulation = Simulation::new(file.limits(), &bucket, trace).map_err(failure)?;
    let provider = simulation.provider().clone();
    let mut provider = provider
        .latency(arguments.first_token, arguments.per_token)
        .network(Duration::from_millis(20), arguments.jitter)
        .others(arguments.others);
    if let Some(enforcement) = arguments.provider.enforcement() {
        provider = provider.enforced(enforcement);
    }
    if let Some(when) = arguments.counting {
        provider = provider.counting(when.counting());
    }
    if arguments.headers {
        provider = provider.tell_what_is_left();
    }
    Ok(simulation
        .provided_by(provider)
        .workers(arguments.workers as usize)
        .max_tokens(arguments.max_tokens)
        .seed(arguments.seed))
}

fn bucket(arguments: &Arguments, file: &LimitsFile) -> Result<String, Failure> {
    if let Some(bucket) = &arguments.bucket {
        return Ok(bucket.clone());
    }
    let limiter = tower_throttle::Limiter::new(file.limits())?;
    let buckets = limiter.buckets();
    match &buckets[..] {
        [only] => Ok(only.name.to_string()),
        _ => {
            let names: Vec<_> = buckets.iter().map(|bucket| &*bucket.name).collect();
            let names = names.join(", ");
            Err(Failure::Usage(format!("say with --bucket which of them is meant: {names}")))
        }
    }
}

fn trace(arguments: &Arguments) -> Result<Trace, Failure> {
    let trace = match &arguments.trace {
        None if arguments.listen.is_some() => Trace::new([]),
        Some(path) => Trace::from_file(path).map_err(|error| {
            let source = error.source();
            let source = source.map_or(String::new(), |source| format!(": {source}"));
            Failure::Other(format!("{error}{source}"))
        })?,
        None => {
            let (minutes, rate) = (arguments.minutes, arguments.calls_per_minute);
            if !(0.0..=100_000.0).contains(&minutes) {
                return Err(Failure::Usage("--minutes must be from 0 to 100000".into()));
            }
            if !(rate > 0.0 && rate * minutes <= MOST_CALLS) {
                let must = "--calls-per-minute must be above 0, and make ten million calls at most";
                return Err(Failure::Usage(must.into()));
            }
            let duration = Duration::from_secs_f64(60.0 * minutes);
            TraceShape::new().calls_per_minute(rate).duration(duration).trace(arguments.seed)
        }
    };
    let trace = trace
        .with_classes(&options::parts(&arguments.class)?, arguments.seed)
        .with_shares(&options::parts(&arguments.share)?, arguments.seed);
    Ok(if arguments.at_once { trace.at_once() } else { trace })
}

/// An error with its source, which says what is wrong with limits.
fn failure(error: SimulationError) -> Failure {
    match error {
        SimulationError::Limits(error) => error.into(),
        SimulationError::NoBucket(_) | SimulationError::UnknownClass(_) => {
            Failure::Unknown(error.to_string())
        }
        SimulationError::NothingAdmitted(_) | SimulationError::TooLarge { .. } => {
            Failure::Limits(error.to_string())
        }
        _ => Failure::other(error),
    }
}
