//! Connections of clients, from the first to the last.

use std::{convert::Infallible, io, pin::pin, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};

use super::service::Gateway;

/// After connections could not be accepted, as where too many are open.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// For the last words to calls that are cut off.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Each ends after the call that it is at.
    Draining,
    /// All end now.
    Cut,
}

/// Accepts connections, and ends them.
pub(super) struct Connections {
    gateway: Arc<Gateway>,
    phase: watch::Sender<Phase>,
}

impl Connections {
    pub(super) fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway, phase: watch::Sender::new(Phase::Serving) }
    }

    /// Accepts connections for as long as it is polled.
    pub(super) async fn accept(&self, listener: &TcpListener) -> Infallible {
        let mut is_short = false;
        loop {
            match listener.accept().await {
                Ok((connection, _)) => {
                    is_short = false;
                    tokio::spawn(serve(connection, self.gateway.clone(), self.phase.subscribe()));
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_short, true) && is_lasting(&error) {
                        let line = format_args!("no connection can be accepted: {error}");
                        self.gateway.warn(line);
                    }
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    /// Lets calls in flight end within this time, and cuts the others off. Returns true if none
    /// was.
    pub(super) async fn end(&self, grace: Duration) -> bool {
        self.phase.send_replace(Phase::Draining);
        if timeout(grace, self.phase.closed()).await.is_ok() {
            return true;
        }
        // Those that wait are told so, and their connections end.
        let last_words = async {
            self.gateway.close().await;
            self.phase.closed().await;
        };
        let _ = timeout(LAST_WORDS, last_words).await;
        self.phase.send_replace(Phase::Cut);
        self.phase.closed().await;
        false
    }
}

/// False for what is only about the one connection.
fn is_lasting(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Serves the requests of one client.
async fn serve(connection: TcpStream, gateway: Arc<Gateway>, mut phase: watch::Receiver<Phase>) {
    // Without it, pieces of a stream are held back. It is only slower then.
    let _ = connection.set_nodelay(true);
    let service = service_fn(|request| {
        let response = gateway.clone().respond(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    let mut http = http1::Builder::new();
    let http = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(connection), service);
    let mut http = pin!(http);
    loop {
        tokio::select! {
            // Clients may hang up at any time.
            _ = http.as_mut() => return,
            changed = phase.changed() => {
                let is_over = changed.is_err() || *phase.borrow_and_update() == Phase::Cut;
                if is_over {
                    return;
                }
                http.as_mut().graceful_shutdown();
            }
        }
    }
}
