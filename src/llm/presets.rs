//! What each provider counts, and when: one preset per provider, as data.
//!
//! Amounts are the user's to bring, since they differ by account. Sources are named in the
//! providers' modules and in their table. Providers change their rules, so check your own limits.

use std::time::Duration;

use super::{
    family::Naming,
    feedback::header_spec::HeaderSpec,
    media::MediaRates,
    policy::{AtEnd, Charge, Excess, ModelPlace, OnStatus, Output, Overhead, Tokens},
};

/// The rules of one provider.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Preset {
    pub(crate) name: &'static str,
    /// What `tokens` is when a call is admitted.
    pub(crate) tokens: Tokens,
    /// How much output is reserved.
    pub(crate) output: Output,
    /// The output of a call that has no bound.
    pub(crate) unbounded: u64,
    /// The most that a model can answer, by a part of its name: the output of a call without a
    /// bound.
    pub(crate) maxima: &'static [(&'static str, u64)],
    /// What becomes of `tokens` when a call ends.
    pub(crate) tokens_at_end: AtEnd,
    /// How much an output token weighs in `tokens` when a call ends, by a part of the model's name.
    pub(crate) burndown: &'static [(&'static str, u64)],
    /// How much a token read from a cache counts as input.
    pub(crate) cached: f64,
    /// Models, by the beginning of their names, for which it counts in full.
    pub(crate) cached_in_full: &'static [&'static str],
    /// What a total means that is more than its parts.
    pub(crate) excess: Excess,
    /// Input that the provider adds.
    pub(crate) overhead: Overhead,
    /// The first that matches decides; other statuses are left to the body.
    pub(crate) on_status: &'static [OnStatus],
    /// The charge after an error in a body that began well.
    pub(crate) on_stream_error: Charge,
    /// Headers that tell how limits stand.
    pub(crate) headers: &'static [HeaderSpec],
    pub(crate) media: MediaRates,
    pub(crate) model: ModelPlace,
    pub(crate) naming: Naming,
}

impl Preset {
    /// The output of a call to this model that has no bound.
    pub(crate) fn unbounded(&self, model: &str) -> u64 {
        let mut maxima = self.maxima.iter();
        maxima.find(|(part, _)| model.contains(part)).map_or(self.unbounded, |(_, most)| *most)
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// OpenAI's names, which others have taken over; some of Azure's are spelled otherwise. Requests
/// may be per day.
const OPENAI_HEADERS: &[HeaderSpec] = &[
    REQUESTS.linear(),
    TOKENS.linear(),
    HeaderSpec::new(
        "tokens",
        "x-ratelimit-limit-project-tokens",
        "x-ratelimit-remaining-project-tokens",
    )
    .reset("x-ratelimit-reset-project-tokens")
    .linear(),
    REQUESTS_BY_OLD_NAME,
    TOKENS_BY_OLD_NAME,
];

const REQUESTS: HeaderSpec =
    HeaderSpec::new("requests", "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests")
        .reset("x-ratelimit-reset-requests")
        .period("x-ratelimit-renewalperiod-requests");
const TOKENS: HeaderSpec =
    HeaderSpec::new("tokens", "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens")
        .reset("x-ratelimit-reset-tokens")
        .period("x-ratelimit-renewalperiod-tokens");
const REQUESTS_BY_OLD_NAME: HeaderSpec =
    HeaderSpec::new("requests", "x-rate-limit-limit-requests", "x-rate-limit-remaining-requests")
        .reset("x-rate-limit-reset-requests")
        .period("x-rate-limit-renewalperiod-requests");
const TOKENS_BY_OLD_NAME: HeaderSpec =
    HeaderSpec::new("tokens", "x-rate-limit-limit-tokens", "x-rate-limit-remaining-tokens")
        .reset("x-rate-limit-reset-tokens")
        .period("x-rate-limit-renewalperiod-tokens");
/// Of one limit, which is on requests: OpenRouter's, Together's and others'.
const ONE_LIMIT: HeaderSpec =
    HeaderSpec::new("requests", "x-ratelimit-limit", "x-ratelimit-remaining")
        .reset("x-ratelimit-reset");
const ONE_LIMIT_BY_DRAFT: HeaderSpec =
    HeaderSpec::new("requests", "ratelimit-limit", "ratelimit-remaining").reset("ratelimit-reset");
const TOGETHER_TOKENS: HeaderSpec =
    HeaderSpec::new("tokens", "x-tokenlimit-limit", "x-tokenlimit-remaining");

/// Resets are times of full refill. Tokens are rounded to the nearest thousand.
const ANTHROPIC_HEADERS: &[HeaderSpec] = &[
    HeaderSpec::new(
        "requests",
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
    )
    .reset("anthropic-ratelimit-requests-reset")
    .per(MINUTE),
    HeaderSpec::new(
        "tokens",
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-remaining",
    )
    .reset("anthropic-ratelimit-tokens-reset")
    .per(MINUTE)
    .rounded_by(500),
    HeaderSpec::new(
        "input_tokens",
        "anthropic-ratelimit-input-tokens-limit",
        "anthropic-ratelimit-input-tokens-remaining",
    )
    .reset("anthropic-ratelimit-input-tokens-reset")
    .per(MINUTE)
    .rounded_by(500),
    HeaderSpec::new(
        "output_tokens",
        "anthropic-ratelimit-output-tokens-limit",
        "anthropic-ratelimit-output-tokens-remaining",
    )
    .reset("anthropic-ratelimit-output-tokens-reset")
    .per(MINUTE)
    .rounded_by(500),
];

const MISTRAL: [HeaderSpec; 9] = [
    HeaderSpec::new("requests", "x-ratelimit-limit-req-second", "x-ratelimit-remaining-req-second")
        .per(SECOND)
        .zero_is_limit(),
    HeaderSpec::new(
        "requests",
        "x-ratelimit-limit-req-10-second",
        "x-ratelimit-remaining-req-10-second",
    )
    .per(Duration::from_secs(10))
    .zero_is_limit(),
    HeaderSpec::new("requests", "x-ratelimit-limit-req-minute", "x-ratelimit-remaining-req-minute")
        .per(MINUTE)
        .zero_is_limit(),
    HeaderSpec::new("requests", "x-ratelimit-limit-req-month", "x-ratelimit-remaining-req-month")
        .per(MONTH)
        .zero_is_limit(),
    HeaderSpec::new(
        "tokens",
        "x-ratelimit-limit-tokens-minute",
        "x-ratelimit-remaining-tokens-minute",
    )
    .per(MINUTE)
    .zero_is_limit(),
    HeaderSpec::new("tokens", "x-ratelimit-limit-tokens-day", "x-ratelimit-remaining-tokens-day")
        .per(DAY)
        .zero_is_limit(),
    HeaderSpec::new(
        "tokens",
        "x-ratelimit-limit-tokens-month",
        "x-ratelimit-remaining-tokens-month",
    )
    .per(MONTH)
    .zero_is_limit(),
    // As they were until 2025.
    HeaderSpec::new(
        "tokens",
        "x-ratelimitbysize-limit-minute",
        "x-ratelimitbysize-remaining-minute",
    )
    .reset("ratelimitbysize-reset")
    .per(MINUTE),
    HeaderSpec::new("tokens", "x-ratelimitbysize-limit-month", "x-ratelimitbysize-remaining-month")
        .per(MONTH),
];

const COHERE: [HeaderSpec; 2] = [
    HeaderSpec::new("requests", "x-trial-endpoint-call-limit", "x-trial-endpoint-call-remaining")
        .per(MINUTE),
    HeaderSpec::new(
        "requests",
        "x-endpoint-monthly-call-limit",
        "x-endpoint-monthly-call-remaining",
    )
    .per(MONTH),
];

const FIREWORKS: [HeaderSpec; 2] = [
    HeaderSpec::new(
        "input_tokens",
        "x-ratelimit-limit-tokens-prompt",
        "x-ratelimit-remaining-tokens-prompt",
    )
    .per(MINUTE),
    HeaderSpec::new(
        "output_tokens",
        "x-ratelimit-limit-tokens-generated",
        "x-ratelimit-remaining-tokens-generated",
    )
    .per(MINUTE),
];

/// All of these names, since a compatible provider may use any of them.
const ALL_HEADERS: &[HeaderSpec] = &[
    REQUESTS,
    TOKENS,
    OPENAI_HEADERS[2],
    REQUESTS_BY_OLD_NAME,
    TOKENS_BY_OLD_NAME,
    ONE_LIMIT,
    ONE_LIMIT_BY_DRAFT,
    TOGETHER_TOKENS,
    MISTRAL[0],
    MISTRAL[1],
    MISTRAL[2],
    MISTRAL[3],
    MISTRAL[4],
    MISTRAL[5],
    MISTRAL[6],
    MISTRAL[7],
    MISTRAL[8],
    COHERE[0],
    COHERE[1],
    FIREWORKS[0],
    FIREWORKS[1],
];

const SERVER_ERROR: OnStatus = OnStatus(500, 599, Charge::Reserved);
const REFUSAL_IS_FREE: &[OnStatus] = &[OnStatus(429, 429, Charge::Nothing), SERVER_ERROR];
const REFUSAL_COUNTS: &[OnStatus] = &[OnStatus(429, 429, Charge::Request), SERVER_ERROR];

/// Of a provider of which nothing else is known: what is used counts.
pub(crate) const COMPATIBLE: Preset = Preset {
    name: "an OpenAI-compatible provider",
    tokens: Tokens::Sum,
    output: Output::Bound,
    unbounded: 0,
    maxima: &[],
    tokens_at_end: AtEnd::Actual,
    burndown: &[],
    cached: 1.0,
    cached_in_full: &[],
    excess: Excess::Counts,
    overhead: Overhead::NONE,
    on_status: REFUSAL_IS_FREE,
    on_stream_error: Charge::Seen,
    headers: ALL_HEADERS,
    media: MediaRates::OPENAI,
    model: ModelPlace::Body,
    naming: Naming { prefixes: &[], versions: &["-####-##-##", "-latest"], shared: &[] },
};

/// The larger of the bound and an estimate by characters, which is never corrected; failed requests
/// count.
pub(crate) const OPENAI: Preset = Preset {
    name: "OpenAI",
    tokens: Tokens::Larger,
    tokens_at_end: AtEnd::Reserved,
    on_status: REFUSAL_COUNTS,
    headers: OPENAI_HEADERS,
    naming: Naming {
        // As gateways name OpenAI's models.
        prefixes: &["openai/"],
        versions: &["-####-##-##", "-####"],
        shared: &[("gpt-4-????-preview", "gpt-4-turbo"), ("gpt-4-turbo-preview", "gpt-4-turbo")],
    },
    ..COMPATIBLE
};

/// Prompt and bound together, which are never corrected. The deployment is the bucket.
pub(crate) const AZURE: Preset = Preset {
    name: "Azure OpenAI",
    tokens_at_end: AtEnd::Reserved,
    headers: &[REQUESTS, TOKENS, REQUESTS_BY_OLD_NAME, TOKENS_BY_OLD_NAME],
    model: ModelPlace::Path,
    naming: Naming { prefixes: &[], versions: &[], shared: &[] },
    ..COMPATIBLE
};

const CLAUDE_NAMES: Naming = Naming {
    prefixes: &[],
    versions: &["-########", "@########", "-latest", "-0"],
    shared: &[("claude-opus-4*", "claude-opus-4"), ("claude-sonnet-4-6", "claude-sonnet-4-5")],
};

/// Input and output apart, both as they were; what is read from a cache is free.
pub(crate) const ANTHROPIC: Preset = Preset {
    name: "Anthropic",
    output: Output::Learned,
    cached: 0.0,
    cached_in_full: &["claude-3-5-haiku"],
    overhead: Overhead { always: 0, with_tools: 580 },
    on_status: &[
        OnStatus(429, 429, Charge::Nothing),
        OnStatus(529, 529, Charge::Request),
        SERVER_ERROR,
    ],
    headers: ANTHROPIC_HEADERS,
    media: MediaRates::ANTHROPIC,
    naming: CLAUDE_NAMES,
    ..COMPATIBLE
};

const GEMINI_NAMES: Naming =
    Naming { prefixes: &["models/"], versions: &["-latest", "-###"], shared: &[] };

/// Input alone is limited; thoughts are output. Refused and failed requests count.
pub(crate) const GEMINI: Preset = Preset {
    name: "Gemini API",
    output: Output::Learned,
    on_status: REFUSAL_COUNTS,
    headers: &[],
    media: MediaRates::GEMINI,
    model: ModelPlace::Path,
    naming: GEMINI_NAMES,
    ..COMPATIBLE
};

/// Gemini's models on Vertex AI.
pub(crate) const VERTEX_GEMINI: Preset = Preset { name: "Gemini on Vertex AI", ..GEMINI };

/// Anthropic's models on Vertex AI: requests, and input of a base model with its versions.
pub(crate) const VERTEX_CLAUDE: Preset = Preset {
    name: "Claude on Vertex AI",
    model: ModelPlace::Path,
    headers: &[],
    naming: Naming {
        versions: &["-v#@########", "@########", "@default", "-latest"],
        shared: &[],
        ..CLAUDE_NAMES
    },
    ..ANTHROPIC
};

/// Input and the bound when a call is admitted; at its end what was used, where output weighs more
/// for some models. What is read from a cache is free then.
pub(crate) const BEDROCK: Preset = Preset {
    name: "AWS Bedrock",
    unbounded: 4_096,
    maxima: &[
        ("claude-3-7-sonnet", 64_000),
        ("claude-sonnet-4", 64_000),
        ("claude-haiku-4", 64_000),
        ("claude-opus-4-1", 32_000),
        ("claude-opus-4-2", 32_000),
        ("claude-opus-4", 64_000),
        ("claude-3-5", 8_192),
        ("claude-3", 4_096),
        ("nova-premier", 10_000),
        ("nova", 10_000),
        ("llama3", 2_048),
        ("llama4", 8_192),
        ("deepseek", 32_768),
    ],
    burndown: &[("claude-3-7-sonnet", 5), ("claude-sonnet-4", 5), ("claude-opus-4", 5)],
    cached: 0.0,
    headers: &[],
    media: MediaRates::ANTHROPIC,
    model: ModelPlace::Path,
    naming: Naming {
        prefixes: &[],
        versions: &[
            "-########-v#:#:###k",
            "-########-v#:#:##k",
            "-########-v#:#",
            "-v#:#:###k",
            "-v#:#:##k",
            "-v#:#",
            "-########-v#",
            "-v#",
            ":#",
        ],
        shared: &[],
    },
    ..COMPATIBLE
};

/// As used, less what was cached.
pub(crate) const GROQ: Preset = Preset {
    name: "Groq",
    cached: 0.0,
    overhead: Overhead { always: 0, with_tools: 650 },
    headers: &[REQUESTS.per(DAY), TOKENS.per(MINUTE)],
    ..COMPATIBLE
};

/// As used, less what was cached. Audio has a limit of its own.
pub(crate) const MISTRAL_AI: Preset = Preset {
    name: "Mistral",
    cached: 0.0,
    excess: Excess::Ignored,
    headers: &MISTRAL,
    naming: Naming { prefixes: &[], versions: &["-####", "-latest"], shared: &[] },
    ..COMPATIBLE
};

/// Calls in flight only; tokens are told, and nothing limits them.
pub(crate) const DEEPSEEK: Preset = Preset {
    name: "DeepSeek",
    overhead: Overhead { always: 0, with_tools: 260 },
    headers: &[],
    ..COMPATIBLE
};

/// Requests only, of all free models together.
pub(crate) const OPENROUTER: Preset = Preset {
    name: "OpenRouter",
    overhead: Overhead { always: 0, with_tools: 530 },
    headers: &[ONE_LIMIT],
    naming: Naming { prefixes: &[], versions: &[], shared: &[("*:free", "free")] },
    ..COMPATIBLE
};

/// Requests, and inputs where embeddings are made.
pub(crate) const COHERE_AI: Preset = Preset {
    name: "Cohere",
    overhead: Overhead { always: 0, with_tools: 1_400 },
    headers: &COHERE,
    naming: Naming { prefixes: &[], versions: &["-##-####", "-latest"], shared: &[] },
    ..COMPATIBLE
};

/// Prompt and answer, with the reasoning that is told beside the answer.
pub(crate) const XAI: Preset = Preset {
    name: "xAI",
    overhead: Overhead { always: 190, with_tools: 300 },
    headers: &[REQUESTS, TOKENS],
    naming: Naming { prefixes: &[], versions: &["-####", "-latest", "-beta"], shared: &[] },
    ..COMPATIBLE
};

/// Requests and tokens, of which the headers tell one limit each.
pub(crate) const TOGETHER: Preset = Preset {
    name: "Together",
    headers: &[ONE_LIMIT, TOGETHER_TOKENS, REQUESTS, TOKENS],
    ..COMPATIBLE
};

/// Requests, prompt tokens and generated tokens, which adapt to use.
pub(crate) const FIREWORKS_AI: Preset =
    Preset { name: "Fireworks", headers: &[REQUESTS, FIREWORKS[0], FIREWORKS[1]], ..COMPATIBLE };

/// Requests per minute, by tier.
pub(crate) const PERPLEXITY: Preset =
    Preset { name: "Perplexity", headers: &[REQUESTS, TOKENS, ONE_LIMIT], ..COMPATIBLE };

/// A server of one's own: calls in flight.
pub(crate) const VLLM: Preset = Preset { name: "vLLM", headers: &[], ..COMPATIBLE };

/// A server of one's own, with an API of its own beside OpenAI's: calls in flight.
pub(crate) const OLLAMA: Preset = Preset {
    name: "Ollama",
    headers: &[],
    naming: Naming { prefixes: &[], versions: &[":latest"], shared: &[] },
    ..COMPATIBLE
};
