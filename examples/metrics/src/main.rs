//! Makes calls, and serves its metrics on http://127.0.0.1:9464/metrics for ten seconds, or as long
//! as the argument says.

use std::{sync::Arc, time::Duration};

use metrics_example::{Observed, serve};
use tokio::{net::TcpListener, time::timeout};
use tower_throttle::BoxError;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let seconds = std::env::args().nth(1).map_or(Ok(10), |seconds| seconds.parse())?;
    let observed = Arc::new(Observed::install()?);
    let listener = TcpListener::bind("127.0.0.1:9464").await?;
    println!("http://{}/metrics for {seconds} s", listener.local_addr()?);
    let serving = serve(observed.clone(), listener);
    let both = async { tokio::try_join!(work(&observed), serving).map(|((), ())| ()) };
    timeout(Duration::from_secs(seconds), both).await.unwrap_or(Ok(()))
}

/// Makes calls until one fails.
async fn work(observed: &Observed) -> Result<(), BoxError> {
    loop {
        observed.work(10).await?;
    }
}
