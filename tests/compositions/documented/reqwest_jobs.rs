use std::time::Duration;

use reqwest::{Client, Request, Response};
use tower::{Service, ServiceBuilder};
use tower_throttle::{BoxError, Extractor, Limiter, ThrottleLayer, llm::openai};

pub(crate) struct Job {
    pub(crate) tenant: String,
    pub(crate) max_wait: Duration,
    pub(crate) http: Request,
}

pub(crate) fn client(
    limiter: Limiter,
) -> impl Service<Job, Response = Response, Error = BoxError, Future: Send> + Clone + Send + Sync + 'static
{
    let rules = openai::rules().declared_in(&limiter);
    let extractor = rules.extractor();
    let throttle = ThrottleLayer::from_fn(limiter, move |job: &mut Job| {
        let demand = extractor.extract(&mut job.http)?.max_wait(job.max_wait);
        Ok(demand.and_first(&job.tenant).share(&job.tenant))
    });
    ServiceBuilder::new()
        .layer(throttle.inspector(rules.inspector()))
        .map_request(|job: Job| job.http)
        .service(Client::new())
}
