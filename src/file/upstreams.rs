//! Upstreams: where `tower-throttle serve` sends calls. A process that makes its calls itself reads
//! the same file and needs none of this.

use std::{fmt, time::Duration};

use http::Uri;
use serde::Deserialize;

use super::{UndeclaredText, named::NamedTable, text::Length};
use crate::limits::{LimitsError, Undeclared};
#[cfg(feature = "llm")]
use crate::{
    demand::Demand,
    llm::{Rules, anthropic, azure, compatible, gemini, openai, vertex},
    usage,
};

/// Default of [`Upstream::max_wait`]: below the time-outs of clients.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Default of [`Upstream::timeout`]: that of most clients.
const TIMEOUT: Duration = Duration::from_secs(600);
/// What the service answers itself.
const TAKEN: [&str; 3] = ["healthz", "metrics", "readyz"];

/// The rules that an upstream can have, by their names in a file.
const PROVIDERS: [&str; 18] = [
    "anthropic",
    "azure",
    "cohere",
    "compatible",
    "deepseek",
    "fireworks",
    "gemini",
    "groq",
    "mistral",
    "ollama",
    "openai",
    "openrouter",
    "perplexity",
    "together",
    "vertex-claude",
    "vertex-gemini",
    "vllm",
    "xai",
];

/// A provider behind `tower-throttle serve`: where calls go, and by whose rules they are counted.
///
/// ```
/// use tower_throttle::file::LimitsFile;
///
/// let file = LimitsFile::from_toml(r#"
///     [upstreams.openai]
///     url = "https://api.openai.com"
/// "#)?;
/// let [openai] = file.upstreams() else { panic!("there is one") };
/// assert_eq!((openai.name(), openai.provider()), ("openai", "openai"));
/// assert_eq!(openai.url().host(), Some("api.openai.com"));
/// # Ok::<_, tower_throttle::LimitsError>(())
/// ```
#[derive(Clone)]
pub struct Upstream {
    name: String,
    url: Uri,
    provider: &'static str,
    max_wait: Option<Duration>,
    timeout: Duration,
    unreadable: Undeclared,
    include_usage: bool,
}

impl Upstream {
    /// Returns the name, which is the first segment of the path at the service.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns where calls go: `http` or `https`, a host, and a path that stands before theirs.
    pub fn url(&self) -> &Uri {
        &self.url
    }

    /// Returns the name of the provider by whose rules calls are counted.
    pub fn provider(&self) -> &'static str {
        self.provider
    }

    /// Returns how long a call waits at most that does not fit (default: a minute); nothing if it
    /// is refused at once.
    pub fn max_wait(&self) -> Option<Duration> {
        self.max_wait
    }

    /// Returns how long the head of a response may take (default: ten minutes).
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns what becomes of requests from which the rules read no model.
    pub fn unreadable(&self) -> &Undeclared {
        &self.unreadable
    }

    /// Returns true if streams are asked for their usage.
    pub fn include_usage(&self) -> bool {
        self.include_usage
    }

    /// Returns the rules, with what the file changes of them but for
    /// [prices](super::LimitsFile::prices).
    #[cfg(feature = "llm")]
    pub fn rules(&self) -> Rules {
        let rules = rules(self.provider);
        let rules = if self.include_usage() { rules.include_usage() } else { rules };
        match &self.unreadable {
            Undeclared::Refuse => rules,
            Undeclared::Unlimited => rules.unreadable(Demand::unlimited()),
            Undeclared::Bucket(bucket) => {
                rules.unreadable(Demand::new(bucket, usage! { requests: 1 }))
            }
        }
    }
}

/// The rules of a name in [`PROVIDERS`].
#[cfg(feature = "llm")]
fn rules(provider: &str) -> Rules {
    match provider {
        "anthropic" => anthropic::rules(),
        "azure" => azure::rules(),
        "cohere" => compatible::cohere(),
        "deepseek" => compatible::deepseek(),
        "fireworks" => compatible::fireworks(),
        "gemini" => gemini::rules(),
        "groq" => compatible::groq(),
        "mistral" => compatible::mistral(),
        "ollama" => compatible::ollama(),
        "openai" => openai::rules(),
        "openrouter" => compatible::openrouter(),
        "perplexity" => compatible::perplexity(),
        "together" => compatible::together(),
        "vertex-claude" => vertex::claude_rules(),
        "vertex-gemini" => vertex::gemini_rules(),
        "vllm" => compatible::vllm(),
        "xai" => compatible::xai(),
        _ => compatible::rules(),
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("name", &self.name)
            .field("url", &self.url)
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

/// An upstream as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamText {
    url: String,
    rules: Option<String>,
    #[serde(default)]
    when_full: WhenFull,
    max_wait: Option<Length>,
    timeout: Option<Length>,
    #[serde(default)]
    unreadable: UndeclaredText,
    #[serde(default)]
    include_usage: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WhenFull {
    #[default]
    Wait,
    Refuse,
}

/// Reads all upstreams. The error names the one that makes no sense.
pub(super) fn upstreams(
    texts: &NamedTable<UpstreamText>,
    is_bucket: impl Fn(&str) -> bool,
) -> Result<Vec<Upstream>, LimitsError> {
    let upstreams = texts.0.iter().map(|(name, text)| {
        let at = |reason| LimitsError::at(format!("upstreams.{name}"), reason);
        let upstream = text.upstream(name).map_err(at)?;
        match &upstream.unreadable {
            Undeclared::Bucket(bucket) if !is_bucket(bucket) => {
                Err(at(format!("`unreadable` names the bucket `{bucket}`, which is not declared")))
            }
            _ => Ok(upstream),
        }
    });
    upstreams.collect()
}

impl UpstreamText {
    fn upstream(&self, name: &str) -> Result<Upstream, String> {
        check_name(name)?;
        let max_wait = match (self.when_full, self.max_wait) {
            (WhenFull::Wait, max_wait) => Some(max_wait.map_or(MAX_WAIT, |length| length.0)),
            (WhenFull::Refuse, None) => None,
            (WhenFull::Refuse, Some(_)) => {
                return Err("`max_wait` means nothing where `when_full` is \"refuse\"".into());
            }
        };
        let timeout = self.timeout.map_or(TIMEOUT, |length| length.0);
        if timeout.is_zero() {
            return Err("its `timeout` is zero: no response could be in time".into());
        }
        Ok(Upstream {
            name: name.to_owned(),
            url: url(&self.url)?,
            provider: provider(name, self.rules.as_deref())?,
            max_wait,
            timeout,
            unreadable: self.unreadable.meant(),
            include_usage: self.include_usage,
        })
    }
}

/// A name is a segment of a path that needs no escapes.
fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(is_plain) || name.chars().all(|c| c == '.') {
        let reason = "it stands in paths: name it with letters, digits, `-`, `_` and `.` only";
        return Err(reason.into());
    }
    match TAKEN.contains(&name) {
        true => Err(format!("the service answers `/{name}` itself: name it differently")),
        false => Ok(()),
    }
}

/// Reads a URL. The reason does not repeat it: there may be a secret in it.
fn url(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|error| format!("its `url` is none: {error}"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err("its `url` begins neither with `https://` nor with `http://`".into());
    }
    if url.authority().is_none_or(|authority| authority.as_str().contains('@')) {
        return Err("its `url` has a user or a password: clients send their keys themselves".into());
    }
    match url.query() {
        Some(_) => Err("its `url` has a query, which clients send themselves".into()),
        None => Ok(url),
    }
}

fn provider(name: &str, rules: Option<&str>) -> Result<&'static str, String> {
    let asked = rules.unwrap_or(name);
    if let Some(provider) = PROVIDERS.iter().find(|provider| **provider == asked) {
        return Ok(provider);
    }
    let known = PROVIDERS.join(", ");
    Err(match rules {
        Some(rules) => format!("there are no rules `{rules}`: `rules` is one of {known}"),
        None => format!("it needs `rules`, since no provider has its name: one of {known}"),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::LimitsFile;

    fn read(text: &str) -> Result<super::Upstream, String> {
        let file = LimitsFile::from_toml(text).map_err(|error| error.to_string())?;
        Ok(file.upstreams()[0].clone())
    }

    #[test]
    fn upstreams_are_read() {
        let openai = read("[upstreams.openai]\nurl = 'https://api.openai.com'").unwrap();
        assert_eq!((openai.name(), openai.provider()), ("openai", "openai"));
        assert_eq!(openai.max_wait(), Some(Duration::from_secs(60)));
        assert_eq!(openai.timeout(), Duration::from_secs(600));

        let mine = read(
            "[upstreams.mine]\nurl = 'http://[::1]:8000/base'\nrules = 'vllm'\nmax_wait = '5 s'",
        );
        let mine = mine.unwrap();
        assert_eq!((mine.provider(), mine.url().path()), ("vllm", "/base"));
        assert_eq!(mine.max_wait(), Some(Duration::from_secs(5)));

        let refusing =
            "[upstreams.groq]\nurl = 'https://api.groq.com/openai'\nwhen_full = 'refuse'";
        assert_eq!(read(refusing).unwrap().max_wait(), None);
    }

    #[test]
    fn upstreams_are_no_limits() {
        let buckets = r#""buckets": {"b": {"quotas": [{"kind": "concurrency", "limit": 1}]}}"#;
        let upstreams = r#""upstreams": {"openai": {"url": "https://api.openai.com"}}"#;
        let file = LimitsFile::from_json(&format!("{{{buckets}, {upstreams}}}")).unwrap();
        assert_eq!((file.upstreams().len(), file.beyond_limits()), (1, None));
        let limiter = file.limiter().build().unwrap();
        assert_eq!(limiter.buckets().len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let openai = "[upstreams.openai]\nurl = 'https://api.openai.com'\n";
        for (text, reason) in [
            (format!("{openai}retries = 3"), "unknown field `retries`"),
            ("[upstreams.openai]\nrules = 'openai'".into(), "missing field `url`"),
            (format!("{openai}rules = 'opnai'"), "there are no rules `opnai`"),
            (format!("{openai}when_full = 'drop'"), "unknown variant `drop`"),
            (format!("{openai}when_full = 'refuse'\nmax_wait = '1 s'"), "means nothing"),
            (format!("{openai}timeout = '0 s'"), "its `timeout` is zero"),
            (format!("{openai}unreadable = {{ bucket = 'b' }}"), "`b`, which is not declared"),
            ("[upstreams.us]\nurl = 'https://a.b'".into(), "it needs `rules`"),
            ("[upstreams.metrics]\nurl = 'https://a.b'".into(), "answers `/metrics` itself"),
            ("[upstreams.'a/b']\nurl = 'https://a.b'".into(), "it stands in paths"),
            ("[upstreams.'..']\nurl = 'https://a.b'".into(), "it stands in paths"),
            ("[upstreams.openai]\nurl = 'ftp://a.b'".into(), "begins neither"),
            ("[upstreams.openai]\nurl = 'a.b'".into(), "begins neither"),
            ("[upstreams.openai]\nurl = 'https://k:s3cret@a.b'".into(), "a user or a password"),
            ("[upstreams.openai]\nurl = 'https://a.b?key=s3cret'".into(), "has a query"),
            ("[upstreams.openai]\nurl = 'https://s3cret secret'".into(), "is none"),
        ] {
            let refused = read(&text).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
            assert!(!refused.contains("s3cret"), "{refused}");
        }
    }

    #[cfg(feature = "llm")]
    #[test]
    fn each_provider_has_its_rules() {
        for provider in super::PROVIDERS {
            let text = format!("[upstreams.up]\nurl = 'https://a.b'\nrules = '{provider}'");
            let rules = format!("{:?}", read(&text).unwrap().rules());
            let is_general = rules.contains("an OpenAI-compatible provider");
            assert_eq!(is_general, provider == "compatible", "{provider}: {rules}");
        }
    }
}
