//! `serve`: a service on loopback that throttles the calls of any client to which one can give a
//! base URL. This file reads the options, and sees to the start and the end.

mod body;
mod caller;
mod errors;
mod forward;
mod lanes;
mod listen;
mod log;
mod monitor;
mod service;
mod signals;
mod upstream;

use std::{
    io::{self, Write},
    net::SocketAddr,
    num::NonZeroU16,
    path::PathBuf,
    process,
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, time::timeout};
use tower_throttle::{Limiter, file::LimitsFile};

use self::{
    lanes::Lanes, listen::Connections, log::Log, monitor::Recorder, service::Gateway,
    signals::Signals, upstream::Upstream,
};
use crate::{check::in_file, failure::Failure, nodes::shared_store, words};

/// For the last settles to reach the store.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A limits file, in TOML or JSON, with a table of upstreams
    #[arg(long)]
    limits: PathBuf,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4700")]
    listen: SocketAddr,
    /// Listen on other addresses than loopback, too. Keys then pass over the network unencrypted,
    /// and all that reaches the address uses the limits
    #[arg(long)]
    listen_anywhere: bool,
    /// Redis or Valkey, where other processes share the limits: as for other commands. Without it,
    /// and without the variable, the limits are those of this process alone
    #[arg(long = "redis", value_name = "URL", env = "REDIS_URL", hide_env_values = true)]
    url: Option<String>,
    /// What the keys begin with: that of `RedisStore::prefix`
    #[arg(long, default_value = "throttle")]
    prefix: String,
    /// How long calls may go on after a signal to end
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = words::parse_duration)]
    grace: Duration,
    /// How long the body of a request may be that is read for its model and tokens, in MiB
    #[arg(long, value_name = "MIB", default_value = "64")]
    max_body_mib: NonZeroU16,
    /// Tell of each call
    #[arg(long, short)]
    verbose: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    if !arguments.listen.ip().is_loopback() && !arguments.listen_anywhere {
        return Err(Failure::Usage(format!(
            "{} is no loopback address: API keys would pass over the network unencrypted, and \
             all that reaches it would use your limits; say --listen-anywhere if it is \
             protected otherwise",
            arguments.listen
        )));
    }
    let log = Log::new(arguments.verbose);
    let recorder = Recorder::install()?;
    let file = LimitsFile::read(&arguments.limits)?;
    let limiter = limiter(&arguments, &file, &recorder, log).await?;
    let upstreams = upstreams(&arguments, &file, &limiter, log)?;
    allow_many_connections();
    let mut signals = Signals::new()?;
    let listener = TcpListener::bind(arguments.listen).await.map_err(|error| {
        Failure::Address(format!("cannot listen on {}: {error}", arguments.listen))
    })?;
    announce(&arguments, listener.local_addr()?, &upstreams);

    let longest_body = usize::from(arguments.max_body_mib.get()) << 20;
    let gateway = Arc::new(Gateway::new(upstreams, limiter, recorder, longest_body, log));
    let connections = Connections::new(gateway.clone());
    tokio::select! {
        never = connections.accept(&listener) => match never {},
        never = gateway.tidy() => match never {},
        _ = signals.next() => {}
    }
    // Nothing more is accepted: what is not accepted yet is refused.
    drop(listener);
    tokio::select! {
        result = end(&gateway, &connections, arguments.grace) => result,
        code = signals.next() => process::exit(code),
    }
}

/// Lets calls end, and what they used reach the store.
async fn end(gateway: &Gateway, connections: &Connections, grace: Duration) -> Result<(), Failure> {
    if !connections.end(grace).await {
        let grace = words::duration(grace);
        gateway.warn(format_args!("calls were cut off that had not ended within {grace}"));
    }
    // What a call used is enqueued by now.
    timeout(SETTLE_WITHIN, gateway.close()).await.map_err(|_| {
        let message =
            "the store did not take the last settles: these calls keep what they reserved";
        Failure::Unavailable(message.into())
    })
}

async fn limiter(
    arguments: &Arguments,
    file: &LimitsFile,
    recorder: &Recorder,
    log: Log,
) -> Result<Limiter, Failure> {
    let builder = file.limiter().observer(recorder.observer()).observer(log);
    let builder = match &arguments.url {
        Some(url) => builder.store(shared_store(url, &arguments.prefix).await?),
        None => builder,
    };
    builder.build().map_err(|error| in_file(&arguments.limits, error))
}

fn upstreams(
    arguments: &Arguments,
    file: &LimitsFile,
    limiter: &Limiter,
    log: Log,
) -> Result<Vec<Upstream>, Failure> {
    let declared = file.upstreams();
    if declared.is_empty() {
        let reason = "it names no upstreams: add [upstreams.openai] with its `url`, say";
        return Err(in_file(&arguments.limits, reason));
    }
    let make = upstream::maker(upstream::roots(declared)?).map_err(Failure::other)?;
    let upstreams = declared.iter().map(|declared| {
        let lanes = Lanes::new(make.clone());
        Upstream::new(declared, file, limiter, lanes, log)
    });
    Ok(upstreams.collect())
}

/// Says where it listens, where calls go, and where the limits are.
fn announce(arguments: &Arguments, address: SocketAddr, upstreams: &[Upstream]) {
    let to = upstreams.iter().map(|upstream| format!("/{} to {}", upstream.name(), upstream.url()));
    let to: Vec<_> = to.collect();
    let store = match &arguments.url {
        Some(url) => format!("on {}", words::plain(words::place(url))),
        None => "of this process".to_owned(),
    };
    // What reads it may be gone.
    let _ =
        writeln!(io::stdout(), "listening on http://{address}: {}; limits {store}", to.join(", "));
}

/// A stream takes two files, and systems allow a thousand by default.
fn allow_many_connections() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // It goes on with what there is.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}
