use tower::{Layer, Service};
use tower_throttle::{BoxError, Limiter, ThrottleLayer};

#[derive(Clone)]
struct Client;

struct Question(String);

impl Service<Question> for Client {
    type Response = http::Response<String>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, question: Question) -> Self::Future {
        std::future::ready(Ok(http::Response::new(question.0)))
    }
}

fn client(limiter: Limiter) -> impl Service<Question, Error = BoxError, Future: Send> {
    ThrottleLayer::openai(limiter).layer(Client)
}

fn main() {}
