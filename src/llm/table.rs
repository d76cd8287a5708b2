//! What each provider counts, and when: all of it, one row per provider.
//!
//! Amounts are the user's to bring, since they differ by account. Sources are named in the providers' modules; providers
//! change their rules, so check your own limits.

use std::time::Duration;

use super::{
    family::Naming,
    feedback::Told,
    image::Images,
    rules::{AtEnd, Charge, OnStatus, Output, Tokens},
};

/// The rules of one provider.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What `tokens` is when a call is admitted.
    pub(crate) tokens: Tokens,
    /// How much output is reserved.
    pub(crate) output: Output,
    /// The output of a call that sets no bound.
    pub(crate) unbounded: u64,
    /// What becomes of `tokens` at the end.
    pub(crate) tokens_at_end: AtEnd,
    /// What a token read from a cache counts as input.
    pub(crate) cached: f64,
    /// Models, by their beginning, for which it counts in full.
    pub(crate) cached_in_full: &'static [&'static str],
    /// The first that matches decides; other statuses are left to the body.
    pub(crate) on_status: &'static [OnStatus],
    /// After an error in a body that began well.
    pub(crate) on_stream_error: Charge,
    /// What tells how limits stand.
    pub(crate) headers: &'static [Told],
    pub(crate) images: Images,
    pub(crate) naming: Naming,
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// OpenAI's names, which others have taken over; some of Azure's are spelled otherwise. Requests may be per day.
const HEADERS: &[Told] = &[
    Told::new("requests", "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests")
        .reset("x-ratelimit-reset-requests"),
    Told::new("tokens", "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens")
        .reset("x-ratelimit-reset-tokens"),
    Told::new("tokens", "x-ratelimit-limit-project-tokens", "x-ratelimit-remaining-project-tokens")
        .reset("x-ratelimit-reset-project-tokens"),
    Told::new("requests", "x-rate-limit-limit-requests", "x-rate-limit-remaining-requests")
        .reset("x-rate-limit-reset-requests"),
    Told::new("tokens", "x-rate-limit-limit-tokens", "x-rate-limit-remaining-tokens")
        .reset("x-rate-limit-reset-tokens"),
];

/// Resets are times of full refill. Tokens are rounded to the nearest thousand.
const ANTHROPIC_HEADERS: &[Told] = &[
    Told::new(
        "requests",
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
    )
    .reset("anthropic-ratelimit-requests-reset")
    .per(MINUTE),
    Told::new("tokens", "anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-remaining")
        .reset("anthropic-ratelimit-tokens-reset")
        .per(MINUTE)
        .rounded_by(500),
    Told::new(
        "input_tokens",
        "anthropic-ratelimit-input-tokens-limit",
        "anthropic-ratelimit-input-tokens-remaining",
    )
    .reset("anthropic-ratelimit-input-tokens-reset")
    .per(MINUTE)
    .rounded_by(500),
    Told::new(
        "output_tokens",
        "anthropic-ratelimit-output-tokens-limit",
        "anthropic-ratelimit-output-tokens-remaining",
    )
    .reset("anthropic-ratelimit-output-tokens-reset")
    .per(MINUTE)
    .rounded_by(500),
];

const MISTRAL_HEADERS: &[Told] = &[
    Told::new("tokens", "x-ratelimitbysize-limit-minute", "x-ratelimitbysize-remaining-minute")
        .reset("ratelimitbysize-reset")
        .per(MINUTE),
    Told::new("tokens", "x-ratelimitbysize-limit-month", "x-ratelimitbysize-remaining-month")
        .per(MONTH),
];

/// Only on refusals.
const OPENROUTER_HEADERS: &[Told] =
    &[Told::new("requests", "x-ratelimit-limit", "x-ratelimit-remaining")
        .reset("x-ratelimit-reset")];

/// For whom nothing else is known: what is used counts.
pub(crate) const COMPATIBLE: Row = Row {
    name: "an OpenAI-compatible provider",
    tokens: Tokens::Sum,
    output: Output::Bound,
    unbounded: 0,
    tokens_at_end: AtEnd::Actual,
    cached: 1.0,
    cached_in_full: &[],
    on_status: &[OnStatus(429, 429, Charge::Nothing), OnStatus(500, 599, Charge::Reserved)],
    on_stream_error: Charge::Seen,
    headers: HEADERS,
    images: Images::TILES,
    naming: Naming { versions: &["-####-##-##", "-latest"], shared: &[] },
};

/// The larger of the bound and an estimate by characters, which is never corrected; failed requests count.
pub(crate) const OPENAI: Row = Row {
    name: "OpenAI",
    tokens: Tokens::Larger,
    tokens_at_end: AtEnd::Reserved,
    on_status: &[OnStatus(429, 429, Charge::Request), OnStatus(500, 599, Charge::Reserved)],
    naming: Naming {
        versions: &["-####-##-##", "-####"],
        shared: &[("gpt-4-????-preview", "gpt-4-turbo"), ("gpt-4-turbo-preview", "gpt-4-turbo")],
    },
    ..COMPATIBLE
};

/// Input and output apart, both as they were; what is read from a cache is free.
pub(crate) const ANTHROPIC: Row = Row {
    name: "Anthropic",
    output: Output::Learned,
    cached: 0.0,
    cached_in_full: &["claude-3-5-haiku"],
    on_status: &[
        OnStatus(429, 429, Charge::Nothing),
        OnStatus(529, 529, Charge::Request),
        OnStatus(500, 599, Charge::Reserved),
    ],
    headers: ANTHROPIC_HEADERS,
    images: Images::AREA,
    naming: Naming {
        versions: &["-########", "@########", "-latest", "-0"],
        shared: &[("claude-opus-4*", "claude-opus-4"), ("claude-sonnet-4-6", "claude-sonnet-4-5")],
    },
    ..COMPATIBLE
};

/// As used, less what was cached.
pub(crate) const GROQ: Row = Row {
    name: "Groq",
    cached: 0.0,
    headers: &[HEADERS[0].per(DAY), HEADERS[1].per(MINUTE)],
    ..COMPATIBLE
};

/// The bound, which is about 32k where none is set, and it stays.
pub(crate) const MISTRAL: Row = Row {
    name: "Mistral",
    unbounded: 32_000,
    tokens_at_end: AtEnd::Reserved,
    headers: MISTRAL_HEADERS,
    naming: Naming { versions: &["-####", "-latest"], shared: &[] },
    ..COMPATIBLE
};

/// Calls in flight only; tokens are told, and nothing limits them.
pub(crate) const DEEPSEEK: Row = Row { name: "DeepSeek", headers: &[], ..COMPATIBLE };

/// Requests only, of all free models together.
pub(crate) const OPENROUTER: Row = Row {
    name: "OpenRouter",
    headers: OPENROUTER_HEADERS,
    naming: Naming { versions: &[], shared: &[("*:free", "free")] },
    ..COMPATIBLE
};

/// Requests, and inputs where embeddings are made.
pub(crate) const COHERE: Row = Row {
    name: "Cohere",
    headers: &[],
    naming: Naming { versions: &["-##-####", "-latest"], shared: &[] },
    ..COMPATIBLE
};
