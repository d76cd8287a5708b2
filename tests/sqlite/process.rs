//! Processes of a test, and their directory.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// The path of the file, for a process that a test started.
const FILE: &str = "TOWER_THROTTLE_SQLITE";

/// What a process writes before each line that is for its test: the harness writes too.
const MARK: &str = "> ";

/// A file in a directory of its own, which is removed with this.
pub(crate) struct TempFile {
    directory: PathBuf,
}

impl TempFile {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-throttle-{}-{count}", std::process::id());
        let directory = env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("a directory can be made");
        Self { directory }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join("limits.db")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A process that runs one of the ignored tests. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    /// Runs the test of this path on `file`.
    pub(crate) fn start(test: &str, file: &Path) -> Self {
        let program = env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
            .env(FILE, file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be executed");
        let lines = BufReader::new(child.stdout.take().expect("its output is piped"));
        Self { child, lines }
    }

    /// The next line that it says; nothing once it has ended.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            // A process that was killed may leave half a line.
            if self.lines.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(at) = line.find(MARK)
                && line.ends_with('\n')
            {
                return Some(line[at + MARK.len()..].trim_end().to_owned());
            }
        }
    }

    /// All that it still says.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.line()).collect()
    }

    /// Ends it at once, wherever it is: SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In such a process: the path of the file.
pub(crate) fn file() -> PathBuf {
    env::var_os(FILE).expect("only a test starts this").into()
}

/// In such a process: says a line to the test.
pub(crate) fn say(line: impl std::fmt::Display) {
    println!("{MARK}{line}");
}
