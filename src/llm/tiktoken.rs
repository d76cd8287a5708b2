//! Counts tokens with OpenAI's own vocabularies.

use tiktoken_rs::{
    bpe_for_tokenizer,
    tokenizer::{Tokenizer, get_tokenizer},
};

use super::estimate::{ByScript, Estimator};

/// Longer texts are counted in parts of this many bytes: the tokenizer's expressions backtrack, and give up on long
/// runs of blanks. A cut adds a token or two.
const PART: usize = 16 * 1024;

/// Counts tokens with the vocabulary of a model of OpenAI's.
///
/// It takes about a hundred times as long as [`ByScript`], the default (0.1 to 0.2 ms per 1,000 tokens), and several
/// megabytes for the vocabulary, which is loaded at its first use. What a provider adds to the texts remains an
/// estimate; where it is learned ([`Output::Learned`](super::Output::Learned)), or where `tokens` is the larger of input
/// and output, this gains little.
///
/// ```
/// use tower_throttle::llm::{Estimator, Tiktoken, openai};
///
/// let tiktoken = Tiktoken::of_model("gpt-4o").ok_or("no vocabulary")?;
/// assert_eq!(tiktoken.tokens("Why is the sky blue?"), 6.0);
/// let rules = openai::rules().estimator(tiktoken);
/// # let _ = rules;
/// # Ok::<_, &str>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tiktoken {
    tokenizer: Tokenizer,
}

impl Tiktoken {
    /// With the vocabulary of this model and its versions; nothing if it is not known to be OpenAI's.
    pub fn of_model(model: &str) -> Option<Self> {
        get_tokenizer(model).map(|tokenizer| Self { tokenizer })
    }
}

impl Estimator for Tiktoken {
    fn tokens(&self, text: &str) -> f64 {
        let Ok(vocabulary) = bpe_for_tokenizer(self.tokenizer) else {
            return ByScript.tokens(text);
        };
        parts(text).map(|part| vocabulary.count_ordinary(part) as f64).sum()
    }
}

/// The text in parts of at most [`PART`] bytes.
fn parts(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let end = (0..=PART.min(text.len())).rev().find(|end| text.is_char_boundary(*end))?;
        let (part, rest) = text.split_at(end);
        text = rest;
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::llm::estimate;

    fn tiktoken(model: &str) -> Tiktoken {
        Tiktoken::of_model(model).unwrap()
    }

    #[test]
    fn counts_are_those_of_openai() {
        // As OpenAI's own `tiktoken` counts them.
        for (text, o200k, cl100k) in [
            ("", 0.0, 0.0),
            ("hello world", 2.0, 2.0),
            ("tiktoken is great!", 6.0, 6.0),
            ("antidisestablishmentarianism", 6.0, 6.0),
            ("2 + 2 = 4", 7.0, 7.0),
            ("お誕生日おめでとう", 8.0, 9.0),
        ] {
            assert_eq!(tiktoken("gpt-4o").tokens(text), o200k, "{text}");
            assert_eq!(tiktoken("gpt-4").tokens(text), cl100k, "{text}");
        }
    }

    #[test]
    fn the_corpora_are_counted_rightly() {
        let corpora = estimate::tests::corpora();
        for (title, text, tokens) in corpora.into_iter().flatten() {
            assert_eq!(tiktoken("gpt-4o").tokens(text), tokens as f64, "{title}");
        }
    }

    #[test]
    fn models_have_the_vocabularies_of_their_families() {
        for model in ["gpt-4o-2024-11-20", "gpt-4.1-mini", "o3", "gpt-5"] {
            assert_eq!(tiktoken(model).tokenizer, Tokenizer::O200kBase, "{model}");
        }
        assert_eq!(tiktoken("text-embedding-3-small").tokenizer, Tokenizer::Cl100kBase);
        assert!(Tiktoken::of_model("claude-sonnet-4-5").is_none());
    }

    #[test]
    fn long_texts_are_counted_in_parts() {
        let words = "and so on ".repeat(20_000);
        assert!((60_000.0..60_100.0).contains(&tiktoken("gpt-4o").tokens(&words)));
        for odd in [" ", "\n ", "a", "é", "1", "=", "\u{3000}"] {
            assert!(tiktoken("gpt-4o").tokens(&odd.repeat(100_000)) > 100.0, "{odd:?}");
        }
        assert_eq!(parts(&"空".repeat(20_000)).map(str::len).max(), Some(PART - 1));
        assert_eq!(parts(&words).collect::<String>(), words);
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in any::<String>()) {
            prop_assert!(tiktoken("gpt-4o").tokens(&text) <= text.len() as f64);
        }
    }
}
