//! The model or deployment that a request's path names.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Segments that stand before the name.
const BEFORE: &[&str] = &["deployments", "model", "engines"];
/// Segments that stand before a name that ends with a method, such as
/// `gemini-2.5-pro:generateContent`.
const BEFORE_METHOD: &[&str] = &["models", "tunedModels", "endpoints"];

/// Returns the name in the path of Azure (`/openai/deployments/{name}/..`), Bedrock
/// (`/model/{name}/..`), Gemini or Vertex (`/models/{name}:method`).
pub(super) fn model_in_path(path: &str) -> Option<Cow<'_, str>> {
    let mut segments = path.split('/');
    let name = loop {
        let segment = segments.next()?;
        if BEFORE.contains(&segment) {
            // Something is done with it.
            let name = segments.next()?;
            break segments.next().map(|_| name)?;
        }
        if BEFORE_METHOD.contains(&segment) {
            break segments.next()?.rsplit_once(':')?.0;
        }
    };
    let name = percent_decode_str(name).decode_utf8_lossy();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_provider_s_paths_are_read() {
        for (path, model) in [
            ("/openai/deployments/chat-prod/chat/completions", Some("chat-prod")),
            (
                "/model/us.anthropic.claude-sonnet-4-20250514-v1%3A0/invoke",
                Some("us.anthropic.claude-sonnet-4-20250514-v1:0"),
            ),
            ("/v1beta/models/gemini-2.5-pro:streamGenerateContent", Some("gemini-2.5-pro")),
            (
                "/v1/projects/p/publishers/anthropic/models/claude-sonnet-4@20250514:rawPredict",
                Some("claude-sonnet-4@20250514"),
            ),
            ("/v1/chat/completions", None),
            ("/v1/models", None),
            ("/v1/models/gpt-4o", None),
            ("/model/", None),
            ("", None),
        ] {
            assert_eq!(model_in_path(path).as_deref(), model, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_is_too_odd(path in "(/|models|model|deployments|:|%|%ff|\\PC){0,20}") {
            let _ = model_in_path(&path);
        }
    }
}
