//! A proxy before a server, which cuts replies or goes silent when it is told to.

use std::sync::{
    Arc,
    atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
};

/// Forwards connections to a server on this machine.
pub(super) struct Proxy {
    port: u16,
    state: Arc<State>,
}

struct State {
    server: AtomicU16,
    /// How many connections were accepted.
    accepted: AtomicUsize,
    /// Connections with a lower number are silent.
    silent: AtomicUsize,
    /// How much of the next reply arrives before the connection breaks.
    cut: AtomicUsize,
}

impl Proxy {
    pub(super) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = State {
            server: AtomicU16::new(server),
            accepted: AtomicUsize::new(0),
            silent: AtomicUsize::new(0),
            cut: AtomicUsize::new(usize::MAX),
        };
        let state = Arc::new(state);
        tokio::spawn(accept(listener, state.clone()));
        Self { port, state }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Breaks the connection after so many bytes of the next reply.
    pub(super) fn cut_next_reply(&self, after: usize) {
        self.state.cut.store(after, SeqCst);
    }

    /// Lets the present connections stay open, but nothing comes through any more.
    pub(super) fn silence(&self) {
        self.state.silent.store(self.accepted(), SeqCst);
    }

    /// Leads new connections to another server.
    pub(super) fn lead_to(&self, server: u16) {
        self.state.server.store(server, SeqCst);
    }

    /// How many connections were accepted so far.
    pub(super) fn accepted(&self) -> usize {
        self.state.accepted.load(SeqCst)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let number = state.accepted.fetch_add(1, SeqCst);
        tokio::spawn(forward(client, number, state.clone()));
    }
}

async fn forward(client: TcpStream, number: usize, state: Arc<State>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", state.server.load(SeqCst))).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let replies = async {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            if number < state.silent.load(SeqCst) {
                std::future::pending::<()>().await;
            }
            let cut = state.cut.swap(usize::MAX, SeqCst);
            let arrives = &buffer[..length.min(cut)];
            if to_client.write_all(arrives).await.is_err() || cut != usize::MAX {
                return;
            }
        }
    };
    tokio::select! {
        () = replies => {}
        _ = copy(&mut from_client, &mut to_server) => {}
    }
}
