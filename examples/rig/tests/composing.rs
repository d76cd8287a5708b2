//! The code that docs/composing.md shows.

#[path = "composing/client.rs"]
mod client;

use rig_core::providers::openai::OpenAIConfig;
use tower_throttle::{Limiter, Limits, Quota};

#[test]
fn the_code_of_the_document_compiles() {
    let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("requests", 1)]);
    let limiter = Limiter::new(limits).expect("valid limits");
    let openai = client::client(limiter, OpenAIConfig::new("key"));
    assert_eq!(openai.chat("gpt-4o").id(), Some("gpt-4o"));

    let code = include_str!("composing/client.rs");
    assert!(
        include_str!("../../../docs/composing.md").contains(&code.replace("pub(crate) ", "")),
        "docs/composing.md shows other code"
    );
}
