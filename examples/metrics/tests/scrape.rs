//! What Prometheus reads.

use std::sync::Arc;

use metrics_example::{Observed, serve};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_what_happened() {
    let observed = Arc::new(Observed::install().expect("the only recorder"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/metrics", listener.local_addr().expect("an address"));
    tokio::spawn(serve(observed.clone(), listener));
    observed.work(20).await.expect("it fits");

    let text = reqwest::get(&url).await.expect("an answer").text().await.expect("text");
    for line in [
        "# TYPE tower_throttle_granted_total counter",
        r#"tower_throttle_granted_total{bucket="gpt-4o",class="batch"} 10"#,
        r#"tower_throttle_in_flight{bucket="gpt-4o",class="none"} 0"#,
        r#"tower_throttle_reserved_total{bucket="gpt-4o",class="none",metric="tokens"} 30000"#,
        r#"tower_throttle_estimate_ratio_bucket{bucket="gpt-4o",class="none",metric="tokens",le="0.5"} 10"#,
        r#"tower_throttle_quota_limit{bucket="gpt-4o",quota="tokens per second"} 20000"#,
        "# TYPE tower_throttle_waited_seconds histogram",
    ] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
}
