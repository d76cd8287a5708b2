//! Asks for the usage in a stream that would not tell it.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

const OPTIONS: &str = r#""stream_options":{"include_usage":true}"#;
const OPTION: &str = r#""include_usage":true"#;

#[derive(Deserialize)]
struct Request<'a> {
    stream: Option<bool>,
    #[serde(borrow, default, deserialize_with = "as_written")]
    stream_options: Option<&'a RawValue>,
}

/// Null too.
fn as_written<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct Options {
    include_usage: Option<bool>,
}

/// The same request, asking for the usage, if it streams and does not say whether it wants it. All else stays as it
/// was written.
pub(crate) fn asking_for_usage(body: &[u8]) -> Option<Vec<u8>> {
    let request: Request<'_> = serde_json::from_slice(body).ok()?;
    if request.stream != Some(true) {
        return None;
    }
    let Some(options) = request.stream_options else {
        return splice(
            body,
            body.iter().position(|byte| *byte == b'{')? + 1,
            0,
            &format!("{OPTIONS},"),
        );
    };
    let start = (options.get().as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    match serde_json::from_str(options.get()).ok()? {
        None => splice(body, start, options.get().len(), &format!("{{{OPTION}}}")),
        Some(Options { include_usage: Some(_) }) => None,
        Some(Options { include_usage: None }) => {
            let is_empty = options.get().trim_start_matches('{').trim_start().starts_with('}');
            splice(
                body,
                start + 1,
                0,
                &if is_empty { OPTION.to_owned() } else { format!("{OPTION},") },
            )
        }
    }
}

/// The body with a text in the place of some of its bytes.
fn splice(body: &[u8], start: usize, length: usize, text: &str) -> Option<Vec<u8>> {
    Some([body.get(..start)?, text.as_bytes(), body.get(start + length..)?].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(body: &str) -> Option<String> {
        asking_for_usage(body.as_bytes()).map(|body| String::from_utf8(body).unwrap())
    }

    #[test]
    fn streams_that_do_not_say_are_asked() {
        assert_eq!(
            asking(r#" {"model":"m", "stream":true}"#).unwrap(),
            r#" {"stream_options":{"include_usage":true},"model":"m", "stream":true}"#
        );
        assert_eq!(
            asking(r#"{"stream":true,"stream_options":{"include_obfuscation":false}}"#).unwrap(),
            r#"{"stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false}}"#
        );
        assert_eq!(
            asking(r#"{"stream_options":null,"stream":true}"#).unwrap(),
            r#"{"stream_options":{"include_usage":true},"stream":true}"#
        );
        assert_eq!(
            asking(r#"{"stream_options": { },"stream":true}"#).unwrap(),
            r#"{"stream_options": {"include_usage":true },"stream":true}"#
        );
    }

    #[test]
    fn others_are_left_alone() {
        for body in [
            "",
            "[]",
            "{}",
            r#"{"stream":false}"#,
            r#"{"stream":true,"stream_options":{"include_usage":false}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"stream":true,"stream_options":7}"#,
            r#"{"stream":true"#,
        ] {
            assert_eq!(asking(body), None, "{body}");
        }
    }
}
