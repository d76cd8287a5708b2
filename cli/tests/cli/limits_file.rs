use crate::program::{File, run};

const LIMITS: &str = r#"
undeclared = { bucket = "others" }
on_unavailable = { local = 0.25 }

[buckets.gpt-4o]
quotas = [
    { metric = "requests", limit = 500, per = "1 m" },
    { kind = "token_bucket", metric = "tokens", limit = 30000, per = "1 m", burst = 10000 },
    { metric = "requests", limit = 10000, per = "1 day in America/Los_Angeles" },
    { kind = "concurrency", limit = 8, name = "slots", on_unavailable = "allow" },
]

[buckets.claude-sonnet-4]
partition = "anthropic"
quotas = [{ metric = "input_tokens", limit = 100000, per = "1 m", weights = { output_tokens = 5 }, charge_at = "end" }]

[buckets.others]
quotas = [{ kind = "paced", metric = "requests", limit = 60, per = "1 m" }]

[[families]]
pattern = "gpt-*"
bucket = "others"

[[families]]
pattern = "gpt-4o-mini*"
bucket = "gpt-4o"

[classes.batch]
headroom = 0.1

[classes.production]
head_start = "30 s"

[weights]
acme = 3

[[routes]]
match = "api.example.com/v1/{model}"
bucket = "gpt-4o"
usage = { tokens = 1500 }
class = "batch"

[price."gpt-4o"]
input = 2.5
output = 10
"#;

#[test]
fn a_file_is_told_in_words() {
    let file = File::new("words.toml", LIMITS);
    let ended = run(&["check", file.path()]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    for line in [
        "bucket gpt-4o",
        "  at most 500 requests in any 1 m",
        "  30,000 tokens per 1 m, refilled steadily; at most 10,000 at once",
        "  at most 10,000 requests in each 1 day in America/Los_Angeles, then all at once again",
        "  at most 8 calls in flight; while the store cannot be reached, demands on it pass uncounted  [slots]",
        "bucket claude-sonnet-4 (partition anthropic)",
        "  at most 100,000 input_tokens + output_tokens in any 1 m; each of output_tokens counts 5 times; held while a call runs, and counted from its end on",
        "  60 requests per 1 m, evenly one after the other",
        "names like `gpt-*` share the bucket others",
        "class batch: leaves 10 % of each limit to others",
        "class production: goes before what came up to 30 s earlier",
        "share acme: gets 3 times what a share of weight 1 gets",
        "requests for `api.example.com/v1/{model}` go to the bucket gpt-4o, each for 1,500 tokens at most, of class batch",
        "price of gpt-4o: 2.5 in, 10 out for a million tokens",
        "names that are declared nowhere go to the bucket others",
        "while the store cannot be reached, demands are throttled by 25 % of each limit in each process",
    ] {
        assert!(ended.out.lines().any(|told| told == line), "{line}\nin {}", ended.out);
    }
    let ended = run(&["check", "--quiet", file.path()]);
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (0, "", ""));
}

#[test]
fn json_means_the_same() {
    let text = r#"{"buckets": {"b": {"quotas": [{"metric": "rows", "limit": 5, "per": "1 s"}]}}}"#;
    let file = File::new("words.json", text);
    let ended = run(&["check", file.path()]);
    assert_eq!(ended.code, 0);
    assert!(ended.out.starts_with("bucket b\n  at most 5 rows in any 1 s\n"), "{}", ended.out);
}

#[test]
fn a_file_that_makes_no_sense_is_told_with_its_place() {
    for (text, message) in [
        ("[buckets.b]\nquota = []", "line 2, column 1: unknown field `quota`"),
        (
            "[buckets.b]\nquotas = [{ metric = \"rows\", limit = 0, per = \"1 m\" }]",
            "its limit is 0",
        ),
        ("[buckets.b]\nquotas = []", "it has no quotas"),
        ("families = [{ pattern = \"a*\", bucket = \"b\" }]", "it is not declared"),
        ("buckets = ", "line 1"),
        ("routes = [{ match = \"{\", refuse = true }]", "{"),
    ] {
        let file = File::new("wrong.toml", text);
        for command in [vec!["check", file.path()], vec!["explain", file.path(), "b"]] {
            if text.starts_with("routes") && command[0] == "explain" {
                continue;
            }
            let ended = run(&command);
            assert_eq!((ended.code, ended.out.as_str()), (3, ""), "{text}: {}", ended.err);
            assert!(ended.err.contains(file.path()), "{}", ended.err);
            assert!(ended.err.contains(message), "{message}: {}", ended.err);
        }
    }
    for path in ["/nowhere/limits.toml", "/tmp", "limits.yaml"] {
        assert_eq!(run(&["check", path]).code, 3, "{path}");
    }
}

#[test]
fn a_name_is_explained() {
    let file = File::new("explain.toml", LIMITS);
    for (name, first, second) in [
        ("gpt-4o", "gpt-4o", "bucket gpt-4o"),
        (
            "gpt-4o-mini-2024-07-18",
            "gpt-4o-mini-2024-07-18: of the family `gpt-4o-mini*`",
            "bucket gpt-4o",
        ),
        ("gpt-5", "gpt-5: of the family `gpt-*`", "bucket others"),
        ("llama", "llama: one of those that are declared nowhere", "bucket others"),
    ] {
        let ended = run(&["explain", file.path(), name]);
        assert_eq!((ended.code, ended.err.as_str()), (0, ""));
        let lines: Vec<_> = ended.out.lines().collect();
        assert_eq!(lines[..2], [first, second], "{}", ended.out);
    }
}

#[test]
fn a_model_is_read_as_the_layers_of_providers_do() {
    let text = "[buckets.gpt-4o]\nquotas = [{ metric = \"requests\", limit = 5, per = \"1 m\" }]";
    let file = File::new("models.toml", text);
    let ended = run(&["explain", file.path(), "gpt-4o-2024-11-20"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let first = "gpt-4o-2024-11-20: as `gpt-4o` by the layer for OpenAI";
    assert_eq!(ended.out.lines().next(), Some(first));
    let ended = run(&["explain", file.path(), "o9"]);
    assert_eq!((ended.code, ended.out.as_str()), (6, ""));
    assert!(
        ended.err.contains("`o9` has no bucket") && ended.err.contains("gpt-4o"),
        "{}",
        ended.err
    );

    let file = File::new("open.toml", &format!("undeclared = \"unlimited\"\n{text}"));
    let ended = run(&["explain", file.path(), "o9"]);
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (0, "o9: no bucket, so it passes unlimited and uncounted\n")
    );
}
