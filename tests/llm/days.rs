//! Days, weeks and months of a time zone with daylight saving, on both stores. The instants are
//! those of the calendar on the wall, and not computed.

use std::time::{Duration, UNIX_EPOCH};

use tokio::time::advance;
use tower_throttle::{
    Demand, Limiter, Limits, Quota, Throttled, llm::gemini, store::RedisStore, usage,
};

use crate::support::RedisServer;

const ZONE: &str = "America/Los_Angeles";
const HOUR: u64 = 3_600;

/// A window of two calls: when it begins, in seconds since the epoch, and its hours.
struct Window {
    what: &'static str,
    bucket: &'static str,
    begins: u64,
    hours: u64,
}

/// In the order of time.
const WINDOWS: &[Window] = &[
    // 2040-03-11T08:00Z to 2040-03-12T07:00Z.
    Window { what: "a day in spring", bucket: "day", begins: 2_215_065_600, hours: 23 },
    // 2040-03-13T07:00Z to 2040-03-14T07:00Z.
    Window { what: "the day after", bucket: "gemini", begins: 2_215_234_800, hours: 24 },
    // 2041-03-04T08:00Z to 2041-03-11T07:00Z.
    Window { what: "a week in spring", bucket: "week", begins: 2_245_996_800, hours: 167 },
    // 2042-03-01T08:00Z to 2042-04-01T07:00Z.
    Window { what: "a month in spring", bucket: "month", begins: 2_277_273_600, hours: 743 },
    // 2042-11-02T07:00Z to 2042-11-03T08:00Z.
    Window { what: "a day in autumn", bucket: "day", begins: 2_298_524_400, hours: 25 },
    // 2043-10-26T07:00Z to 2043-11-02T08:00Z.
    Window { what: "a week in autumn", bucket: "week", begins: 2_329_455_600, hours: 169 },
    // 2044-11-01T07:00Z to 2044-12-01T08:00Z.
    Window { what: "a month in autumn", bucket: "month", begins: 2_361_596_400, hours: 721 },
    // 2048-02-01T08:00Z to 2048-03-01T08:00Z.
    Window { what: "a leap month", bucket: "month", begins: 2_464_156_800, hours: 696 },
];

fn limits() -> Limits {
    Limits::new()
        .bucket("day", [Quota::per_day("requests", 2).in_time_zone(ZONE)])
        .bucket("gemini", gemini::quotas().rpd(2))
        .bucket("week", [Quota::per_week("requests", 2).in_time_zone(ZONE)])
        .bucket("month", [Quota::per_month("requests", 2).in_time_zone(ZONE)])
}

/// Takes one call, or tells how many seconds it has to wait.
async fn take(limiter: &Limiter, bucket: &'static str) -> Option<u64> {
    match limiter.try_reserve(Demand::new(bucket, usage! { requests: 1 })).await {
        Ok(call) => {
            call.keep().await.unwrap();
            None
        }
        Err(Throttled::NotNow(refusal)) => {
            let wait = refusal.retry_after().unwrap();
            Some(wait.as_secs_f64().ceil() as u64)
        }
        Err(error) => panic!("{bucket}: {error}"),
    }
}

/// Goes through all windows; `set` sets the store's clock to a second.
async fn go_through(limiter: &Limiter, mut set: impl AsyncFnMut(u64)) {
    for Window { what, bucket, begins, hours } in WINDOWS {
        let ends = begins + hours * HOUR;
        set(begins - 1).await;
        assert_eq!(take(limiter, bucket).await, None, "{what}: the last second before");
        set(*begins).await;
        for _ in 0..2 {
            assert_eq!(take(limiter, bucket).await, None, "{what}: it begins");
        }
        assert_eq!(take(limiter, bucket).await, Some(hours * HOUR), "{what}: it is used up");
        set(ends - 1).await;
        assert_eq!(take(limiter, bucket).await, Some(1), "{what}: its last second");
        set(ends).await;
        assert_eq!(take(limiter, bucket).await, None, "{what}: the next one");
    }
}

#[tokio::test(start_paused = true)]
async fn windows_of_a_time_zone_in_memory() {
    let limiter =
        Limiter::new(limits().bucket("clock", [Quota::per_second("requests", 1_000)])).unwrap();
    let now = async || {
        let demand = Demand::new("clock", usage! { requests: 0 });
        let granted_at = limiter.reserve(demand).await.unwrap().granted_at();
        granted_at.duration_since(UNIX_EPOCH).unwrap()
    };
    go_through(&limiter, async |second| {
        advance(Duration::from_secs(second).checked_sub(now().await).unwrap()).await;
    })
    .await;
}

#[tokio::test]
async fn windows_of_a_time_zone_on_redis() {
    const STEPPED: &str =
        "local function clock() return tonumber(redis.call('GET', 'test:clock')) end";
    let server = RedisServer::start();
    let set = async |second: u64| {
        let micros = (second * 1_000_000).to_string();
        let _: () = server.command(&["SET", "test:clock", &micros]);
    };
    set(WINDOWS[0].begins - 1).await;
    let store = RedisStore::connect(&server.url()).await.unwrap().with_clock(STEPPED);
    let limiter = Limiter::with_store(limits(), store).unwrap();
    go_through(&limiter, set).await;
}
