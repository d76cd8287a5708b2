use std::time::Duration;
use tower::retry::Policy;
use tower_throttle::{BoxError, Throttled};

#[derive(Clone)]
pub(crate) struct Attempts(pub(crate) u8);

impl<Answer> Policy<String, Answer, BoxError> for Attempts {
    type Future = tokio::time::Sleep;

    fn retry(
        &mut self,
        _: &mut String,
        result: &mut Result<Answer, BoxError>,
    ) -> Option<Self::Future> {
        let error = result.as_ref().err()?;
        self.0 = self.0.checked_sub(1)?;
        let pause = match Throttled::find(error.as_ref()) {
            // Nothing where it is never, or unknown; and it has waited for long.
            Some(throttled) => throttled.retry_after().filter(|wait| wait.as_secs() < 5)?,
            None => Duration::from_millis(200),
        };
        Some(tokio::time::sleep(pause))
    }

    fn clone_request(&mut self, request: &String) -> Option<String> {
        Some(request.clone())
    }
}
