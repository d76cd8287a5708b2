//! A TCP proxy whose connections can be cut and restored.

use std::{
    io,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Passes bytes between its clients and a server, unless it is cut.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

struct State {
    target: u16,
    is_cut: AtomicBool,
    has_ended: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// A proxy for the server on this port of the machine.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(State {
            target,
            is_cut: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        let accepting = state.clone();
        thread::spawn(move || accepting.accept(&listener));
        Self { port, state }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Closes all connections, and every new one as soon as it is made.
    pub fn cut(&self) {
        self.state.cut();
    }

    /// Ends [`cut`](Self::cut) for new connections.
    pub fn restore(&self) {
        self.state.is_cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.has_ended.store(true, Ordering::SeqCst);
        self.state.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl State {
    fn streams(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        let mut streams = self.streams();
        self.is_cut.store(true, Ordering::SeqCst);
        for stream in streams.drain(..) {
            // The other side may have closed it before.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().flatten() {
            if self.has_ended.load(Ordering::SeqCst) {
                return;
            }
            if let Err(error) = self.pass(client) {
                eprintln!("proxy: {error}");
            }
        }
    }

    fn pass(&self, client: TcpStream) -> io::Result<()> {
        // The lock is held so that no connection slips through while `cut` closes them.
        let mut streams = self.streams();
        if self.is_cut.load(Ordering::SeqCst) {
            return Ok(());
        }
        let server = TcpStream::connect(("127.0.0.1", self.target))?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        streams.push(client.try_clone()?);
        streams.push(server.try_clone()?);
        copy(client.try_clone()?, server.try_clone()?);
        copy(server, client);
        Ok(())
    }
}

/// Copies until one side ends, which ends both.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}
