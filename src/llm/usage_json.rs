//! The token counts that a provider's JSON reports, by whatever names.
//!
//! A [`UsageReport`] holds the fields as they were told. A later report of a running stream
//! replaces an earlier one field by field, so [`TokenCounts`] are made only when they are needed. A
//! field with an odd value is a field that was not told; the others count.

use serde_json::{Map, Value};

use super::{json::read_value, policy::Excess};

/// Tokens of one call, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenCounts {
    /// All input but the part that was read from a cache.
    pub(crate) fresh: Option<u64>,
    /// Input that was read from a cache.
    pub(crate) cached: Option<u64>,
    /// Of the fresh input, what was written to a cache.
    pub(crate) written: Option<u64>,
    pub(crate) output: Option<u64>,
    /// Input and output together, where the parts are not told.
    pub(crate) total: Option<u64>,
}

impl TokenCounts {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            fresh: plus(self.fresh, other.fresh),
            cached: plus(self.cached, other.cached),
            written: plus(self.written, other.written),
            output: plus(self.output, other.output),
            total: plus(self.total, other.total),
        }
    }

    fn at_least(self, other: Self) -> Self {
        // `None` is less than any number.
        Self {
            fresh: self.fresh.max(other.fresh),
            cached: self.cached.max(other.cached),
            written: self.written.max(other.written),
            output: self.output.max(other.output),
            total: self.total.max(other.total),
        }
    }
}

/// The fields of a usage report, by what they mean.
///
/// * OpenAI chat, embeddings; Groq, Mistral, OpenRouter: input: `prompt_tokens`; of it cached:
///   `prompt_tokens_details.cached_tokens`; output: `completion_tokens`
/// * DeepSeek: input: `prompt_tokens`; of it cached: `prompt_cache_hit_tokens`; output:
///   `completion_tokens`
/// * OpenAI responses, images, transcripts: input: `input_tokens`; of it cached:
///   `input_tokens_details.cached_tokens`; output: `output_tokens`
/// * Anthropic: input: `input_tokens` + `cache_creation_input_tokens`; of it cached:
///   `cache_read_input_tokens`, beside it; output: `output_tokens`
/// * Cohere: input: `tokens.input_tokens`; output: `tokens.output_tokens`
/// * Gemini: input: `promptTokenCount` + `toolUsePromptTokenCount`; of it cached:
///   `cachedContentTokenCount`; output: `candidatesTokenCount` + `thoughtsTokenCount`
/// * Embeddings on Vertex AI: input: the sum of `predictions[].embeddings.statistics.token_count`
/// * Bedrock Converse: input: `inputTokens` + `cacheWriteInputTokens`; of it cached:
///   `cacheReadInputTokens`, beside it; output: `outputTokens`
/// * Bedrock InvokeModel streams: input: `inputTokenCount`; of it cached:
///   `cacheReadInputTokenCount`, beside it; output: `outputTokenCount`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UsageReport {
    /// The prompt, what is cached of it included.
    prompt: Option<u64>,
    /// The input, without what [`cached_beside`](Self::cached_beside) holds.
    input: Option<u64>,
    /// Input of the provider's own tools.
    tool_prompt: Option<u64>,
    cached_inside: Option<u64>,
    cached_beside: Option<u64>,
    cache_written: Option<u64>,
    audio: Option<u64>,
    output: Option<u64>,
    /// Inside the output, or beside it where the total says so.
    reasoning: Option<u64>,
    /// Beside the output.
    thoughts: Option<u64>,
    total: Option<u64>,
    /// The sum of the steps in which the provider made the answer.
    steps: Option<TokenCounts>,
}

impl UsageReport {
    /// Reads a `usage` member; `None` if it tells nothing. `model` is the response's, as far as it
    /// is known: steps of another model are not this call's.
    pub(crate) fn read(json: &[u8], model: Option<&str>) -> Option<Self> {
        match read_value(json) {
            Some(Value::Object(members)) => Self::of(&members, model),
            _ => None,
        }
    }

    /// A report of one field, which stands for itself in the body.
    pub(crate) fn of_field(name: &str, json: &[u8]) -> Option<Self> {
        let members = Map::from_iter([(name.to_owned(), read_value(json)?)]);
        Self::of(&members, None)
    }

    /// The tokens of one of several texts, from what is told of it.
    pub(crate) fn count_of_part(json: &[u8]) -> Option<u64> {
        let part = read_value(json)?;
        ["token_count", "tokenCount"].iter().filter_map(|name| amount(part.get(*name)?)).max()
    }

    /// Adds the tokens of another text.
    pub(crate) fn add_input(&mut self, tokens: u64) {
        self.input = plus(self.input, Some(tokens));
    }

    fn of(members: &Map<String, Value>, model: Option<&str>) -> Option<Self> {
        let mut report = Self::default();
        for (name, value) in members {
            report.take(name, value, model);
        }
        // Cohere's own counts, and what it bills if it does not tell them.
        let inner =
            ["tokens", "billed_units"].into_iter().find_map(|key| members.get(key)?.as_object());
        if let Some(inner) = inner {
            report.merge(Self::of(inner, model).unwrap_or_default());
        }
        (report != Self::default()).then_some(report)
    }

    /// Takes one member. Of several that tell the same, the largest counts.
    fn take(&mut self, name: &str, value: &Value, model: Option<&str>) {
        let detail = |name: &str| value.get(name).and_then(amount);
        let field = match name {
            "prompt_tokens" | "promptTokenCount" | "prompt_token_count" | "prompt_eval_count" => {
                &mut self.prompt
            }
            "input_tokens" | "inputTokens" | "inputTokenCount" | "inputTextTokenCount" => {
                &mut self.input
            }
            "toolUsePromptTokenCount" => &mut self.tool_prompt,
            "prompt_cache_hit_tokens" | "cachedContentTokenCount" | "cached_tokens" => {
                &mut self.cached_inside
            }
            "cache_read_input_tokens" | "cacheReadInputTokens" | "cacheReadInputTokenCount" => {
                &mut self.cached_beside
            }
            "cache_creation_input_tokens"
            | "cacheWriteInputTokens"
            | "cacheWriteInputTokenCount" => &mut self.cache_written,
            "completion_tokens"
            | "output_tokens"
            | "outputTokens"
            | "outputTokenCount"
            | "candidatesTokenCount"
            | "generation_token_count"
            | "eval_count" => &mut self.output,
            "reasoning_tokens" => &mut self.reasoning,
            "thoughtsTokenCount" => &mut self.thoughts,
            "total_tokens" | "totalTokens" | "totalTokenCount" => &mut self.total,
            "prompt_tokens_details" | "input_tokens_details" | "input_token_details" => {
                self.cached_inside = self.cached_inside.max(detail("cached_tokens"));
                self.audio = self.audio.max(detail("audio_tokens"));
                return;
            }
            "completion_tokens_details" | "output_tokens_details" | "output_token_details" => {
                self.reasoning = self.reasoning.max(detail("reasoning_tokens"));
                return;
            }
            "iterations" => {
                self.steps = value.as_array().and_then(|steps| sum_of_steps(steps, model));
                return;
            }
            _ => return,
        };
        *field = (*field).max(amount(value));
    }

    /// Replaces each field that was told later. A field that is not told keeps its value.
    pub(crate) fn merge(&mut self, later: Self) {
        let is_known = *self != Self::default();
        if is_known && later.is_placeholder() {
            return;
        }
        // A total of parts that have changed since means nothing.
        let changes = |now: Option<u64>, then: Option<u64>| then.is_some() && now != then;
        let parts =
            [(self.output, later.output), (self.prompt, later.prompt), (self.input, later.input)];
        if later.total.is_none() && parts.into_iter().any(|(now, then)| changes(now, then)) {
            self.total = None;
        }
        self.split(&later);
        let fields = [
            (&mut self.prompt, later.prompt),
            (&mut self.input, later.input),
            (&mut self.tool_prompt, later.tool_prompt),
            (&mut self.cached_inside, later.cached_inside),
            (&mut self.cached_beside, later.cached_beside),
            (&mut self.cache_written, later.cache_written),
            (&mut self.audio, later.audio),
            (&mut self.output, later.output),
            (&mut self.reasoning, later.reasoning),
            (&mut self.thoughts, later.thoughts),
            (&mut self.total, later.total),
        ];
        for (field, later) in fields {
            *field = later.or(*field);
        }
        self.steps = later.steps.or(self.steps);
    }

    /// Takes the cached part out of an input that was told as a whole, if it is told later and
    /// alone.
    fn split(&mut self, later: &Self) {
        let is_first = self.cached_beside.is_none() && self.cache_written.is_none();
        let part = plus(later.cached_beside, later.cache_written);
        if let (Some(input), Some(part), None, true) = (self.input, part, later.input, is_first) {
            self.input = Some(input.checked_sub(part).unwrap_or(input));
        }
    }

    /// True for a report of zeros, which stands where a provider knows nothing. No call is without
    /// input.
    fn is_placeholder(&self) -> bool {
        let told = [
            self.prompt,
            self.input,
            self.cached_beside,
            self.cache_written,
            self.output,
            self.total,
        ];
        (self.prompt.or(self.input)).is_some()
            && told.into_iter().flatten().all(|amount| amount == 0)
    }

    /// The counts that the fields tell together.
    pub(crate) fn counts(&self, excess: Excess) -> TokenCounts {
        let counts = self.parts();
        let counts = match self.total {
            Some(total) => self.reconciled(counts, total, excess),
            // More reasoning than output cannot be part of it.
            None => {
                let beside = self.reasoning.filter(|reasoning| Some(*reasoning) > self.output);
                TokenCounts { output: plus(counts.output, beside), ..counts }
            }
        };
        counts.at_least(self.steps.unwrap_or_default())
    }

    /// The counts without a look at the total.
    fn parts(&self) -> TokenCounts {
        let output = plus(self.output, self.thoughts);
        // A zero beside another name for the same is a placeholder.
        if let Some(prompt) = self.prompt.filter(|prompt| *prompt > 0 || self.input.is_none()) {
            let prompt = prompt.saturating_add(self.tool_prompt.unwrap_or(0));
            let cached = self.cached_inside.or(self.cached_beside).map(|cached| cached.min(prompt));
            let fresh = Some(prompt - cached.unwrap_or(0));
            let written = self.cache_written;
            return TokenCounts { fresh, cached, written, output, total: None };
        }
        let inside = self.cached_inside.zip(self.input).map(|(cached, input)| cached.min(input));
        let input = self.input.map(|input| input - inside.unwrap_or(0));
        let fresh = plus(input, self.cache_written);
        let (cached, written) = (inside.or(self.cached_beside), self.cache_written);
        TokenCounts { fresh, cached, written, output, total: None }
    }

    /// The counts, in accordance with a total: never less than it proves, never more than it
    /// allows.
    fn reconciled(&self, counts: TokenCounts, total: u64, excess: Excess) -> TokenCounts {
        let TokenCounts { fresh, cached, output, .. } = counts;
        let input = fresh.unwrap_or(0).saturating_add(cached.unwrap_or(0));
        let output = match (fresh.or(cached), output) {
            (None, None) => return TokenCounts { total: Some(total), ..counts },
            (None, Some(output)) => {
                let rest = total.checked_sub(output).filter(|rest| *rest > 0);
                return TokenCounts { fresh: rest, ..counts };
            }
            // Embeddings tell no output, and have none.
            (Some(_), None) => {
                return TokenCounts { output: Some(total.saturating_sub(input)), ..counts };
            }
            (Some(_), Some(output)) => output,
        };
        let told = input.saturating_add(output);
        match total.checked_sub(told) {
            Some(extra) if extra > 0 && excess == Excess::Counts => {
                let is_beside = |audio: &u64| *audio > input || *audio == extra;
                let beside = self.audio.filter(is_beside).unwrap_or(0).min(extra);
                let fresh = if beside > 0 { plus(fresh, Some(beside)) } else { fresh };
                TokenCounts { fresh, output: Some(output.saturating_add(extra - beside)), ..counts }
            }
            None if told - total > self.may_be_left_out(cached) && total >= input => {
                TokenCounts { output: Some(total - input), ..counts }
            }
            _ => counts,
        }
    }

    /// Tokens of the cache, which some totals do not hold.
    fn may_be_left_out(&self, cached: Option<u64>) -> u64 {
        cached.unwrap_or(0).saturating_add(self.cache_written.unwrap_or(0))
    }
}

/// The sum of the steps that the answering model took.
fn sum_of_steps(steps: &[Value], model: Option<&str>) -> Option<TokenCounts> {
    let model_of = |step: &Value| step.get("model").and_then(Value::as_str).map(str::to_owned);
    // The last step writes the answer, unless every step but some names its model.
    let is_anonymous = steps.iter().any(|step| model_of(step).is_none());
    let last = || if is_anonymous { None } else { steps.iter().rev().find_map(model_of) };
    let own = model.map(str::to_owned).or_else(last);
    let is_own = |step: &&Value| match (model_of(step), &own) {
        (Some(model), Some(own)) => {
            model.starts_with(own.as_str()) || own.starts_with(model.as_str())
        }
        (Some(_), None) => false,
        (None, _) => true,
    };
    let counts =
        |step: &Value| Some(UsageReport::of(step.as_object()?, None)?.counts(Excess::Counts));
    steps.iter().filter(is_own).filter_map(counts).reduce(TokenCounts::plus)
}

fn plus(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    }
}

/// A whole amount; `None` where something else stands.
pub(crate) fn amount(value: &Value) -> Option<u64> {
    let number = value.as_number()?;
    let fraction = || number.as_f64().filter(|amount| amount.is_finite() && *amount >= 0.0);
    // The cast saturates.
    number.as_u64().or_else(|| fraction().map(|amount| amount.ceil() as u64))
}

#[cfg(test)]
mod tests;
