use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::LimitsFile;
use crate::{
    Limits, OnUnavailable, Quota,
    limits::{Class, Undeclared},
    quota::ChargeAt,
};

const EXAMPLE: &str = include_str!("../../examples/limits.toml");

fn refused(toml: &str) -> String {
    LimitsFile::from_toml(toml).unwrap_err().to_string()
}

/// One quota of a bucket, in braces.
fn refused_quota(quota: &str) -> String {
    refused(&format!("[buckets.b]\nquotas = [\n  {quota}\n]\n"))
}

#[cfg(all(feature = "routes", feature = "timezone"))]
#[test]
fn the_example_is_read() {
    let file = LimitsFile::from_toml(EXAMPLE).unwrap();
    assert_eq!(file.on_unavailable, Some(crate::OnUnavailable::local(0.25)));
    let limiter = file.limiter().build().unwrap();
    limiter.update(file.limits()).unwrap();

    let limits = format!("{:?}", file.limits());
    let minute = Duration::from_secs(60);
    for quota in [
        Quota::token_bucket("tokens", 30_000, minute).burst_times(0.5),
        Quota::per_day("requests", 10_000),
        Quota::fixed_window("requests", 250, Duration::from_secs(86_400))
            .in_time_zone("America/Los_Angeles"),
        Quota::per_minute("input_tokens", 200_000).weight("output_tokens", 5.0).named("tpm"),
        Quota::concurrency(50),
        Quota::per_minute("requests", 3_000).paced_over(Duration::from_secs(1)),
        Quota::per_minute("tokens", 1_000_000)
            .guard(Duration::from_secs(1))
            .charge_at(ChargeAt::End),
    ] {
        assert!(limits.contains(&format!("{quota:?}")), "{quota:?} in {limits}");
    }

    let routes = file.routes::<http::Request<()>>().build().unwrap();
    let mut request = http::Request::get("http://shop/tenants/acme/orders").body(()).unwrap();
    let demand = crate::Extractor::extract(&routes, &mut request).unwrap();
    let expected = crate::Demand::new("tenant:acme", crate::usage! {}).and("all tenants");
    assert_eq!(demand, expected.max_wait(Duration::from_secs(10)));
}

#[test]
fn what_is_unknown_is_refused_where_it_stands() {
    for (toml, reason) in [
        ("bucket = 1", "line 1, column 1: unknown field `bucket`"),
        ("[buckets.a]\nquotas = []\n\nquota = []", "line 4, column 1: unknown field `quota`"),
        ("[[families]]\npattern = 'x'\nbukket = 'a'", "line 3, column 1: unknown field `bukket`"),
        ("[classes.a]\nheadrom = 0.1", "line 2, column 1: unknown field `headrom`"),
        (
            "undeclared = 'pass'",
            "line 1, column 14: unknown variant `pass`, expected one of `refuse`",
        ),
        ("on_unavailable = { locale = 1 }", "unknown variant `locale`"),
        ("[buckets.a]\nquotas = [", "line 2"),
        ("[buckets.a]\n[buckets.a]", "line 2, column"),
    ] {
        let refused = refused(toml);
        assert!(refused.contains(reason), "{toml}: {refused}");
    }
    let refused = refused_quota(r#"{ metric = "tokens", limit = 5, per = "1 m", brust = 7 }"#);
    assert!(
        refused.starts_with("line 3, column 48: unknown field `brust`, expected one of `kind`"),
        "{refused}"
    );
}

#[test]
fn json_is_refused_where_it_stands() {
    for (json, reason) in [
        ("{\"buckets\": {\n\"a\": {\"quota\": []}}}", "line 2, column 13: unknown field `quota`"),
        (
            "{\"buckets\": {\"a\": {\"quotas\": []},\n\"a\": {\"quotas\": []}}}",
            "line 2, column 3: `a` is declared twice",
        ),
        ("{", "line 1, column 1: EOF"),
        ("[]", "line 1, column"),
        (r#"{"buckets":{"a":{"quotas":[{"limit":-3}]}}}"#, "integer `-3`, expected u64"),
    ] {
        let refused = LimitsFile::from_json(json).unwrap_err().to_string();
        assert!(refused.contains(reason) && !refused.contains(" at line"), "{json}: {refused}");
    }
}

#[test]
fn quotas_that_make_no_sense_are_refused_where_they_stand() {
    for (quota, reason) in [
        ("{}", "missing field `limit`"),
        ("{ limit = 5 }", "it names no metric"),
        ("{ limit = 5, metric = 'm' }", "it has no window"),
        ("{ limit = 0, metric = 'm', per = '1 m' }", "its limit is 0"),
        ("{ limit = -5, metric = 'm', per = '1 m' }", "invalid value: integer `-5`, expected u64"),
        ("{ limit = nan, metric = 'm', per = '1 m' }", "expected u64"),
        ("{ limit = 9223372036854775807, metric = 'm', per = '1 m' }", "limits above"),
        ("{ limit = 5, metric = 'm', per = '0 s' }", "between a millisecond and 400 days"),
        (
            "{ limit = 5, metric = 'm', per = '18446744073709551615 s' }",
            "between a millisecond and 400 days",
        ),
        ("{ limit = 5, metric = 'm', per = '18446744073709551615 d' }", "is too long"),
        ("{ limit = 5, metric = 'm', per = '-1 s' }", "write `90 s` or `1 day`"),
        ("{ limit = 5, metric = 'm', per = 'nan s' }", "write `90 s` or `1 day`"),
        (
            "{ limit = 5, metric = 'm', per = 60 }",
            "expected a length of time with its unit, such as `90 s`",
        ),
        (
            "{ limit = 5, metric = 'm', per = '1 m', weights = { n = nan } }",
            "the weight of `n` is NaN",
        ),
        (
            "{ limit = 5, metric = 'm', per = '1 m', weights = { n = -1 } }",
            "the weight of `n` is -1",
        ),
        (
            "{ limit = 5, metric = 'm', per = '1 m', burst = 3 }",
            "burst means nothing to a quota of kind `sliding_window`: it is for `token_bucket`",
        ),
        ("{ limit = 5, metric = 'm', per = '1 m', kind = 'leaky' }", "unknown variant `leaky`"),
        (
            "{ limit = 5, kind = 'concurrency', per = '1 m' }",
            "per means nothing to a quota of kind `concurrency`",
        ),
        (
            "{ limit = 5, metric = 'm', per = '1 m', kind = 'token_bucket', burst = 3, burst_times = 2 }",
            "leave one out",
        ),
        (
            "{ limit = 5, metric = 'm', per = '1 m', kind = 'token_bucket', burst_times = inf }",
            "its burst is 18446744073709551615",
        ),
        ("{ limit = 5, metric = 'm', per = '1 day in Rome', anchor = '1 h' }", "leave one out"),
        #[cfg(feature = "timezone")]
        ("{ limit = 5, metric = 'm', per = '1 day in Nowhere/Land' }", "Nowhere/Land"),
        #[cfg(feature = "timezone")]
        ("{ limit = 5, metric = 'm', per = '1 h in Europe/Rome' }", "only windows of one day"),
        #[cfg(not(feature = "timezone"))]
        ("{ limit = 5, metric = 'm', per = '1 day in Europe/Rome' }", "feature `timezone`"),
    ] {
        let refused = refused_quota(quota);
        let place =
            refused.starts_with("line 3, column ") || refused.starts_with("buckets.b.quotas[0]: ");
        assert!(place && refused.contains(reason), "{quota}: {refused}");
    }
}

#[test]
fn the_rest_is_checked_too() {
    for (toml, reason) in [
        ("[buckets.a]\nquotas = []", "bucket `a`: it has no quotas"),
        ("[buckets.gpt-4.1]\nquotas = []", "a name with dots is quoted: `[buckets.\"gpt-4.1\"]`"),
        (
            "[[families]]\npattern = 'x'\nbucket = 'a'",
            "bucket `a`: family `x` names it, and it is not declared",
        ),
        (
            "undeclared = { bucket = 'a' }",
            "bucket `a`: the default names it, and it is not declared",
        ),
        ("[classes.c]\nheadroom = 1", "class `c`: its headroom is 1"),
        ("[weights]\nc = 0", "weight of share `c`: it is 0"),
        ("[classes.c]\nheadroom = nan", "class `c`: its headroom is NaN"),
        ("[classes.c]\nhead_start = '-1 s'", "line 2, column 14"),
        ("on_unavailable = { local = 0 }", "option `on_unavailable`: the local share"),
        ("on_unavailable = { local = nan }", "option `on_unavailable`: the local share"),
        #[cfg(feature = "routes")]
        ("[[routes]]\nmatch = '/a'", "routes[0]: a route has a `bucket`"),
        #[cfg(feature = "routes")]
        ("[[routes]]\nmatch = 'a b c'\nrefuse = true", "route `a b c`"),
        #[cfg(feature = "routes")]
        ("[[routes]]\nmatch = '/{x}'\nbucket = 'b:{y}'", "`y`, which is no parameter"),
        #[cfg(feature = "routes")]
        (
            "[[routes]]\nmatch = '/a'\nrefuse = true\n[[routes]]\nmatch = '/a'\nrefuse = true",
            "it matches what",
        ),
    ] {
        let refused = refused(toml);
        assert!(refused.contains(reason), "{toml}: {refused}");
    }
}

#[test]
fn files_are_read_by_their_names() {
    let directory =
        std::env::temp_dir().join(format!("tower-throttle-file-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let bucket = "[buckets.a]\nquotas = [{ kind = 'concurrency', limit = 3 }]\n";
    let toml = Limits::from_file(write("a.toml", bucket)).unwrap();
    let json = r#"{"buckets":{"a":{"quotas":[{"kind":"concurrency","limit":3}]}}}"#;
    let json = Limits::from_file(write("a.json", json)).unwrap();
    let built = Limits::new().bucket("a", [Quota::concurrency(3)]);
    assert_eq!(format!("{toml:?}"), format!("{built:?}"));
    assert_eq!(format!("{json:?}"), format!("{built:?}"));

    let more = write("more.toml", &format!("on_unavailable = 'allow'\n{bucket}"));
    let wrong = write("wrong.toml", "limits = 1");
    let unknown = write("a.yaml", "");
    for (path, reason) in [
        (
            &more,
            "more.toml: on_unavailable: it is more than limits can hold: read the file with `LimitsFile::read`",
        ),
        (&wrong, "wrong.toml: line 1, column 1: unknown field `limits`"),
        (&unknown, "a.yaml: its name ends neither in `.toml` nor in `.json`"),
        (&directory.join("absent.toml"), "absent.toml: No such file"),
    ] {
        let error = Limits::from_file(path).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

/// JSON, written as TOML.
fn toml(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: Vec<_> = members
                .iter()
                .map(|(key, value)| format!("{} = {}", json!(key), toml(value)))
                .collect();
            format!("{{ {} }}", members.join(", "))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", "))
        }
        // JSON escapes nothing that TOML does not.
        other => other.to_string(),
    }
}

fn toml_document(value: &Value) -> String {
    let members = value.as_object().into_iter().flatten();
    members.map(|(key, value)| format!("{key} = {}\n", toml(value))).collect()
}

/// What may get into a file by mistake.
const ODD: &[&str] =
    &["-1", "nan", "inf", "18446744073709551615", "0", "\"", "[", "]", "{", "}", "=", "\n", " in "];

/// A field, what it says, and what that is in code.
type Setting = (&'static str, Value, fn(Quota) -> Quota);

const HALF: Duration = Duration::from_millis(500);

/// A kind of quota, how it is told, and one setting that it has of its own.
type Kind = (fn(u64, Duration) -> Quota, Option<&'static str>, Setting);

fn kinds() -> Vec<Kind> {
    let sliding = |limit, window| Quota::sliding_window("units", limit, window);
    let bucket = |limit, window| Quota::token_bucket("units", limit, window);
    let paced = |limit, window| Quota::sliding_window("units", limit, window).paced();
    let fixed = |limit, window| Quota::fixed_window("units", limit, window);
    vec![
        (sliding, None, ("slots", json!(30), |quota| quota.slots(30))),
        (sliding, Some("sliding_window"), ("guard", json!("0.5 s"), |quota| quota.guard(HALF))),
        (bucket, Some("token_bucket"), ("burst", json!(7), |quota| quota.burst(7))),
        (bucket, Some("token_bucket"), ("burst_times", json!(1.5), |quota| quota.burst_times(1.5))),
        (paced, Some("paced"), ("over", json!("0.5 s"), |quota| quota.paced_over(HALF))),
        (paced, Some("paced"), ("longest_call", json!("500 ms"), |quota| quota.longest_call(HALF))),
        (fixed, Some("fixed_window"), ("anchor", json!("0.5 s"), |quota| quota.anchored(HALF))),
    ]
}

/// A quota and how it is written.
fn quota() -> impl Strategy<Value = (Quota, Value)> {
    let windows = prop_oneof![
        (1_u64..2_000).prop_map(|n| (Duration::from_millis(n), format!("{n} ms"))),
        (1_u64..2_000).prop_map(|n| (Duration::from_secs(n), format!("{n} s"))),
        (1_u64..500).prop_map(|n| (Duration::from_secs(3_600 * n), format!("{n} hours"))),
        (1_u64..300).prop_map(|n| (Duration::from_secs(86_400 * n), format!("{n} d"))),
    ];
    let windowed =
        (windows, 1_u64..1_000_000, proptest::sample::select(kinds()), any::<[bool; 5]>());
    let windowed = windowed.prop_map(|((window, per), limit, (quota, kind, own), given)| {
        let mut written = json!({ "limit": limit, "metric": "units", "per": per });
        if let Some(kind) = kind {
            written["kind"] = json!(kind);
        }
        let weights = json!({ "output_tokens": 5, "units": 0.25 });
        let settings: [Setting; 7] = [
            own,
            ("name", json!("n"), |quota| quota.named("n")),
            ("max_debt", json!(77), |quota| quota.max_debt(77)),
            ("weights", weights, |quota| quota.weight("output_tokens", 5.0).weight("units", 0.25)),
            ("charge_at", json!("end"), |quota| quota.charge_at(ChargeAt::End)),
            ("on_unavailable", json!("allow"), |quota| quota.on_unavailable(OnUnavailable::Allow)),
            ("on_unavailable", json!({"local": 0.5}), |quota| {
                quota.on_unavailable(OnUnavailable::local(0.5))
            }),
        ];
        let given = settings.into_iter().zip(given).filter(|(_, given)| *given);
        let quota = given.fold(quota(limit, window), |quota, ((field, value, set), _)| {
            written[field] = value;
            set(quota)
        });
        (quota, written)
    });
    let concurrency = (1_u64..1_000_000).prop_map(|limit| {
        (Quota::concurrency(limit), json!({ "limit": limit, "kind": "concurrency" }))
    });
    prop_oneof![8 => windowed, 1 => concurrency]
}

proptest! {
    #[test]
    fn a_file_is_what_is_built_in_code(
        buckets in proptest::collection::vec(proptest::collection::vec(quota(), 0..4), 0..4),
        in_order in any::<bool>(),
        headroom in 0..120_u32,
        seconds in 0_u64..100,
        partition in proptest::option::of("[a-z\"é ]{1,5}"),
        undeclared in 0..3,
    ) {
        let headroom = f64::from(headroom) / 100.0;
        let mut limits = Limits::new();
        let mut contents = Map::new();
        if let Some(partition) = &partition {
            limits = limits.partition(partition);
            contents.insert("partition".into(), json!(partition));
        }
        let (mut tables, mut families) = (Map::new(), Vec::new());
        for (index, quotas) in buckets.iter().enumerate() {
            let name = format!("b.{index}");
            limits = limits.bucket(&name, quotas.iter().map(|(quota, _)| quota.clone()));
            let quotas: Vec<_> = quotas.iter().map(|(_, written)| written).collect();
            tables.insert(name.clone(), json!({ "quotas": quotas }));
            families.push((if in_order { format!("{index}*") } else { format!("{}*", 9 - index) }, name));
        }
        contents.insert("buckets".into(), tables.into());
        for (pattern, bucket) in &families {
            limits = limits.family(pattern, bucket);
        }
        let families = families.iter().map(|(pattern, bucket)| json!({ "pattern": pattern, "bucket": bucket }));
        contents.insert("families".into(), families.collect());
        limits = limits.class(
            "c",
            Class::new().head_start(Duration::from_secs(seconds)).headroom(headroom),
        );
        let class = json!({ "head_start": format!("{seconds} s"), "headroom": headroom });
        contents.insert("classes".into(), json!({ "c": class }));
        limits = match undeclared {
            0 => limits,
            1 => {
                contents.insert("undeclared".into(), json!("unlimited"));
                limits.undeclared(Undeclared::Unlimited)
            }
            _ => {
                contents.insert("undeclared".into(), json!({ "bucket": "b.0" }));
                limits.undeclared(Undeclared::Bucket("b.0".into()))
            }
        };

        let contents = Value::Object(contents);
        let json = LimitsFile::from_json(&contents.to_string());
        let read = [json, LimitsFile::from_toml(&toml_document(&contents))];
        for read in read {
            match (read, limits.compile()) {
                (Ok(read), Ok(_)) => prop_assert_eq!(format!("{:?}", read.limits()), format!("{limits:?}")),
                (Err(read), Err(built)) => {
                    // That of a quota tells its line, and not its bucket.
                    let reason = built.to_string().split_once(": ").map(|(_, reason)| reason.to_owned());
                    prop_assert!(read.to_string().ends_with(&reason.unwrap()), "{} / {}", read, built);
                }
                (read, built) => prop_assert!(false, "{read:?} / {:?}", built.err()),
            }
        }
    }

    #[test]
    fn no_text_is_too_odd(text in "\\PC{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for text in [text, String::from_utf8_lossy(&bytes).into_owned()] {
            let _ = LimitsFile::from_toml(&text);
            let _ = LimitsFile::from_json(&text);
        }
    }

    #[test]
    fn no_change_of_a_file_is_too_odd(
        at in 0..EXAMPLE.len(),
        length in 0_usize..40,
        put in prop_oneof![
            "\\PC{0,5}",
            proptest::sample::select(ODD).prop_map(str::to_owned),
        ],
    ) {
        let (before, after) = (EXAMPLE.get(..at), EXAMPLE.get(at + length..));
        let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
        let file = LimitsFile::from_toml(&[before, &put, after].concat());
        let _ = file.map(|file| file.limiter().build());
    }
}
