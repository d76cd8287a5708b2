//! A Redis or Valkey server on a free port, for as long as the value lives.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The longest that a healthy machine takes to start a server.
const START_WITHIN: Duration = Duration::from_secs(20);

pub struct RedisServer {
    binary: PathBuf,
    port: u16,
    directory: PathBuf,
    arguments: Vec<String>,
    password: Option<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts `$REDIS_SERVER`, else the `redis-server` or `valkey-server` of the path.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more arguments, as on the command line.
    pub fn start_with(arguments: &[&str]) -> Self {
        let binary = binary();
        let password = arguments.iter().position(|&argument| argument == "--requirepass");
        let mut server = Self {
            binary,
            port: 0,
            directory: new_directory(),
            password: password.and_then(|at| arguments.get(at + 1)).map(ToString::to_string),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            child: None,
        };
        // Another process may take the port between its choice and its use.
        for _ in 0..20 {
            server.port = free_port();
            if server.launch() {
                return server;
            }
        }
        panic!("{} does not start: {}", server.binary.display(), server.log());
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}/", self.port),
            None => format!("redis://127.0.0.1:{}/", self.port),
        }
    }

    /// A plain connection for a test's own commands.
    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url())
            .and_then(|client| client.get_connection_with_timeout(Duration::from_secs(5)))
            .expect("the server accepts connections")
    }

    /// Sends one command and returns its reply.
    pub fn command<T: redis::FromRedisValue>(&self, line: &[&str]) -> T {
        let mut command = redis::cmd(line[0]);
        command.arg(&line[1..]);
        command.query(&mut self.connection()).expect("the command is accepted")
    }

    /// Ends the server as a crash would.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A process that has ended already cannot be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the server again, on the same port and with the same arguments. What it had not saved
    /// is gone.
    pub fn restart(&mut self) {
        self.stop();
        assert!(self.launch(), "{} does not start again: {}", self.binary.display(), self.log());
    }

    /// Makes the server hang: it neither replies nor closes connections.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Ends [`pause`](Self::pause).
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("the server runs").id();
        let status = Command::new("kill").args([format!("-{name}"), id.to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name} {id}");
    }

    /// Returns true once the server is ready, false if its port was taken.
    fn launch(&mut self) -> bool {
        let log = fs::File::create(self.directory.join("log")).expect("a log file");
        let child = Command::new(&self.binary)
            .current_dir(&self.directory)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &self.port.to_string()])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .stdout(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        self.child = Some(child);

        let deadline = Instant::now() + START_WITHIN;
        while Instant::now() < deadline {
            let child = self.child.as_mut().expect("just started");
            if child.try_wait().expect("the state of a child").is_some() {
                return false;
            }
            if self.is_ready() {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("{} is not ready in time: {}", self.binary.display(), self.log());
    }

    /// Whether it is this very process that answers, and not another one on its port.
    fn is_ready(&self) -> bool {
        let info = redis::Client::open(self.url())
            .and_then(|client| client.get_connection_with_timeout(Duration::from_secs(1)))
            .and_then(|mut connection| {
                redis::cmd("INFO").arg("server").query::<String>(&mut connection)
            });
        let id = self.child.as_ref().map_or(0, Child::id);
        info.is_ok_and(|info| info.lines().any(|line| line == format!("process_id:{id}")))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn binary() -> PathBuf {
    if let Some(binary) = env::var_os("REDIS_SERVER") {
        return binary.into();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = ["redis-server", "valkey-server"]
        .iter()
        .flat_map(|name| env::split_paths(&path).map(move |directory| directory.join(name)))
        .find(|binary| binary.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "this needs a Redis (6.2 or later) or Valkey server: install redis-server or \
             valkey-server with the system's package manager (`apt install redis-server`, `brew \
             install redis`), or name a binary in REDIS_SERVER"
        )
    })
}

fn free_port() -> u16 {
    // A cluster's nodes also use their port plus 10000.
    loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        if port < 55_000 {
            return port;
        }
    }
}

fn new_directory() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name =
        format!("throttle-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let directory = Path::new(&env::temp_dir()).join(name);
    fs::create_dir_all(&directory).expect("a directory for the server");
    directory
}
