//! What is counted of a call when it is admitted and when it ends: the provider's preset, and the
//! user's changes to it.

use std::{borrow::Cow, collections::HashMap, fmt, sync::Arc, time::Duration};

use super::{
    call_estimate::CallEstimate,
    estimate::{Estimator, HeuristicEstimator},
    feedback::header_spec::HeaderSpec,
    learned::{CallShape, Expected, Learned},
    model_path::model_in_path,
    policy::{AtEnd, Charge, Excess, ModelPlace, OnStatus, Output, Tokens},
    presets::Preset,
    price::Price,
    request::{BadRequest, ParsedRequest},
    usage_json::TokenCounts,
};
use crate::{
    demand::Demand,
    inspect::is_bad_request,
    limiter::{Limiter, Naming, Settlement},
    limits::Table,
    usage::Usage,
};

type BucketOf = Arc<dyn Fn(&str) -> String + Send + Sync>;
type ModelOfPath = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The rules by which a provider counts: a preset, as it is or changed. See
/// [`openai`](super::openai), [`anthropic`](super::anthropic), [`gemini`](super::gemini),
/// [`azure`](super::azure), [`bedrock`](super::bedrock), [`vertex`](super::vertex) and
/// [`compatible`](super::compatible).
///
/// They make the [`Extract`](super::Extract) and the [`Inspect`](super::Inspect) of a layer, and do
/// the same for plain JSON.
///
/// ```
/// use tower_throttle::{llm::openai, usage};
///
/// let request = br#"{"model":"gpt-4o-2024-11-20","max_tokens":500,"messages":[]}"#;
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
    preset: Preset,
    changed_statuses: Vec<OnStatus>,
    bucket_of: Option<BucketOf>,
    model_of_path: Option<ModelOfPath>,
    declared_in: Option<Limiter>,
    estimator: Arc<dyn Estimator>,
    learned: Arc<Learned>,
    inputs: Option<Cow<'static, str>>,
    prices: Arc<HashMap<String, Price>>,
    pub(super) unreadable: Option<Demand>,
    pub(super) include_usage: bool,
    pub(super) default_pause: Duration,
}

impl Rules {
    pub(crate) fn new(preset: Preset) -> Self {
        Self {
            preset,
            changed_statuses: Vec::new(),
            bucket_of: None,
            model_of_path: None,
            declared_in: None,
            estimator: Arc::new(HeuristicEstimator),
            learned: Arc::default(),
            inputs: None,
            prices: Arc::default(),
            unreadable: None,
            include_usage: false,
            default_pause: Duration::from_secs(1),
        }
    }

    /// Names the bucket of a model (default: the model's family, without dates and `-latest`).
    ///
    /// Names that the limiter does not know go where
    /// [`Limits::undeclared`](crate::Limits::undeclared) says, so that requests make no buckets of
    /// their own.
    ///
    /// ```
    /// use tower_throttle::llm::openai;
    ///
    /// let rules = openai::rules().bucket(|model| match model.contains("mini") {
    ///     true => "small".into(),
    ///     false => "large".into(),
    /// });
    /// assert_eq!(rules.bucket_of("gpt-4o-mini"), "small");
    /// ```
    #[must_use]
    pub fn bucket(mut self, bucket_of: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        self.bucket_of = Some(Arc::new(bucket_of));
        self
    }

    /// Reads the model from a request's path, for APIs of one's own that name it there.
    ///
    /// Paths of Azure (`/deployments/{name}/..`), Bedrock (`/model/{name}/..`), Gemini and Vertex
    /// (`/models/{name}:method`) are read without it. Where the closure returns `None`, they still
    /// are.
    ///
    /// ```
    /// use tower_throttle::llm::compatible;
    ///
    /// let rules = compatible::rules()
    ///     .model_of_path(|path| path.strip_prefix("/tenant-a/").map(|_| "tenant-a".to_owned()));
    /// let body = br#"{"max_tokens":10,"messages":[]}"#;
    /// let demand = rules.demand_at("/tenant-a/chat/completions", body)?;
    /// assert_eq!(demand.buckets().collect::<Vec<_>>(), ["tenant-a"]);
    /// # Ok::<_, tower_throttle::BoxError>(())
    /// ```
    #[must_use]
    pub fn model_of_path(
        mut self,
        model_of: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.model_of_path = Some(Arc::new(model_of));
        self
    }

    /// Keeps the names of models that are buckets in this limiter's limits, or that match the
    /// pattern of a family there and whose own family has no bucket. The layers of this module do
    /// so with their limiter. It makes no difference where [`bucket`](Self::bucket) names the
    /// buckets.
    ///
    /// The limiter then accepts the names of models, too:
    /// [`Limiter::status`](crate::Limiter::status) of a model is that of its bucket.
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
        self.teach(limiter);
        self.declared_in = Some(limiter.clone());
        self
    }

    /// Sets the estimator of input tokens (default: [`HeuristicEstimator`]).
    ///
    /// ```
    /// use tower_throttle::llm::compatible;
    ///
    /// // Texts of which every four bytes are a token.
    /// let rules = compatible::rules().estimator(|text: &str| text.len() as f64 / 4.0);
    /// ```
    #[must_use]
    pub fn estimator(mut self, estimator: impl Estimator + 'static) -> Self {
        self.estimator = Arc::new(estimator);
        self
    }

    /// Sets the demand of a request whose body cannot be read ahead, is no JSON or names no model.
    /// By default such a request fails.
    ///
    /// ```
    /// use tower_throttle::{Demand, llm::openai, usage};
    ///
    /// // Forms with an audio to transcribe.
    /// let rules = openai::rules().unreadable(Demand::new("whisper-1", usage! { requests: 1 }));
    /// assert_eq!(rules.demand(b"no JSON")?.buckets().collect::<Vec<_>>(), ["whisper-1"]);
    /// # Ok::<_, tower_throttle::BoxError>(())
    /// ```
    #[must_use]
    pub fn unreadable(mut self, demand: Demand) -> Self {
        self.unreadable = Some(demand);
        self
    }

    /// Asks for the usage in streams of chat and completions that do not ask for it themselves
    /// (`stream_options.include_usage`). The caller then sees one more event, with no choices in
    /// it. Other requests stay as they are: their streams tell the usage anyway, and providers
    /// refuse the option there.
    #[must_use]
    pub fn include_usage(mut self) -> Self {
        self.include_usage = true;
        self
    }

    /// Sets what `tokens` is when a call is admitted.
    ///
    /// ```
    /// use tower_throttle::llm::{Tokens, compatible};
    ///
    /// let request = br#"{"model":"m","max_tokens":500,"prompt":"Hi"}"#;
    /// let larger = compatible::rules().tokens(Tokens::Larger).demand(request)?;
    /// assert_eq!(larger.usage().get("tokens"), Some(500));
    /// # Ok::<_, tower_throttle::BoxError>(())
    /// ```
    #[must_use]
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.preset.tokens = tokens;
        self
    }

    /// Sets how much output is reserved.
    #[must_use]
    pub fn output(mut self, output: Output) -> Self {
        self.preset.output = output;
        self
    }

    /// Sets the output of a call that has no bound itself. Most presets say 0, since OpenAI counts
    /// the input alone then: set it to what your calls use, or bound them with `max_tokens`.
    ///
    /// ```
    /// use tower_throttle::llm::openai;
    ///
    /// let rules = openai::rules().unbounded_output(2_000);
    /// let demand = rules.demand(br#"{"model":"gpt-4o","messages":[]}"#)?;
    /// assert_eq!(demand.usage().get("tokens"), Some(2_000));
    /// # Ok::<_, tower_throttle::BoxError>(())
    /// ```
    #[must_use]
    pub fn unbounded_output(mut self, tokens: u64) -> Self {
        self.preset.unbounded = tokens;
        self.preset.maxima = &[];
        self
    }

    /// Sets what becomes of `tokens` when a call ends.
    #[must_use]
    pub fn tokens_at_end(mut self, at_end: AtEnd) -> Self {
        self.preset.tokens_at_end = at_end;
        self
    }

    /// Sets how much an input token read from a cache counts, from 0 to 1, for all models.
    ///
    /// ```
    /// use tower_throttle::{llm::compatible, usage};
    ///
    /// let rules = compatible::rules().cached(0.1);
    /// let answer = br#"{"usage":{"prompt_tokens":100,"completion_tokens":9,
    ///     "prompt_tokens_details":{"cached_tokens":80}}}"#;
    /// assert_eq!(rules.usage(answer), Some(usage! { input_tokens: 28, output_tokens: 9 }));
    /// ```
    #[must_use]
    pub fn cached(mut self, weight: f64) -> Self {
        self.preset.cached = if weight.is_nan() { 1.0 } else { weight.clamp(0.0, 1.0) };
        self.preset.cached_in_full = &[];
        self
    }

    /// Sets the charge for statuses, the first and the last included. Later calls come first.
    ///
    /// The presets set those of 429 and 5xx. Any other 4xx is charged a request and no tokens, but
    /// 408 and 499, which are left to the body: `on_status(400..=499, Charge::Reserved)` keeps what
    /// was reserved.
    ///
    /// ```
    /// use tower_throttle::llm::{Charge, compatible};
    ///
    /// // A gateway that answers 503 before it has sent anything on.
    /// let rules = compatible::rules().on_status(503..=503, Charge::Nothing);
    /// ```
    #[must_use]
    pub fn on_status(mut self, statuses: std::ops::RangeInclusive<u16>, charge: Charge) -> Self {
        self.changed_statuses.insert(0, OnStatus(*statuses.start(), *statuses.end(), charge));
        self
    }

    /// Sets the charge after an error in a body that began well.
    #[must_use]
    pub fn on_stream_error(mut self, charge: Charge) -> Self {
        self.preset.on_stream_error = charge;
        self
    }

    /// Sets for how long a bucket is paused after a refusal that may pass and does not say when
    /// (default: 1 s), as if the provider had said so.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::llm::compatible;
    ///
    /// let rules = compatible::rules().default_pause(Duration::from_secs(5));
    /// let said = rules.feedback(429, &http::HeaderMap::new(), Some(b"slow down"));
    /// assert_eq!(said.retry_after(), Some(Duration::from_secs(5)));
    /// ```
    #[must_use]
    pub fn default_pause(mut self, pause: Duration) -> Self {
        self.default_pause = pause;
        self
    }

    /// Counts the texts to embed under a metric of this name, which some quota must count.
    ///
    /// ```
    /// use tower_throttle::llm::compatible;
    ///
    /// let rules = compatible::cohere().inputs("inputs");
    /// let demand = rules.demand(br#"{"model":"embed-v4.0","texts":["one","two"]}"#)?;
    /// assert_eq!(demand.usage().get("inputs"), Some(2));
    /// # Ok::<_, tower_throttle::BoxError>(())
    /// ```
    #[must_use]
    pub fn inputs(mut self, metric: impl Into<Cow<'static, str>>) -> Self {
        self.inputs = Some(metric.into());
        self
    }

    /// Counts what calls of these models, or of the models of these buckets, cost: in the metric
    /// `cost`, in millionths of the currency, which some quota must count.
    ///
    /// A call reserves the cost of its input and of the output that is learned
    /// ([`Output::Learned`]), whatever is reserved of tokens, and is settled on the cost of what it
    /// used. Later prices of the same name replace earlier ones. They count where a demand and its
    /// response are read by the same layer.
    ///
    /// ```
    /// use tower_throttle::{Limiter, Limits, Quota, ThrottleLayer, llm::{Price, openai}};
    ///
    /// // At most 40 a month.
    /// let budget = Quota::per_month("cost", 40_000_000);
    /// let quotas = openai::quotas().rpm(500).tpm(30_000).and(budget);
    /// let limiter = Limiter::new(Limits::new().bucket("gpt-4o", quotas))?;
    /// let rules = openai::rules().prices([("gpt-4o", Price::new(2.5, 10.0).cached(1.25))]);
    ///
    /// let request = br#"{"model":"gpt-4o-2024-11-20","max_tokens":500,"messages":[]}"#;
    /// assert_eq!(rules.demand(request)?.usage().get("cost"), Some(5_008));
    /// let layer = ThrottleLayer::openai_compatible(limiter, rules);
    /// # Ok::<_, tower_throttle::BoxError>(())
    /// ```
    #[must_use]
    pub fn prices<N: Into<String>>(mut self, prices: impl IntoIterator<Item = (N, Price)>) -> Self {
        let prices = prices.into_iter().map(|(name, price)| (name.into(), price));
        Arc::make_mut(&mut self.prices).extend(prices);
        self
    }

    /// Returns the bucket of a model.
    pub fn bucket_of(&self, model: &str) -> String {
        if let Some(bucket_of) = &self.bucket_of {
            return bucket_of(model);
        }
        match &self.declared_in {
            Some(limiter) => {
                let declares = |name: &str, or: &str| limiter.declares(name, or);
                self.preset.naming.bucket(model, declares).into_owned()
            }
            None => self.preset.naming.family(model).into_owned(),
        }
    }

    /// Lets the limiter accept the names of models, unless [`bucket`](Self::bucket) names the
    /// buckets: what that makes of a bucket's own name, only its author knows.
    fn teach(&self, limiter: &Limiter) {
        if self.bucket_of.is_none() {
            let naming = self.preset.naming;
            let bucket = move |model: &str, table: &Table| {
                naming.bucket(model, |name, or| table.declares(name, or)).into_owned()
            };
            limiter.learn(self.preset.name, &(Arc::new(bucket) as Naming));
        }
    }

    /// Returns what a request asks for, from its JSON.
    ///
    /// # Errors
    /// If it is no JSON object, or names no model, and [`unreadable`](Self::unreadable) does not
    /// say what then.
    pub fn demand(&self, body: &[u8]) -> Result<Demand, BadRequest> {
        self.demand_at("", body)
    }

    /// Returns what a request asks for, from its path and its JSON.
    ///
    /// ```
    /// use tower_throttle::llm::bedrock;
    ///
    /// let path = "/model/us.anthropic.claude-sonnet-4-20250514-v1%3A0/invoke";
    /// let body = br#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":10,"messages":[]}"#;
    /// let demand = bedrock::rules().demand_at(path, body)?;
    /// assert_eq!(demand.buckets().collect::<Vec<_>>(), ["us.anthropic.claude-sonnet-4"]);
    /// # Ok::<_, tower_throttle::BoxError>(())
    /// ```
    ///
    /// # Errors
    /// If the body is no JSON object, or neither names a model, and
    /// [`unreadable`](Self::unreadable) does not say what then.
    pub fn demand_at(&self, path: &str, body: &[u8]) -> Result<Demand, BadRequest> {
        let demand = self.parse(body).and_then(|mut request| {
            // A question to OpenAI's Responses may look like a text to embed.
            request.generates |= path.ends_with("/responses");
            let model = self.model(path, &request).ok_or(BadRequest::NoModel)?;
            Ok(self.demand_of(&model, &request))
        });
        demand.or_else(|error| self.unreadable.clone().ok_or(error))
    }

    /// Returns the usage that a request asks for, whatever model it names, for a bucket that a
    /// route or a closure chooses.
    ///
    /// ```
    /// use tower_throttle::{Demand, llm::compatible};
    ///
    /// let body = br#"{"max_tokens":10,"messages":[]}"#;
    /// let demand = Demand::new("gateway", compatible::rules().usage_of_request(body)?);
    /// assert_eq!(demand.usage().get("output_tokens"), Some(10));
    /// # Ok::<_, tower_throttle::BoxError>(())
    /// ```
    ///
    /// # Errors
    /// If it is no JSON object.
    pub fn usage_of_request(&self, body: &[u8]) -> Result<Usage, BadRequest> {
        let request = self.parse(body)?;
        let model = request.model.as_deref().unwrap_or_default();
        Ok(self.estimate(model, &request).usage(Expected::UNKNOWN))
    }

    fn parse(&self, body: &[u8]) -> Result<ParsedRequest, BadRequest> {
        ParsedRequest::read(body, &*self.estimator)
    }

    fn model<'r>(&self, path: &'r str, request: &'r ParsedRequest) -> Option<Cow<'r, str>> {
        let named =
            || self.model_of_path.as_ref().and_then(|model_of| model_of(path)).map(Cow::Owned);
        let in_path = || named().or_else(|| model_in_path(path));
        let in_body = || request.model.as_deref().map(Cow::Borrowed);
        match self.preset.model {
            ModelPlace::Body => in_body().or_else(in_path),
            ModelPlace::Path => in_path().or_else(in_body),
        }
    }

    fn demand_of(&self, model: &str, request: &ParsedRequest) -> Demand {
        let bucket = self.bucket_of(model);
        let price = self.prices.get(model).or_else(|| self.prices.get(&bucket)).copied();
        let mut estimate = CallEstimate { price, ..self.estimate(model, request) };
        let learns = self.preset.output == Output::Learned || price.is_some();
        if !learns && estimate.output_weight == 1 && estimate.choices == 1 {
            // What the provider says is about the model, whatever else the demand comes to name.
            return Demand::new(&bucket, estimate.usage(Expected::UNKNOWN)).account(bucket);
        }
        let mut expected = Expected::UNKNOWN;
        if learns {
            let (known, open) = self.learned.begin(&bucket, estimate.shape);
            (expected, estimate.open) = (known, Some(open));
        }
        let estimate = Arc::new(estimate);
        let demand = Demand::new(&bucket, estimate.usage(expected)).account(bucket);
        demand.note(estimate.clone()).estimated_by(estimate)
    }

    /// The estimate of a request, without what its tokens cost.
    fn estimate(&self, model: &str, request: &ParsedRequest) -> CallEstimate {
        let ParsedRequest { bound, has_tools, has_format, generates, choices, .. } = *request;
        let input = self.input(model, request);
        CallEstimate {
            shape: CallShape { input, bound, has_tools, has_format },
            choices,
            longest: bound.unwrap_or(if generates { u64::MAX } else { 0 }),
            unbounded: self.preset.unbounded(model),
            output: self.preset.output,
            tokens: self.preset.tokens,
            inputs: self.inputs.clone().map(|metric| (metric, request.inputs)),
            output_weight: self.output_weight(model),
            price: None,
            open: None,
        }
    }

    fn input(&self, model: &str, request: &ParsedRequest) -> u64 {
        let media = request.media.iter().map(|media| self.preset.media.tokens(model, *media));
        let tokens = request.text_tokens + media.sum::<f64>();
        let overhead = self.preset.overhead.tokens(request.has_tools);
        let overhead = if request.generates { overhead } else { 0 };
        // The cast saturates, and makes 0 of what is no number.
        (tokens.ceil() as u64).saturating_add(overhead)
    }

    /// The usage that counts of the tokens told.
    pub(super) fn used(&self, counts: &TokenCounts, in_full: bool) -> Usage {
        let weight = if in_full { 1.0 } else { self.preset.cached };
        let cached = counts.cached.map(|cached| (cached as f64 * weight).ceil() as u64);
        let input = counts.fresh.map(|fresh| fresh.saturating_add(cached.unwrap_or(0)));
        let told = [
            ("input_tokens", input.or(cached)),
            ("output_tokens", counts.output),
            ("tokens", counts.total),
        ];
        let mut usage = Usage::new();
        told.into_iter()
            .filter_map(|(metric, amount)| Some((metric, amount?)))
            .for_each(|(metric, amount)| usage.set(metric, amount));
        usage
    }

    /// Returns what is charged of a usage: `tokens` stays as it was reserved, where it does at the
    /// provider.
    pub fn charged(&self, used: Usage, reserved: &Usage) -> Usage {
        match (self.preset.tokens_at_end, reserved.get("tokens")) {
            (AtEnd::Reserved, Some(tokens)) => used.with("tokens", tokens),
            _ => used,
        }
    }

    /// How much an output token of a model weighs in `tokens` when a call ends.
    fn output_weight(&self, model: &str) -> u64 {
        let mut weights = self.preset.burndown.iter();
        weights.find(|(part, _)| model.contains(part)).map_or(1, |(_, weight)| *weight)
    }

    /// True if a token read from a cache counts in full for this model.
    pub(super) fn cached_in_full(&self, model: &str) -> bool {
        self.preset.cached_in_full.iter().any(|start| model.starts_with(start))
    }

    pub(super) fn headers(&self) -> &'static [HeaderSpec] {
        self.preset.headers
    }

    pub(super) fn excess(&self) -> Excess {
        self.preset.excess
    }

    /// True if it makes a difference which model answers.
    pub(super) fn models_matter(&self) -> bool {
        !self.preset.cached_in_full.is_empty()
    }

    pub(super) fn after_stream_error(&self) -> Charge {
        self.preset.on_stream_error
    }

    /// The charge of a status, if it decides by itself.
    pub(super) fn after_status(&self, status: u16) -> Option<Charge> {
        let rules = self.changed_statuses.iter().chain(self.preset.on_status);
        let is_meant = |OnStatus(first, last, _): &OnStatus| (*first..=*last).contains(&status);
        let rule = rules.copied().find(is_meant).map(|rule| rule.2);
        // A wrong key must not use up what all share.
        rule.or_else(|| is_bad_request(status).then_some(Charge::Request))
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
        f.debug_struct("Rules").field("provider", &self.preset.name).finish_non_exhaustive()
    }
}
