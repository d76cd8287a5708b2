//! What is counted of a call when it is admitted and at its end, by the provider's row and the user's changes to it.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use super::{
    counts::Counts,
    estimate::{ByScript, Estimator},
    feedback::Told,
    learned::{Expected, Learned, Observed},
    request::{Asked, BadRequest},
    table::Row,
};
use crate::{
    demand::Demand,
    inspect::is_bad_request,
    limiter::{Limiter, Settlement},
    usage,
    usage::Usage,
};

/// What `tokens` is when a call is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tokens {
    /// Input and output together.
    Sum,
    /// The larger of both.
    Larger,
}

/// How much output is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// As much as the request allows (`max_tokens` and its kin).
    Bound,
    /// This much, or what the request allows if that is less. What comes beyond it becomes a debt.
    Expected(u64),
    /// What nine tenths of the latest answers in its bucket stayed within, or what the request allows if that is less
    /// or there were not enough of them. Input is estimated by how far estimates were off, too.
    ///
    /// Answers that were cut off by their bound count as longer than it. Extractor and inspector learn if both are of
    /// the same [`Rules`] or clones of it, as those of a layer are; of 1,000 buckets at most.
    ///
    /// In a simulation of 300 callers with answers of 330 tokens and a `max_tokens` of 8,192 it used 100 % of a limit of
    /// 100,000 a minute, where the bound used 44 %.
    Learned,
}

/// What becomes of the metric `tokens` at a call's end. `input_tokens` and `output_tokens` are those used, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AtEnd {
    /// It is what was used.
    Actual,
    /// It stays as it was reserved, as it does at the provider.
    Reserved,
}

/// What a call is charged that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Charge {
    /// What it reserved.
    Reserved,
    /// What it reserved, or more if more was seen.
    Seen,
    /// A request and no tokens.
    Request,
    /// Nothing.
    Nothing,
}

/// A charge for the statuses from the first to the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnStatus(pub(crate) u16, pub(crate) u16, pub(crate) Charge);

/// What was estimated of a call before anything learned came in, for the end of the call.
#[derive(Clone, Debug)]
pub(super) struct Estimate {
    bucket: String,
    input: u64,
    /// At least 1.
    choices: u64,
}

type BucketOf = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// The rules by which a provider counts, as a preset has them or changed: see [`openai`](super::openai),
/// [`anthropic`](super::anthropic) and [`compatible`](super::compatible).
///
/// They make the [`Extract`](super::Extract) and the [`Inspect`](super::Inspect) of a layer, and do the same for plain
/// JSON.
///
/// ```
/// use tower_throttle::{llm::openai, usage};
///
/// let request = br#"{"model":"gpt-4o-2024-11-20","max_tokens":500,"messages":[{"role":"user","content":"Hi"}]}"#;
/// let demand = openai::rules().demand(request)?;
/// assert_eq!(demand.buckets().collect::<Vec<_>>(), ["gpt-4o"]);
/// assert_eq!(demand.usage().get("tokens"), Some(500));
///
/// let response = br#"{"usage":{"prompt_tokens":8,"completion_tokens":9,"total_tokens":17}}"#;
/// assert_eq!(openai::rules().usage(response), Some(usage! { input_tokens: 8, output_tokens: 9 }));
/// # Ok::<_, tower_throttle::BoxError>(())
/// ```
#[derive(Clone)]
pub struct Rules {
    row: Row,
    changed_statuses: Vec<OnStatus>,
    bucket_of: Option<BucketOf>,
    declared_in: Option<Limiter>,
    estimator: Arc<dyn Estimator>,
    learned: Arc<Learned>,
    inputs: Option<Cow<'static, str>>,
    pub(super) unreadable: Option<Demand>,
    pub(super) include_usage: bool,
    pub(super) default_pause: Duration,
}

impl Rules {
    pub(crate) fn new(row: Row) -> Self {
        Self {
            row,
            changed_statuses: Vec::new(),
            bucket_of: None,
            declared_in: None,
            estimator: Arc::new(ByScript),
            learned: Arc::default(),
            inputs: None,
            unreadable: None,
            include_usage: false,
            default_pause: Duration::from_secs(1),
        }
    }

    /// Names the bucket of a model (default: its family, without dates and `-latest`).
    ///
    /// Names that the limiter does not know go where [`Limits::undeclared`](crate::Limits::undeclared) says, so that
    /// requests make no buckets of their own.
    #[must_use]
    pub fn bucket(mut self, bucket_of: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        self.bucket_of = Some(Arc::new(bucket_of));
        self
    }

    /// Leaves the names of models alone that are those of buckets in this limiter's limits, or match the pattern of a family
    /// there and have no bucket of their own family's name. The layers of this module do so with their own limiter. It makes
    /// no difference where [`bucket`](Self::bucket) names them.
    ///
    /// ```
    /// use tower_throttle::{Limiter, Limits, llm::openai};
    ///
    /// let model = "gpt-4o-2024-11-20";
    /// assert_eq!(openai::rules().bucket_of(model), "gpt-4o");
    ///
    /// let limiter = Limiter::new(Limits::new().bucket(model, openai::quotas().rpm(500)))?;
    /// assert_eq!(openai::rules().declared_in(&limiter).bucket_of(model), model);
    /// # Ok::<_, tower_throttle::LimitsError>(())
    /// ```
    #[must_use]
    pub fn declared_in(mut self, limiter: &Limiter) -> Self {
        self.declared_in = Some(limiter.clone());
        self
    }

    /// Estimates input in another way.
    #[must_use]
    pub fn estimator(mut self, estimator: impl Estimator + 'static) -> Self {
        self.estimator = Arc::new(estimator);
        self
    }

    /// What a request asks for whose body cannot be peeked, is no JSON or names no model. Without it, such a
    /// request fails.
    #[must_use]
    pub fn unreadable(mut self, demand: Demand) -> Self {
        self.unreadable = Some(demand);
        self
    }

    /// Asks for the usage in streams that do not ask for it themselves (`stream_options.include_usage`). The caller
    /// then sees one more event, with no choices in it.
    #[must_use]
    pub fn include_usage(mut self) -> Self {
        self.include_usage = true;
        self
    }

    /// What `tokens` is when a call is admitted.
    #[must_use]
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.row.tokens = tokens;
        self
    }

    /// How much output is reserved.
    #[must_use]
    pub fn output(mut self, output: Output) -> Self {
        self.row.output = output;
        self
    }

    /// The output of a call that sets no bound itself. The presets say 0 (Mistral's 32,000), since OpenAI counts the
    /// input alone then: set it to what your calls use, or bound them with `max_tokens`.
    #[must_use]
    pub fn unbounded_output(mut self, tokens: u64) -> Self {
        self.row.unbounded = tokens;
        self
    }

    /// What becomes of `tokens` at a call's end.
    #[must_use]
    pub fn tokens_at_end(mut self, at_end: AtEnd) -> Self {
        self.row.tokens_at_end = at_end;
        self
    }

    /// What an input token read from a cache counts, from 0 to 1, for all models.
    #[must_use]
    pub fn cached(mut self, weight: f64) -> Self {
        self.row.cached = if weight.is_nan() { 1.0 } else { weight.clamp(0.0, 1.0) };
        self.row.cached_in_full = &[];
        self
    }

    /// Sets what is charged for statuses, the first and the last included. Later calls come first.
    ///
    /// The presets say it of 429 and 5xx. Any other 4xx is charged a request and no tokens, but 408 and 499,
    /// which are left to the body: `on_status(400..=499, Charge::Reserved)` keeps what was reserved.
    #[must_use]
    pub fn on_status(mut self, statuses: std::ops::RangeInclusive<u16>, charge: Charge) -> Self {
        self.changed_statuses.insert(0, OnStatus(*statuses.start(), *statuses.end(), charge));
        self
    }

    /// What is charged after an error in a body that began well.
    #[must_use]
    pub fn on_stream_error(mut self, charge: Charge) -> Self {
        self.row.on_stream_error = charge;
        self
    }

    /// For how long a bucket is paused after a refusal that may pass and does not say when (default: 1 s), as if the provider
    /// had said so.
    #[must_use]
    pub fn default_pause(mut self, pause: Duration) -> Self {
        self.default_pause = pause;
        self
    }

    /// Counts the texts to embed under a metric of this name, which some quota must count.
    #[must_use]
    pub fn inputs(mut self, metric: impl Into<Cow<'static, str>>) -> Self {
        self.inputs = Some(metric.into());
        self
    }

    /// The bucket of a model.
    pub fn bucket_of(&self, model: &str) -> String {
        if let Some(bucket_of) = &self.bucket_of {
            return bucket_of(model);
        }
        let family = self.row.naming.family(model);
        match &self.declared_in {
            Some(limiter) if limiter.declares(model, &family) => model.to_owned(),
            _ => family.into_owned(),
        }
    }

    /// What a request asks for, from its JSON.
    ///
    /// # Errors
    /// If it is no JSON object, or names no model, and [`unreadable`](Self::unreadable) does not say what then.
    pub fn demand(&self, body: &[u8]) -> Result<Demand, BadRequest> {
        match Asked::read(body, &*self.estimator, self.row.images) {
            Ok(asked) => Ok(self.demand_of(&asked)),
            Err(error) => self.unreadable.clone().ok_or(error),
        }
    }

    fn demand_of(&self, asked: &Asked) -> Demand {
        let bucket = self.bucket_of(&asked.model);
        if self.row.output != Output::Learned {
            return Demand::new(bucket, self.asked(asked, Expected::UNKNOWN));
        }
        let usage = self.asked(asked, self.learned.expected(&bucket));
        let estimate =
            Estimate { bucket: bucket.clone(), input: asked.input, choices: asked.choices };
        Demand::new(bucket, usage).note(estimate)
    }

    fn asked(&self, asked: &Asked, expected: Expected) -> Usage {
        let input = expected.input(asked.input);
        let within = |tokens: u64| asked.bound.map_or(tokens, |bound| bound.min(tokens));
        let each = match (self.row.output, expected.output) {
            _ if asked.bound.is_none() && !asked.generates => 0,
            (Output::Expected(tokens), _) | (Output::Learned, Some(tokens)) => within(tokens),
            (Output::Bound, _) | (Output::Learned, None) => {
                asked.bound.unwrap_or(self.row.unbounded)
            }
        };
        let output = each.saturating_mul(asked.choices);
        let mut usage = usage! { requests: 1, input_tokens: input, output_tokens: output };
        if self.row.tokens == Tokens::Larger {
            usage.set("tokens", input.max(output));
        }
        if let Some(metric) = &self.inputs {
            usage.set(metric.clone(), asked.inputs);
        }
        usage
    }

    /// Learns from a call that has ended well.
    pub(super) fn learn(&self, estimate: &Estimate, used: &Usage, is_cut: bool) {
        let output = used.get("output_tokens").map(|output| output.div_ceil(estimate.choices));
        let input = used.get("input_tokens");
        self.learned.observe(
            &estimate.bucket,
            Observed { estimated: estimate.input, input, output, is_cut },
        );
    }

    /// What was used, from a response's JSON; nothing if that does not tell.
    pub fn usage(&self, body: &[u8]) -> Option<Usage> {
        let mut reader = self.reader(super::Format::Json);
        crate::inspect::BodyObserver::data(&mut reader, body);
        reader.used()
    }

    /// What counts of the tokens told.
    pub(super) fn used(&self, counts: &Counts, in_full: bool) -> Usage {
        let weight = if in_full { 1.0 } else { self.row.cached };
        let cached = counts.cached.map(|cached| (cached as f64 * weight).ceil() as u64);
        let input = counts.fresh.map(|fresh| fresh.saturating_add(cached.unwrap_or(0)));
        let told =
            [("input_tokens", input), ("output_tokens", counts.output), ("tokens", counts.total)];
        let mut usage = Usage::new();
        told.into_iter()
            .filter_map(|(metric, amount)| Some((metric, amount?)))
            .for_each(|(metric, amount)| usage.set(metric, amount));
        usage
    }

    /// What is charged of it: `tokens` stays as it was reserved, where it does at the provider.
    pub fn charged(&self, used: Usage, reserved: &Usage) -> Usage {
        match (self.row.tokens_at_end, reserved.get("tokens")) {
            (AtEnd::Reserved, Some(tokens)) => used.with("tokens", tokens),
            _ => used,
        }
    }

    /// Whether a token read from a cache counts in full for this model.
    pub(super) fn cached_in_full(&self, model: &str) -> bool {
        self.row.cached_in_full.iter().any(|start| model.starts_with(start))
    }

    pub(super) fn headers(&self) -> &'static [Told] {
        self.row.headers
    }

    /// Whether it makes a difference which model answers.
    pub(super) fn models_matter(&self) -> bool {
        !self.row.cached_in_full.is_empty()
    }

    pub(super) fn after_stream_error(&self) -> Charge {
        self.row.on_stream_error
    }

    /// What a status means, if it means something by itself.
    pub(super) fn after_status(&self, status: u16) -> Option<Charge> {
        let rules = self.changed_statuses.iter().chain(self.row.on_status);
        let rule =
            rules.copied().find(|OnStatus(first, last, _)| (*first..=*last).contains(&status));
        // A wrong key must not use up what all share.
        rule.map(|rule| rule.2).or_else(|| is_bad_request(status).then_some(Charge::Request))
    }
}

impl Charge {
    pub(super) fn settlement(self, reserved: &Usage, seen: Option<Usage>) -> Settlement {
        match self {
            Self::Reserved => Settlement::Keep,
            Self::Seen => seen.map_or(Settlement::Keep, Settlement::AtLeast),
            Self::Request => Settlement::Exact(reserved.requests_only()),
            Self::Nothing => Settlement::Release,
        }
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("provider", &self.row.name).finish_non_exhaustive()
    }
}
