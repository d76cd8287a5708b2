use proptest::prelude::*;

use super::*;

const PATHS: &[Path] =
    &[&["usage"], &["message", "usage"], &["choices", "finish"], &["message", "model"]];

#[derive(Debug, Default, PartialEq)]
struct Values(Vec<(usize, Option<String>)>);

impl Found for Values {
    fn found(&mut self, path: usize, value: Option<&[u8]>) {
        self.0.push((path, value.map(|value| String::from_utf8_lossy(value).into_owned())));
    }
}

fn values<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Values, bool) {
    let (mut scanner, mut values) = (Scanner::new(PATHS), Values::default());
    for piece in pieces {
        scanner.feed(piece, &mut values);
        assert!(scanner.value.capacity() <= 2 * LONGEST_VALUE);
    }
    (values, scanner.is_complete())
}

fn found(text: &str) -> Vec<(usize, String)> {
    let (whole, complete) = values([text.as_bytes()]);
    assert_eq!(values(text.as_bytes().chunks(1)), (Values(whole.0.clone()), complete), "{text}");
    whole.0.into_iter().map(|(path, value)| (path, value.unwrap_or("too long".into()))).collect()
}

fn one(path: usize, value: &str) -> Vec<(usize, String)> {
    vec![(path, value.into())]
}

#[test]
fn values_are_found_where_they_stand() {
    assert_eq!(
        found(r#"{"a":[1,{"usage":2}],"usage":{"n":[1,{"usage":3}],"m":"}"},"b":1}"#),
        one(0, r#"{"n":[1,{"usage":3}],"m":"}"}"#)
    );
    assert_eq!(found("\n\n {\"usage\" : null , \"x\":1}"), one(0, "null"), "blank lines before");
    assert_eq!(found(r#"{"usage":12}"#), one(0, "12"));
    assert_eq!(found(r#"{"usage":"a\"}\\"}"#), one(0, r#""a\"}\\""#));
    assert_eq!(
        found(r#"{"message":{"x":{"usage":1},"usage":{"a":1},"model":"m"},"z":0}"#),
        [(1, r#"{"a":1}"#.into()), (3, r#""m""#.into())]
    );
    assert_eq!(
        found(r#"{"choices":[{"finish":null},{"finish":"stop"}]}"#),
        [(2, "null".into()), (2, r#""stop""#.into())]
    );
}

#[test]
fn arrays_are_passed_through_at_the_top_too() {
    assert_eq!(found(r#"[{"usage":1},{"usage":[2]}]"#), [(0, "1".into()), (0, "[2]".into())]);
}

#[test]
fn text_that_looks_like_it_is_not_it() {
    assert_eq!(
        found(r#"{"content":"\"usage\":{\"n\":1}","x":"{\\","y":["usage",{"usage":1}]}"#),
        []
    );
    assert_eq!(found(r#"{"usage_of_this_is_a_very_long_key_indeed":1,"usag":2}"#), []);
    assert_eq!(found(r#""usage""#), []);
    assert_eq!(
        found(r#"{"choices":[{"finish":null}:"x"]}"#),
        one(2, "null"),
        "a key leads to one value"
    );
}

#[test]
fn only_an_end_is_complete() {
    assert!(values([&br#"{"usage":{"n":1}}"#[..]]).1);
    assert!(!values([&br#"{"usage":{"n":1}"#[..]]).1);
    assert!(!values([&b"[DONE"[..]]).1);
}

#[test]
fn a_value_beyond_the_bound_is_told_and_not_kept() {
    let text =
        format!(r#"{{"usage":"{}","message":{{"usage":1}}}}"#, "x".repeat(2 * LONGEST_VALUE));
    assert_eq!(found(&text), [(0, "too long".into()), (1, "1".into())]);
}

#[test]
fn depth_costs_no_memory() {
    let text =
        format!(r#"{{"choices":{}{}, "usage":5}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(found(&text), one(0, "5"));
    assert_eq!(found(&"]}".repeat(1_000)), []);
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[a-z\"\\\\{}\\[\\],:é]{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let key = prop_oneof![
            Just("usage"),
            Just("message"),
            Just("choices"),
            Just("finish"),
            Just("é\""),
            Just("x")
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            proptest::collection::btree_map(key.prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn it_finds_what_a_tree_holds(members in proptest::collection::btree_map("(usage|message|x)", json(), 0..4)) {
        let body = serde_json::Value::Object(members.into_iter().collect());
        let mut expected = Vec::new();
        for (key, value) in body.as_object().into_iter().flatten() {
            match (key.as_str(), value) {
                ("usage", value) => expected.push((0, value.to_string())),
                ("message", serde_json::Value::Object(message)) => {
                    expected.extend(message.get("usage").map(|value| (1, value.to_string())));
                }
                _ => {}
            }
        }
        let in_arrays = body["message"].is_array();
        prop_assume!(!in_arrays);
        prop_assert_eq!(found(&body.to_string()), expected);
    }

    #[test]
    fn any_bytes_in_any_split_read_alike(
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), proptest::sample::select(&b"{}[]\",:\\usage 1"[..])], 0..300),
        size in 1usize..20,
    ) {
        prop_assert_eq!(values(bytes.chunks(size)), values([&bytes[..]]));
    }
}
