use proptest::prelude::*;

use super::*;

fn read(json: &str) -> (Option<u64>, Option<u64>, Option<u64>, Option<u64>) {
    let report = UsageReport::read(json.as_bytes(), None).unwrap_or_default();
    let counts = report.counts(Excess::Counts);
    (counts.fresh, counts.cached, counts.output, counts.total)
}

#[test]
fn every_shape_is_read() {
    let shapes = [
        // OpenAI chat, and embeddings.
        (
            r#"{"prompt_tokens":319,"completion_tokens":81,"total_tokens":400,
                "prompt_tokens_details":{"cached_tokens":256,"audio_tokens":0},
                "completion_tokens_details":{"reasoning_tokens":64}}"#,
            (Some(63), Some(256), Some(81), None),
        ),
        (r#"{"prompt_tokens":17,"total_tokens":17}"#, (Some(17), None, Some(0), None)),
        // OpenAI responses.
        (
            r#"{"input_tokens":90,"input_tokens_details":{"cached_tokens":40},"output_tokens":33,
                "output_tokens_details":{"reasoning_tokens":20},"total_tokens":123}"#,
            (Some(50), Some(40), Some(33), None),
        ),
        // Anthropic.
        (
            r#"{"input_tokens":21,"cache_creation_input_tokens":188,"cache_read_input_tokens":1000,
                "output_tokens":393,"service_tier":"standard"}"#,
            (Some(209), Some(1000), Some(393), None),
        ),
        (r#"{"output_tokens":15}"#, (None, None, Some(15), None)),
        // Anthropic with compaction: the whole tells the last step only.
        (
            r#"{"input_tokens":23000,"output_tokens":1000,"iterations":[
                {"type":"compaction","input_tokens":180000,"output_tokens":3500},
                {"type":"message","input_tokens":23000,"output_tokens":1000}]}"#,
            (Some(203_000), None, Some(4_500), None),
        ),
        // DeepSeek.
        (
            r#"{"prompt_tokens":50,"completion_tokens":8,"total_tokens":58,
                "prompt_cache_hit_tokens":30,"prompt_cache_miss_tokens":20}"#,
            (Some(20), Some(30), Some(8), None),
        ),
        // Cohere.
        (
            r#"{"billed_units":{"input_tokens":4,"output_tokens":7},"tokens":{"input_tokens":71,"output_tokens":9}}"#,
            (Some(71), None, Some(9), None),
        ),
        (r#"{"total_tokens":412}"#, (None, None, None, Some(412))),
    ];
    for (json, expected) in shapes {
        assert_eq!(read(json), expected, "{json}");
    }
}

#[test]
fn what_is_no_amount_tells_nothing() {
    for json in [
        "null",
        "7",
        "\"x\"",
        "[]",
        "{}",
        "{",
        "",
        r#"{"prompt_tokens":-1}"#,
        r#"{"prompt_tokens":{"a":[1]}}"#,
        r#"{"input_tokens":null,"output_tokens":[2],"total_tokens":"9"}"#,
    ] {
        assert_eq!(UsageReport::read(json.as_bytes(), None), None, "{json}");
    }
    assert_eq!(
        read(r#"{"prompt_tokens":3.0,"completion_tokens":1e99}"#),
        (Some(3), None, Some(u64::MAX), None)
    );
    assert_eq!(
        read(r#"{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":9}}"#).0,
        Some(0),
        "never negative"
    );
    assert_eq!(
        read(r#"{"input_tokens":18446744073709551615,"cache_creation_input_tokens":1}"#).0,
        Some(u64::MAX)
    );
}

#[test]
fn later_fields_replace_earlier_ones_and_missing_ones_do_not() {
    let report = |json: &str| UsageReport::read(json.as_bytes(), None).unwrap();
    let mut told = report(r#"{"input_tokens":25,"cache_read_input_tokens":7,"output_tokens":1}"#);
    let now = |told: &UsageReport| {
        let counts = told.counts(Excess::Counts);
        (counts.fresh, counts.cached, counts.output)
    };
    told.merge(report(r#"{"output_tokens":15}"#));
    assert_eq!(now(&told), (Some(25), Some(7), Some(15)));
    told.merge(report(r#"{"input_tokens":30,"output_tokens":40}"#));
    assert_eq!(now(&told), (Some(30), Some(7), Some(40)));
    told.merge(report(r#"{"output_tokens":0}"#));
    assert_eq!(now(&told), (Some(30), Some(7), Some(0)), "the end may say less");
    told.merge(report(r#"{"input_tokens":0,"output_tokens":0,"total_tokens":0}"#));
    assert_eq!(now(&told), (Some(30), Some(7), Some(0)), "zeros are no report");
    // A total is of the parts beside it.
    let mut told = report(r#"{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}"#);
    told.merge(report(r#"{"completion_tokens":70}"#));
    assert_eq!(now(&told), (Some(9), None, Some(70)));
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = UsageReport::read(&bytes, None).map(|report| report.counts(Excess::Counts));
    }
}
