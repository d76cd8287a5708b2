//! A Redis or Valkey server that lives as long as this program.

use std::{
    env, io,
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tower_throttle::BoxError;

const STARTS_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    port: u16,
}

impl Server {
    /// Starts what `REDIS_SERVER` names, `redis-server` or `valkey-server`, on a free port.
    pub(crate) fn start() -> Result<Self, BoxError> {
        let named = env::var("REDIS_SERVER").ok();
        let programs =
            named.as_deref().map_or(vec!["redis-server", "valkey-server"], |named| vec![named]);
        for program in programs {
            let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            let arguments = [
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ];
            match Command::new(program).args(arguments).stdout(Stdio::null()).spawn() {
                Ok(process) => return Self { process, port }.ready(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("{program}: {error}").into()),
            }
        }
        Err("there is no redis-server and no valkey-server here: install one of them \
             (Debian: apt-get install redis-server), or set REDIS_SERVER to its path"
            .into())
    }

    fn ready(mut self) -> Result<Self, BoxError> {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("the Redis server has ended with {status}").into());
            }
            if started.elapsed() > STARTS_WITHIN {
                return Err(format!("the Redis server is not there after {STARTS_WITHIN:?}").into());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(self)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
