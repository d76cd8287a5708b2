use rig_core::providers::openai::{OpenAI, OpenAIConfig};
use rig_example::ThrottledClient;
use rig_reqwest::ReqwestClient;
use tower_throttle::{Limiter, ThrottleLayer};

pub(crate) fn client(limiter: Limiter, config: OpenAIConfig) -> OpenAI {
    config.connect(ThrottledClient::new(ReqwestClient::default(), ThrottleLayer::openai(limiter)))
}
