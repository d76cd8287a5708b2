//! What calls cost: reserved by what was learned, settled by what was used.

use http_body_util::BodyExt;

use super::{Account, EVENTS, JSON, full, response};
use crate::{
    Limiter, Limits, Quota,
    llm::{Output, Price, Rules, anthropic, learned::tests::after_alike, openai},
};

const REQUEST: &str = r#"{"model":"gpt-4o-2024-11-20","max_tokens":1000,"messages":[{"role":"user","content":"Hi"}]}"#;

fn price() -> Price {
    Price::new(2.0, 10.0).cached(1.0)
}

fn account() -> Account {
    Account::with([Quota::per_month("cost", 40_000_000), Quota::per_minute("tokens", 1_000_000)])
}

async fn cost(account: &Account) -> u64 {
    account.limiter.status("all").await.unwrap().quotas[0].charged as u64
}

async fn cost_after(account: &Account, rules: &Rules, status: u16, answer: &str) -> u64 {
    let before = cost(account).await;
    let answer = account.call(rules, REQUEST, response(status, JSON, full(answer))).await;
    answer.into_body().collect().await.unwrap();
    cost(account).await - before
}

fn reserved(rules: &Rules) -> u64 {
    rules.demand(REQUEST.as_bytes()).unwrap().usage().get("cost").unwrap()
}

const ANSWER: &str = r#"{"usage":{"prompt_tokens":108,"completion_tokens":50,"total_tokens":158,
    "prompt_tokens_details":{"cached_tokens":100}}}"#;

#[tokio::test(start_paused = true)]
async fn a_call_costs_what_it_used() {
    let account = account();
    for name in ["gpt-4o", "gpt-4o-2024-11-20"] {
        let rules = openai::rules().prices([(name, price())]);
        assert_eq!(
            cost_after(&account, &rules, 200, ANSWER).await,
            8 * 2 + 100 + 50 * 10,
            "{name}"
        );
    }
    let rules = openai::rules().prices([("gpt-4o", Price::new(9.0, 9.0))]);
    let rules = rules.prices([("gpt-4o-2024-11-20", price())]);
    assert_eq!(cost_after(&account, &rules, 200, ANSWER).await, 616, "the model's own price");
    assert_eq!(cost_after(&account, &rules, 400, "{}").await, 0, "a bad request");
    assert_eq!(cost_after(&account, &rules, 500, "{}").await, reserved(&rules), "as reserved");
    assert_eq!(cost_after(&account, &openai::rules(), 200, ANSWER).await, 0, "without prices");
}

#[tokio::test(start_paused = true)]
async fn the_cache_has_prices_of_its_own() {
    let account = Account::with([Quota::per_week("cost", 1_000_000)]);
    let price = Price::new(3.0, 15.0).cached(0.3).cache_write(3.75);
    let rules = anthropic::rules().prices([("claude-sonnet-4-5", price)]);
    let request = r#"{"model":"claude-sonnet-4-5","max_tokens":9,"messages":[]}"#;
    let answer = r#"{"stop_reason":"end_turn","usage":{"input_tokens":100,"cache_creation_input_tokens":200,
        "cache_read_input_tokens":1000,"output_tokens":10}}"#;
    let answer = account.call(&rules, request, response(200, JSON, full(answer))).await;
    answer.into_body().collect().await.unwrap();
    assert_eq!(cost(&account).await, 300 + 750 + 300 + 150);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_off_costs_what_was_reserved() {
    let account = account();
    let rules = openai::rules().prices([("gpt-4o", price())]);
    let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n";
    let answer = account.call(&rules, REQUEST, response(200, EVENTS, full(stream))).await;
    assert_eq!(cost(&account).await, reserved(&rules));
    drop(answer);
    assert_eq!(cost(&account).await, reserved(&rules));
}

/// OpenAI counts the bound as tokens, yet nothing costs as much.
#[tokio::test(start_paused = true)]
async fn the_output_that_is_learned_is_reserved() {
    let account = account();
    let rules = openai::rules().prices([("gpt-4o", price())]);
    assert_eq!(rules.demand(REQUEST.as_bytes()).unwrap().usage().get("output_tokens"), Some(1_000));
    assert_eq!(reserved(&rules), 7 * 2 + 1_000 * 10, "nothing is known");
    for _ in 0..10 {
        cost_after(&account, &rules, 200, ANSWER).await;
    }
    let learned = reserved(&rules);
    let output = 10 * after_alike(10, 50, 1_000);
    assert!((output + 14..=output + 3 * 14).contains(&learned), "{learned}");
    let demand = rules.demand(REQUEST.as_bytes()).unwrap();
    let [input, output] =
        ["input_tokens", "output_tokens"].map(|metric| demand.usage().get(metric));
    assert_eq!((input, output), (Some(7), Some(1_000)), "tokens are as they were");
    let own = openai::rules().output(Output::Bound);
    assert_eq!(own.demand(REQUEST.as_bytes()).unwrap().usage().get("cost"), None);
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_kept() {
    let limits = Limits::new().bucket("gpt-4o", [Quota::per_month("cost", 20_000)]);
    let limiter = Limiter::new(limits).unwrap();
    let rules = openai::rules().prices([("gpt-4o", price())]);
    let demand = || rules.demand(REQUEST.as_bytes()).unwrap();
    limiter.try_reserve(demand()).await.unwrap().keep().await.unwrap();
    let error = limiter.try_reserve(demand()).await.unwrap_err();
    assert!(error.to_string().contains("cost per 31 days"), "{error}");
    // Where nothing counts costs, that is told.
    let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 20_000)]);
    let error = Limiter::new(limits).unwrap().try_reserve(demand()).await.unwrap_err();
    assert!(error.to_string().contains("cost"), "{error}");
}
