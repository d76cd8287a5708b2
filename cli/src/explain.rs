//! `explain`: which bucket a model or a name has by a limits file, and which quotas.

use std::path::PathBuf;

use tower_throttle::{
    Limiter,
    file::LimitsFile,
    llm::{Rules, anthropic, gemini, openai},
};

use crate::{
    check::in_file,
    failure::Failure,
    file_words::{self, File},
    words,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A limits file, in TOML or JSON
    limits: PathBuf,
    /// A model, or any name that demands have
    model: String,
    /// Read the name as the layer of this provider does. By default as it is, and if it has no
    /// bucket, as each of them does
    #[arg(long)]
    provider: Option<Provider>,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Provider {
    Openai,
    Anthropic,
    Gemini,
}

impl Provider {
    const ALL: [Self; 3] = [Self::Openai, Self::Anthropic, Self::Gemini];

    fn name(self) -> &'static str {
        match self {
            Self::Openai => "OpenAI",
            Self::Anthropic => "Anthropic",
            Self::Gemini => "Gemini",
        }
    }

    fn rules(self) -> Rules {
        match self {
            Self::Openai => openai::rules(),
            Self::Anthropic => anthropic::rules(),
            Self::Gemini => gemini::rules(),
        }
    }
}

pub(crate) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { limits, model, provider } = arguments;
    let limiter = LimitsFile::read(limits)?.limits();
    let limiter = Limiter::new(limiter).map_err(|error| in_file(limits, error))?;
    let file = file_words::read(limits)?;
    let shown = words::plain(model);

    let as_it_is = if provider.is_some() { None } else { bucket_of(&limiter, model).await };
    if let Some(bucket) = as_it_is {
        print!("{shown}{}\n{}", why(&file, model, &bucket), file_words::of_bucket(&file, &bucket));
        return Ok(());
    }
    if provider.is_none() && file.are_others_unlimited() {
        println!("{shown}: no bucket, so it passes unlimited and uncounted");
        return Ok(());
    }
    for provider in provider.map_or(Provider::ALL.to_vec(), |provider| vec![provider]) {
        let name = provider.rules().declared_in(&limiter).bucket_of(model);
        if let Some(bucket) = bucket_of(&limiter, &name).await {
            let why = why(&file, &name, &bucket);
            let what = if name == *model {
                String::new()
            } else {
                format!(": as `{}`", words::plain(&name))
            };
            print!(
                "{shown}{what} by the layer for {}{why}\n{}",
                provider.name(),
                file_words::of_bucket(&file, &bucket)
            );
            return Ok(());
        }
        if file.are_others_unlimited() {
            println!("{shown}: no bucket, so it passes unlimited and uncounted");
            return Ok(());
        }
    }
    Err(Failure::Unknown(format!(
        "`{shown}` has no bucket, so its demands are refused; the limits have {}",
        file.buckets().map(|(name, _)| words::plain(name)).collect::<Vec<_>>().join(", ")
    )))
}

/// The bucket that a limiter counts a name in, if it has quotas.
async fn bucket_of(limiter: &Limiter, name: &str) -> Option<String> {
    Some(limiter.status(name).await.ok()?.bucket.to_string())
}

/// Why a name has a bucket.
fn why(file: &File, name: &str, bucket: &str) -> String {
    if name == bucket {
        return String::new();
    }
    match file.family(name, bucket) {
        Some(pattern) => format!(": of the family `{}`", words::plain(pattern)),
        None => ": one of those that are declared nowhere".to_owned(),
    }
}
