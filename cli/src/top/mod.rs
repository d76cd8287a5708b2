//! `top`: all buckets of a prefix, live. This file owns the terminal and the clock: it looks at the
//! server, hands what it sees and the keys to the [`App`], and draws.

mod app;
mod bars;
mod detail;
mod list;
mod rates;

use std::{
    io::{self, IsTerminal},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::StreamExt;
use ratatui::DefaultTerminal;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tower_throttle::store::{BucketKey, StoreError};

use self::app::{App, Look, Todo};
use crate::{failure::Failure, nodes::Nodes, server::Server, words};

/// A server that takes longer than this to answer is told to be silent.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// New buckets are searched for this often, or more seldom: a search takes no more than a
/// twentieth of the time.
const SEARCH_EVERY: Duration = Duration::from_secs(2);
const SEARCH_SHARE: u32 = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often to look
    #[arg(long, default_value = "500ms", value_parser = words::parse_duration)]
    interval: Duration,
    /// Begin with the buckets whose names contain this
    #[arg(long, default_value = "")]
    filter: String,
    #[command(flatten)]
    server: Server,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let instead =
            "`top` needs a terminal; for programs there are `status --json` and `watch --json`";
        return Err(Failure::Other(instead.into()));
    }
    let Arguments { interval, filter, server } = arguments;
    let mut looker = Looker::new(server.nodes().await?);
    let mut app = App::new(server.place(), server.prefix(), filter);
    // What the user may not do is told before the screen is taken.
    app.see(looker.look(None).await?);
    let mut terminal = ratatui::try_init()?;
    let result = live(&mut terminal, &mut app, &mut looker, interval).await;
    ratatui::restore();
    Ok(result?)
}

async fn live(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    looker: &mut Looker,
    every: Duration,
) -> io::Result<()> {
    let mut keys = EventStream::new();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once, and a look was just taken.
    ticks.tick().await;
    let mut todo = Todo::Nothing;
    loop {
        terminal.draw(|frame| app.draw(frame))?;
        if todo == Todo::Look {
            todo = look(terminal, app, looker, &mut keys).await?;
        } else {
            todo = tokio::select! {
                _ = ticks.tick() => if app.is_frozen() { Todo::Nothing } else { Todo::Look },
                event = keys.next() => pressed(app, event)?,
            };
        }
        if todo == Todo::Quit {
            return Ok(());
        }
    }
}

/// Looks at the server, while keys go on to be heard. Returns what they asked for.
async fn look(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    looker: &mut Looker,
    keys: &mut EventStream,
) -> io::Result<Todo> {
    let mut look = pin!(timeout(ANSWER_WITHIN, looker.look(app.opened())));
    let mut todo = Todo::Nothing;
    loop {
        tokio::select! {
            seen = &mut look => {
                match seen {
                    Ok(Ok(look)) => app.see(look),
                    Ok(Err(error)) => app.miss(error.to_string()),
                    Err(_) => app.miss("the server does not answer".to_owned()),
                }
                return Ok(todo);
            }
            event = keys.next() => match pressed(app, event)? {
                Todo::Quit => return Ok(Todo::Quit),
                Todo::Look => todo = Todo::Look,
                Todo::Nothing => {}
            },
        }
        terminal.draw(|frame| app.draw(frame))?;
    }
}

/// A key was pressed, or something else happened to the terminal.
fn pressed(app: &mut App, event: Option<io::Result<Event>>) -> io::Result<Todo> {
    match event.transpose()? {
        Some(Event::Key(key)) if key.kind != KeyEventKind::Release => Ok(app.press(key)),
        Some(_) => Ok(Todo::Nothing),
        None => Ok(Todo::Quit),
    }
}

/// Looks at all buckets, and closely at one.
struct Looker {
    nodes: Nodes,
    keys: Vec<Arc<BucketKey>>,
    search_at: Instant,
}

impl Looker {
    fn new(nodes: Nodes) -> Self {
        Self { nodes, keys: Vec::new(), search_at: Instant::now() }
    }

    async fn look(&mut self, opened: Option<Arc<BucketKey>>) -> Result<Look, StoreError> {
        let now = Instant::now();
        if now >= self.search_at {
            self.keys = self.nodes.buckets().await?;
            self.search_at = now + (now.elapsed() * SEARCH_SHARE).max(SEARCH_EVERY);
        }
        let buckets = self.nodes.look(&self.keys).await?.into_iter().flatten().collect();
        let close = match opened {
            Some(key) => Some((key.clone(), self.nodes.look_closely(&key).await?)),
            None => None,
        };
        Ok(Look { buckets, close })
    }
}
