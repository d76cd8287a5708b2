//! Which models share a bucket.

use std::borrow::Cow;

use wildmatch::WildMatch;

/// How a provider names its models, as data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Naming {
    /// Beginnings that say where a model is and not which.
    pub(crate) prefixes: &'static [&'static str],
    /// Endings that tell a version and not a model; `#` stands for a digit.
    pub(crate) versions: &'static [&'static str],
    /// Patterns of models that share the limits of one name.
    pub(crate) shared: &'static [(&'static str, &'static str)],
}

impl Naming {
    /// Returns the bucket of a model: its own name where that is declared, or else that of its
    /// family, with its prefix only where that is declared.
    pub(crate) fn bucket<'m>(
        &self,
        model: &'m str,
        declares: impl Fn(&str, &str) -> bool,
    ) -> Cow<'m, str> {
        let family = self.family(model);
        if family == model || declares(model, &family) {
            return Cow::Borrowed(model);
        }
        let prefixed = Self { prefixes: &[], ..*self }.family(model);
        if prefixed != family && declares(&prefixed, &family) { prefixed } else { family }
    }

    /// Returns the name that stands for all models that share the limits of `model`.
    pub(crate) fn family<'m>(&self, model: &'m str) -> Cow<'m, str> {
        // arn:aws:bedrock:<region>:<account>:inference-profile/<model>
        let base = if model.starts_with("arn:") {
            model.rsplit('/').next().unwrap_or(model)
        } else {
            model
        };
        // ft:<base>:<organisation>:<name>:<id> runs on the limits of its base.
        let base = base.strip_prefix("ft:").and_then(|rest| rest.split(':').next()).unwrap_or(base);
        let base =
            self.prefixes.iter().find_map(|prefix| base.strip_prefix(prefix)).unwrap_or(base);
        let base = self.versions.iter().find_map(|version| without(base, version)).unwrap_or(base);
        // A pattern is compiled only for a model that begins as it does.
        let matches = |pattern: &str| {
            let start = pattern.split(['*', '?']).next().unwrap_or_default();
            base.starts_with(start) && WildMatch::new(pattern).matches(base)
        };
        match self.shared.iter().find(|(pattern, _)| matches(pattern)) {
            Some((_, family)) => Cow::Borrowed(family),
            None => Cow::Borrowed(base),
        }
    }
}

/// Returns what stands before the version, unless nothing does.
fn without<'m>(model: &'m str, version: &str) -> Option<&'m str> {
    let start = model.len().checked_sub(version.len()).filter(|start| *start > 0)?;
    let (base, end) = model.split_at_checked(start)?;
    let alike = |(byte, pattern): (u8, u8)| {
        if pattern == b'#' { byte.is_ascii_digit() } else { byte == pattern }
    };
    end.bytes().zip(version.bytes()).all(alike).then_some(base)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::llm::presets;

    #[test]
    fn aliases_and_dates_share_a_bucket_and_sizes_do_not() {
        let openai = |model| presets::OPENAI.naming.family(model).into_owned();
        for (model, family) in [
            ("gpt-4o", "gpt-4o"),
            ("gpt-4o-2024-11-20", "gpt-4o"),
            ("gpt-4o-mini", "gpt-4o-mini"),
            ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
            ("ft:gpt-4o-mini-2024-07-18:acme::x1", "gpt-4o-mini"),
            ("gpt-4-0613", "gpt-4"),
            ("gpt-4-0125-preview", "gpt-4-turbo"),
            ("gpt-4-turbo-2024-04-09", "gpt-4-turbo"),
            ("gpt-4.1-nano-2025-04-14", "gpt-4.1-nano"),
            ("o3-mini-2025-01-31", "o3-mini"),
            ("text-embedding-3-small", "text-embedding-3-small"),
            ("gpt-3.5-turbo-0125", "gpt-3.5-turbo"),
        ] {
            assert_eq!(openai(model), family, "{model}");
        }

        let anthropic = |model| presets::ANTHROPIC.naming.family(model).into_owned();
        for (model, family) in [
            ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
            ("claude-sonnet-4-5", "claude-sonnet-4-5"),
            ("claude-sonnet-4-6", "claude-sonnet-4-5"),
            ("claude-sonnet-4-20250514", "claude-sonnet-4"),
            ("claude-sonnet-4-0", "claude-sonnet-4"),
            ("claude-opus-4-20250514", "claude-opus-4"),
            ("claude-opus-4-1-20250805", "claude-opus-4"),
            ("claude-opus-4-5", "claude-opus-4"),
            ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
            ("claude-3-5-haiku-latest", "claude-3-5-haiku"),
            ("claude-3-5-haiku@20241022", "claude-3-5-haiku"),
        ] {
            assert_eq!(anthropic(model), family, "{model}");
        }

        let others = |naming: super::Naming, model| naming.family(model).into_owned();
        assert_eq!(others(presets::MISTRAL_AI.naming, "mistral-large-2411"), "mistral-large");
        assert_eq!(others(presets::MISTRAL_AI.naming, "mistral-large-latest"), "mistral-large");
        assert_eq!(others(presets::COHERE_AI.naming, "command-r-plus-08-2024"), "command-r-plus");
        assert_eq!(others(presets::OPENROUTER.naming, "meta/llama-3:free"), "free");
        assert_eq!(others(presets::OPENROUTER.naming, "meta/llama-3"), "meta/llama-3");
        assert_eq!(
            others(presets::GEMINI.naming, "models/gemini-2.0-flash-001"),
            "gemini-2.0-flash"
        );
        assert_eq!(others(presets::GEMINI.naming, "gemini-2.5-pro"), "gemini-2.5-pro");
        for (model, family) in [
            ("anthropic.claude-sonnet-4-20250514-v1:0", "anthropic.claude-sonnet-4"),
            ("us.anthropic.claude-sonnet-4-20250514-v1:0", "us.anthropic.claude-sonnet-4"),
            (
                "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
                "global.anthropic.claude-sonnet-4-5",
            ),
            ("anthropic.claude-3-haiku-20240307-v1:0:48k", "anthropic.claude-3-haiku"),
            (
                "arn:aws:bedrock:us-east-1:1:inference-profile/eu.anthropic.claude-opus-4-1-v1:0",
                "eu.anthropic.claude-opus-4-1",
            ),
            (
                "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0",
                "amazon.nova-lite",
            ),
            ("meta.llama3-3-70b-instruct-v1:0", "meta.llama3-3-70b-instruct"),
            ("openai.gpt-oss-120b-1:0", "openai.gpt-oss-120b-1"),
        ] {
            assert_eq!(others(presets::BEDROCK.naming, model), family, "{model}");
        }
        for (model, family) in [
            ("claude-sonnet-4@20250514", "claude-sonnet-4"),
            ("claude-3-5-sonnet-v2@20241022", "claude-3-5-sonnet"),
            ("claude-opus-4-1@20250805", "claude-opus-4-1"),
        ] {
            assert_eq!(others(presets::VERTEX_CLAUDE.naming, model), family, "{model}");
        }
    }

    #[test]
    fn nothing_is_not_a_family() {
        let family = |model| presets::OPENAI.naming.family(model).into_owned();
        assert_eq!(family(""), "");
        assert_eq!(family("-2024-11-20"), "-2024-11-20");
        assert_eq!(family("日本-2024-11-20"), "日本");
    }

    proptest! {
        #[test]
        fn a_family_is_its_own_family(model in "(ft:)?[a-z0-9é:@-]{0,30}") {
            for preset in [presets::OPENAI, presets::ANTHROPIC, presets::BEDROCK] {
                let naming = preset.naming;
                let family = naming.family(&model).into_owned();
                prop_assert!(family.len() <= model.len().max(20));
            }
        }
    }
}
