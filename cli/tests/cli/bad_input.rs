//! What is wrong is told in a line, with an exit code, and without what is secret.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

use crate::{
    program::{Ended, program, run, run_at},
    support::RedisServer,
};

const SECRET: &str = "hunter2";

/// Every command that asks a server.
const COMMANDS: [&[&str]; 6] = [
    &["status", "b"],
    &["watch"],
    &["pause", "b", "1s"],
    &["resume", "b"],
    &["reset", "b", "--yes"],
    &["watch", "--json"],
];

/// Each command ends with this code and one line that contains this.
fn all_end(url: &str, code: i32, message: &str) {
    for command in COMMANDS {
        let Ended { code: ended, out, err } = run_at(url, command);
        assert_eq!((ended, out.as_str()), (code, ""), "{command:?}: {err}");
        assert!(err.starts_with("tower-throttle: ") && err.contains(message), "{command:?}: {err}");
        assert!(!err.contains(SECRET), "{command:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{command:?}: {err}");
    }
}

#[test]
fn a_server_that_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    all_end(&format!("redis://user:{SECRET}@127.0.0.1:{port}"), 4, "Connection refused");
}

#[test]
fn a_server_that_is_no_redis() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    all_end(&format!("redis://127.0.0.1:{port}"), 5, "is this the port of a Redis server?");
}

#[test]
fn wrong_credentials_and_no_credentials() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    let port = server.port();
    all_end(&format!("redis://:{SECRET}@127.0.0.1:{port}"), 5, "check user and password");
    all_end(&format!("redis://127.0.0.1:{port}"), 5, "check user and password");
}

#[test]
fn a_url_that_is_none() {
    all_end(&format!("http://user:{SECRET}@host"), 5, "write redis://");
    all_end(&format!("{SECRET} {SECRET}"), 5, "write redis://");
}

#[test]
fn a_command_line_that_makes_no_sense() {
    for command in [&["frobnicate"][..], &["status"], &["status", "a", "b"], &["pause", "b"], &[]] {
        assert_eq!(run(command).code, 2, "{command:?}");
    }
}

#[test]
fn top_needs_a_terminal() {
    let ended: Ended = program(&["top"]).output().expect("it starts").into();
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("needs a terminal"), "{}", ended.err);
}
