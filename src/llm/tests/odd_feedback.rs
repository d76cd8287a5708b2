//! Responses that make no sense, or too much of it, say nothing that does harm.

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio::time::advance;

use super::{
    Account, EVENTS, JSON,
    feedback::{REQUEST, one, seconds},
};
use crate::{
    Demand, Quota,
    llm::{anthropic, compatible, openai, table},
    usage,
};

const VALUES: &[&str] = &[
    "0",
    "-1",
    "1",
    "99",
    "1000",
    "18446744073709551615",
    "1e300",
    "NaN",
    "inf",
    "0.0000001",
    "6m0s",
    "12ms",
    "99999d",
    "2015-01-05T07:00:00Z",
    "9999-12-31T23:59:59Z",
    "Mon, 05 Jan 2015 07:00:00 GMT",
    "253402300799000",
    "true",
    "false",
    "34.4s",
    "insufficient_quota",
    "",
];

fn names() -> Vec<&'static str> {
    let rows = [table::OPENAI, table::ANTHROPIC, table::MISTRAL, table::OPENROUTER];
    let told = rows.iter().flat_map(|row| row.headers).flat_map(|told| told.names());
    told.chain(["retry-after", "retry-after-ms", "x-should-retry", "date"]).collect()
}

/// Mostly what makes sense together, so that odd values meet others that are believed.
fn any_headers() -> impl Strategy<Value = HeaderMap> {
    let value = |name: &str| {
        let plausible: &'static [&'static str] = match name {
            name if name.contains("limit-limit") || name.ends_with("-limit") => {
                &["100", "1000", "99"]
            }
            name if name.contains("remaining") => &["0", "1", "50"],
            name if name.contains("reset") => &["20", "99999d", "9999-12-30T00:00:00Z"],
            _ => VALUES,
        };
        let text =
            prop_oneof![proptest::sample::select(plausible), proptest::sample::select(VALUES)];
        let value = prop_oneof![
            6 => text.prop_map(|value| value.as_bytes().to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..30),
        ];
        proptest::option::weighted(0.7, value)
    };
    names().into_iter().map(value).collect::<Vec<_>>().prop_map(|values| {
        let header = |(name, value): (&'static str, Option<Vec<u8>>)| {
            Some((HeaderName::from_static(name), HeaderValue::from_bytes(&value?).ok()?))
        };
        names().into_iter().zip(values).filter_map(header).collect()
    })
}

fn any_error() -> impl Strategy<Value = Vec<u8>> {
    let word = || proptest::sample::select(VALUES).prop_map(|value| format!("{value:?}"));
    let json = proptest::collection::vec(word(), 8).prop_map(|words| {
        let [a, b, c, d, e, f, g, h] = &words[..] else { unreachable!() };
        let error = format!(
            r#"{{"error":{{"code":{a},"type":{b},"message":{c},"details":[{d},{{"retryDelay":{e}}},
            {{"violations":[{{"quotaId":{f},"quotaValue":{g}}}]}}],"status":{h}}}}}"#
        );
        error.into_bytes()
    });
    prop_oneof![json, proptest::collection::vec(any::<u8>(), 0..300)]
}

proptest! {
    /// Whatever a response says: nobody panics, nothing is raised, and nothing is held back for longer than the longest
    /// pause.
    #[test]
    fn no_response_is_too_odd(
        rules in proptest::sample::select(vec![0, 1, 2, 3, 4]),
        status in proptest::sample::select(vec![200_u16, 400, 402, 429, 500, 503, 529]),
        headers in any_headers(),
        body in any_error(),
        is_stream in any::<bool>(),
    ) {
        let rules = [openai::rules, anthropic::rules, compatible::groq, compatible::mistral, compatible::openrouter][rules]();
        let _ = rules.feedback(status, &headers, Some(&body));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let account = Account::with([
                Quota::per_minute("requests", 100),
                Quota::token_bucket("tokens", 1_000, seconds(60)),
                Quota::fixed_window("requests", 1_000, seconds(60)),
                Quota::per_minute("input_tokens", 99),
                Quota::token_bucket("output_tokens", 1_000, seconds(60)),
            ]);
            let kept = account.limiter.reserve(one()).await.unwrap();
            let before = account.available().await;
            let content = if is_stream { EVENTS } else { JSON };
            let body = if is_stream { [b"data: ", &body[..], b"\n\n"].concat() } else { body };
            let mut answer = Response::new(http_body_util::Full::new(bytes::Bytes::from(body.clone())));
            *answer.status_mut() = status.try_into().unwrap();
            *answer.headers_mut() = headers;
            answer.headers_mut().insert("content-type", HeaderValue::from_static(content));
            let answer = account.call(&rules, REQUEST, answer).await;
            let passed = answer.into_body().collect().await.unwrap().to_bytes();
            prop_assert_eq!(&passed[..], &body[..]);
            account.assert_settled_once();
            let after = account.available().await;
            prop_assert!(after.iter().zip(&before).all(|(after, before)| after <= before), "{:?} {:?}", after, before);
            drop(kept);

            advance(seconds(300)).await;
            let status = account.limiter.status("all").await.unwrap();
            prop_assert!(status.paused_until.is_none() && status.asked_until.is_none());
            prop_assert!(status.quotas.iter().all(|quota| quota.withheld == 0.0 && quota.asked.is_none()));
            let whole = usage! { requests: 100, tokens: 1_000, input_tokens: 99, output_tokens: 901 };
            prop_assert!(account.limiter.try_reserve(Demand::new("all", whole)).await.is_ok());
            Ok(())
        })?;
    }
}
