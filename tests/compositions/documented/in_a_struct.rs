use std::time::Duration;

use reqwest::{Client, Request, Response};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_throttle::{BoxError, Limiter, ThrottleLayer};

#[derive(Clone)]
pub(crate) struct Provider {
    client: BoxCloneSyncService<Request, Response, BoxError>,
}

impl Provider {
    pub(crate) fn new(limiter: Limiter) -> Self {
        let stack = ServiceBuilder::new()
            .timeout(Duration::from_secs(600))
            .layer(ThrottleLayer::openai(limiter))
            .service(Client::new());
        Self { client: BoxCloneSyncService::new(stack) }
    }

    pub(crate) async fn chat(&self, request: Request) -> Result<Response, BoxError> {
        self.client.clone().oneshot(request).await
    }
}
