//! `tower-throttle simulate`, as it is run by hand.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
};

use serde_json::Value;

use crate::program::{File, program, run};

const LIMITS: &str = r#"
[buckets.model]
quotas = [
    { metric = "requests", limit = 50, per = "1 m" },
    { metric = "tokens", limit = 60_000, per = "1 m" },
]

[classes.batch]
headroom = 0.1
"#;
const SHORT: [&str; 5] = ["--synthetic", "--calls-per-minute", "60", "--minutes", "3"];

/// What is printed of a run that succeeds.
fn printed(arguments: &[&str]) -> String {
    let ended = run(&[&["simulate"], arguments].concat());
    assert_eq!(ended.code, 0, "{}", ended.err);
    ended.out
}

/// The exit code and what is said of a run that fails.
fn failed(arguments: &[&str]) -> (i32, String) {
    let ended = run(&[&["simulate"], arguments].concat());
    assert_eq!(ended.out, "", "{}", ended.err);
    (ended.code, ended.err)
}

#[test]
fn strategies_are_compared_in_a_table_a_json_object_and_a_chart() {
    let limits = File::new("compare.toml", LIMITS);
    let chart = File::new("compare.svg", "");
    let mut arguments = vec!["--limits", limits.path(), "--compare", "--svg", chart.path()];
    arguments.extend(SHORT);
    let table = printed(&arguments);
    for strategy in
        ["retries only", "fixed-window count", "naive refund", "without settle", "learned"]
    {
        assert!(table.contains(strategy), "{table}");
    }
    assert!(table.contains("binds") && table.contains("With twice the tier"), "{table}");
    assert_eq!(table, printed(&arguments), "the same seed prints the same");

    let svg = fs::read_to_string(chart.path()).expect("a chart");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.contains("calls that wait") && svg.matches("<polyline").count() > 18);

    arguments.push("--json");
    let json: Value = serde_json::from_str(&printed(&arguments)).expect("JSON");
    let of = |strategy: &str| {
        let strategies = json["strategies"].as_array().expect("an array");
        strategies.iter().find(|one| one["strategy"] == strategy).expect("it is told").clone()
    };
    assert!(of("retries only")["refused"].as_u64() > Some(0));
    assert_eq!(of("tower-throttle")["refused"], 0);
    assert_eq!(of("tower-throttle")["answered"], json["calls"]);
    assert!(of("tower-throttle")["efficiency"].as_f64() > Some(0.9));
    assert!(json["doubled"]["makespan_seconds"].as_f64() < Some(230.0));
}

#[test]
fn a_trace_is_read_and_its_classes_are_told_apart() {
    let limits = File::new("trace.toml", LIMITS);
    let mut text = "TIMESTAMP,ContextTokens,GeneratedTokens,class\n".to_owned();
    for second in 0..59 {
        let class = if second % 2 == 0 { "batch" } else { "" };
        text += &format!("2023-11-16 18:15:{second:02}.68,1000,{second},{class}\n");
    }
    let trace = File::new("trace.csv", &text);
    let arguments = ["--limits", limits.path(), "--trace", trace.path(), "--strategy", "exact"];
    let table = printed(&arguments);
    assert!(table.contains("59 calls with 60,711 tokens within 58.0 s"), "{table}");
    assert!(table.contains("| batch |"), "{table}");
    let at_once = printed(&[&arguments[..], &["--at-once", "--workers", "5"]].concat());
    assert!(at_once.contains("within 0 ms"), "{at_once}");
}

#[test]
fn providers_differ() {
    let limits = File::new("providers.toml", LIMITS);
    for kind in ["declared", "sliding", "bucket", "fixed", "parts-1s", "parts-10s"] {
        for counting in ["start", "end", "as-produced"] {
            let mut arguments = vec!["--limits", limits.path(), "--json", "--provider", kind];
            arguments.extend(["--counting", counting, "--others", "0.1", "--headers"]);
            arguments.extend(SHORT);
            let json: Value = serde_json::from_str(&printed(&arguments)).expect("JSON");
            let report = &json["strategies"][0];
            // What is declared for a minute is refused in a part of it, again and again.
            let is_declared_rightly = !kind.starts_with("parts");
            let answered = if is_declared_rightly { json["calls"].as_u64() } else { Some(1) };
            assert!(report["answered"].as_u64() >= answered, "{kind} {counting}: {report}");
            assert!(report["others_admitted"].as_u64() > Some(0), "{kind} {counting}: {report}");
        }
    }
}

#[test]
fn what_makes_no_sense_has_an_exit_code_and_is_said() {
    let limits = File::new("wrong.toml", LIMITS);
    let broken = File::new("broken.toml", "[buckets.m]\nquotas = [{ metrik = 1 }]\n");
    let two = File::new("two.toml", &LIMITS.replace("[classes", "[buckets.b]\nquotas = [{ limit = 5, per = \"1 m\", metric = \"requests\" }]\n\n[classes"));
    let trace = File::new("wrong.csv", "arrival,input,output\n0,1,x\n");
    let large = File::new("large.csv", "arrival,input,output\n0,70000,1\n");
    let class = File::new("class.csv", "arrival,input,output,class\n0,7,1,night\n");
    let limits = limits.path();
    for (arguments, code, said) in [
        (vec!["--limits", limits], 2, "--trace"),
        (vec!["--limits", limits, "--synthetic", "--trace", "x"], 2, "cannot be used with"),
        (vec!["--limits", "no/such.toml", "--synthetic"], 3, "no/such.toml"),
        (vec!["--limits", broken.path(), "--synthetic"], 3, "metrik"),
        (vec!["--limits", two.path(), "--synthetic"], 2, "--bucket"),
        (vec!["--limits", limits, "--synthetic", "--bucket", "x"], 6, "`x`"),
        (vec!["--limits", limits, "--trace", "no/such.csv"], 1, "no/such.csv"),
        (vec!["--limits", limits, "--trace", trace.path()], 1, "line 2"),
        (vec!["--limits", limits, "--trace", large.path()], 3, "never admits more than 60000"),
        (vec!["--limits", limits, "--trace", class.path()], 6, "`night`"),
        (vec!["--limits", limits, "--synthetic", "--jitter", "25h"], 2, "longer than a day"),
        (vec!["--limits", limits, "--synthetic", "--first-token", "300"], 2, "number and a unit"),
        (vec!["--limits", limits, "--synthetic", "--others", "NaN"], 2, "from 0 to 1"),
        (vec!["--limits", limits, "--synthetic", "--class", "batch=NaN"], 2, "batch=0.3"),
        (vec!["--limits", limits, "--synthetic", "--calls-per-minute", "NaN"], 2, "above 0"),
        (vec!["--limits", limits, "--synthetic", "--calls-per-minute", "1e9"], 2, "ten million"),
        (vec!["--limits", limits, "--synthetic", "--minutes", "NaN"], 2, "--minutes"),
        (vec!["--limits", limits, "--synthetic", "--workers", "0"], 2, "--workers"),
        (vec!["--limits", limits, "--listen", "127.0.0.1:0", "--others", "0.1"], 2, "--others"),
        (vec!["--limits", limits, "--synthetic", "--class", "batch"], 2, "batch=0.3"),
        (vec!["--limits", limits, "--synthetic", "--minutes=-1"], 2, "--minutes"),
    ] {
        let (found, text) = failed(&arguments);
        assert_eq!(found, code, "{arguments:?}: {text}");
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
}

#[test]
fn large_limits_little_work_and_hostile_names_are_no_trouble() {
    let limits =
        LIMITS.replace("limit = 60_000", "limit = 900_000_000_000, name = \"t\\u001B[2J\"");
    let limits = File::new("huge.toml", &limits);
    let none = printed(&["--limits", limits.path(), "--synthetic", "--minutes", "0"]);
    assert!(none.starts_with("0 calls with 0 tokens within 0 ms"), "{none}");

    // Out of order, years apart, with names that a terminal would obey.
    let text = "arrival,input,output,share\n90000000,5,5,\u{1b}[31m\n3,100000,7,\u{9b}2J\n0,1,1,\n";
    let trace = File::new("hostile.csv", text);
    for json in [&[][..], &["--json"]] {
        let arguments = ["--limits", limits.path(), "--trace", trace.path(), "--max-tokens"];
        let shown = printed(&[&arguments[..], &["18446744073709551615"], json].concat());
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        assert!(shown.contains(if json.is_empty() { "3 calls" } else { "\"impossible\": 3" }));
    }
}

/// A provider that is ended when the test is over.
struct Listening(Child, String);

impl Listening {
    fn start(arguments: &[&str]) -> Self {
        let listen = ["--listen", "127.0.0.1:0"];
        let mut command = program(&[&["simulate"], arguments, &listen].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on http://").expect("its address");
        Self(child, address.to_owned())
    }

    /// The response to a request, head and body.
    fn ask(&self, body: &str) -> String {
        let mut connection = TcpStream::connect(&self.1).expect("a connection");
        let length = body.len();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        connection.write_all((head + body).as_bytes()).expect("sent");
        let mut response = String::new();
        connection.read_to_string(&mut response).expect("a response");
        response
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_provider_can_be_asked_over_http() {
    let limits = File::new("listen.toml", &LIMITS.replace("limit = 50,", "limit = 2,"));
    let fast = ["--first-token", "1ms", "--per-token", "0"];
    let provider = Listening::start(&[&["--limits", limits.path()][..], &fast].concat());
    let request = r#"{"model":"m","max_tokens":50,"messages":[]}"#;
    for wrong in ["", "[]", "{"] {
        assert!(provider.ask(wrong).starts_with("HTTP/1.1 400 "));
    }
    for _ in 0..2 {
        let answer = provider.ask(request);
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"total_tokens\":"),
            "{answer}"
        );
    }
    let refused = provider.ask(request);
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert!(refused.contains("\r\nretry-after: 60\r\n"), "{refused}");
    assert!(refused.contains("rate_limit_exceeded"), "{refused}");
}
