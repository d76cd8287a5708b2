//! `tower-throttle` on both sides of axum: a gateway that meters its tenants, handlers that call a
//! provider within its limits, and limits by route.

pub mod client;
pub mod gateway;
pub mod routes;

use std::{future::Future, io, net::SocketAddr};

use axum::Router;
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{JoinError, JoinHandle},
};

/// A server on loopback.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Serves a router on a free port.
    ///
    /// # Errors
    /// When the system grants none.
    pub async fn start(router: Router) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let stopped = async { drop(stopped.await) };
        let task = tokio::spawn(
            axum::serve(listener, router).with_graceful_shutdown(stopped).into_future(),
        );
        Ok(Self { address, stop, task })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where something of it is.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Takes no more requests, and ends when those it has are answered to the last byte.
    pub fn stop(self) -> impl Future<Output = Result<io::Result<()>, JoinError>> {
        // It may have ended by itself.
        let _ = self.stop.send(());
        self.task
    }
}
