//! What a file may hold, and what becomes of batches. Processes are in `tests/sqlite`.

use std::{
    env, fs,
    path::PathBuf,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use rusqlite::Connection;
use tokio::time::{sleep, timeout};

use super::*;
use crate::{
    engine::{Answer, Flow, MAX_AMOUNT, Micros, Mode, Op, Outcome, Reserve, Rule, Verdict, Window},
    store::{Bucket, BucketKey},
};

const SECOND: Micros = 1_000_000;

/// A directory of its own, which is removed with this.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            env::temp_dir().join(format!("tower-throttle-unit-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory can be made");
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("limits.db")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// At most 10 in a window.
fn bucket(name: &str, window: Micros) -> Bucket {
    let window = Window::Sliding { slot: window / 10, slots: 10 };
    let rule = Rule { id: 7, limit: 10, held: false, window };
    Bucket::new(Arc::new(BucketKey::new("", name)), Arc::new([rule]))
}

fn reserve(cost: u64, mode: Mode) -> Op {
    Op::Reserve(Reserve {
        on: [0].as_slice().into(),
        costs: [cost].as_slice().into(),
        headroom: 0,
        mode,
        waiter: 1,
        age: 0,
        patience: MAX_AMOUNT,
        flow: Flow::default(),
    })
}

async fn send(store: &SqliteStore, batch: &Batch<'_>) -> Result<Answer, StoreError> {
    match store.apply(batch) {
        Reply::Now(answer) => Ok(answer),
        Reply::Later(answer) => answer.await,
    }
}

/// Reserves, and says whether that was granted.
async fn take(
    store: &SqliteStore,
    seq: u64,
    bucket: &Bucket,
    cost: u64,
) -> Result<bool, StoreError> {
    let (buckets, ops) = ([bucket.clone()], [reserve(cost, Mode::Try)]);
    let answer = send(store, &Batch::new(1, seq, 10 * SECOND, &buckets, &ops)).await?;
    let Outcome::Applied { verdicts, .. } = answer.outcome else { panic!("{answer:?}") };
    Ok(matches!(verdicts[0], Verdict::Granted { .. }))
}

fn is_rejected<T: fmt::Debug>(result: Result<T, StoreError>, why: &str) {
    match result {
        Err(StoreError::Rejected(error)) if error.to_string().contains(why) => {}
        other => panic!("not rejected for `{why}`: {other:?}"),
    }
}

#[tokio::test]
async fn a_batch_is_applied_once_however_many_stores_it_reaches() {
    let directory = Directory::new();
    let stores = [0; 3].map(|_| SqliteStore::open(directory.file()).expect("it opens"));
    let (buckets, ops) = ([bucket("a", 60 * SECOND)], [reserve(4, Mode::Try)]);
    let batch = Batch::new(1, 1, 10 * SECOND, &buckets, &ops);
    let first = send(&stores[0], &batch).await.expect("applied");
    for store in &stores {
        let again = send(store, &batch).await.expect("known");
        assert_eq!(again.outcome, first.outcome);
    }
    let later = Batch { seq: 2, ..batch };
    assert!(matches!(
        send(&stores[1], &later).await.expect("applied").outcome,
        Outcome::Applied { .. }
    ));
    assert_eq!(send(&stores[2], &batch).await.expect("known").outcome, Outcome::Stale);
    // Eight are taken, whatever was repeated.
    assert!(!take(&stores[0], 3, &buckets[0], 3).await.expect("applied"));
    assert!(take(&stores[0], 4, &buckets[0], 2).await.expect("applied"));
}

#[tokio::test]
async fn a_state_that_is_damaged_is_an_error_of_its_bucket() {
    let directory = Directory::new();
    let store = SqliteStore::open(directory.file()).expect("it opens");
    let (bad, good) = (bucket("bad", 60 * SECOND), bucket("good", 60 * SECOND));
    for (seq, bucket) in [(1, &bad), (2, &good)] {
        assert!(take(&store, seq, bucket, 1).await.expect("applied"));
    }
    let other = Connection::open(directory.file()).expect("it opens");
    let damage = |sql: &str| other.execute(sql, []).expect("it is written");
    damage("UPDATE bucket SET state = x'00' WHERE name = 'bad'");
    is_rejected(take(&store, 3, &bad, 1).await, "not the state of a bucket");
    assert!(take(&store, 3, &good, 1).await.expect("applied"));
    damage("UPDATE bucket SET state = substr(state, 1, 40) WHERE name = 'good'");
    is_rejected(take(&store, 4, &good, 1).await, "damaged");
    damage("DELETE FROM bucket");
    assert!(take(&store, 5, &bad, 1).await.expect("applied"));
}

#[test]
fn a_file_that_many_create_at_once_opens_for_all() {
    const AT_ONCE: usize = 16;
    for _ in 0..100 {
        let directory = Directory::new();
        let barrier = Barrier::new(AT_ONCE);
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    barrier.wait();
                    drop(SqliteStore::open(directory.file()).expect("it opens"));
                });
            }
        });
    }
}

#[test]
fn a_file_that_stays_locked_is_unavailable() {
    let directory = Directory::new();
    let other = Connection::open(directory.file()).expect("it opens");
    other.execute_batch("BEGIN EXCLUSIVE").expect("it is locked");
    let error = SqliteStore::open(directory.file()).expect_err("it is locked");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(error.to_string().contains("locked"), "{error}");
}

#[test]
fn what_is_no_file_of_a_store_is_refused() {
    let directory = Directory::new();
    is_rejected(SqliteStore::open(&directory.0), "");
    is_rejected(SqliteStore::open(directory.0.join("none").join("limits.db")), "");
    is_rejected(SqliteStore::open(":memory:"), "write-ahead");

    let text = directory.0.join("text");
    fs::write(
        &text,
        "a note, longer than the header of a database, which has a hundred bytes\n".repeat(9),
    )
    .expect("it is written");
    is_rejected(SqliteStore::open(&text), "not a database");

    let foreign = directory.0.join("foreign.db");
    let other = Connection::open(&foreign).expect("it opens");
    other.execute_batch("CREATE TABLE mine (a)").expect("it is written");
    is_rejected(SqliteStore::open(&foreign), "something else");
    let mode: String =
        other.query_row("PRAGMA journal_mode", [], |row| row.get(0)).expect("it has one");
    assert_eq!(mode, "delete", "nothing is changed");

    drop(SqliteStore::open(directory.file()).expect("it opens"));
    let later = Connection::open(directory.file()).expect("it opens");
    later.execute_batch("PRAGMA user_version = 2").expect("it is written");
    is_rejected(SqliteStore::open(directory.file()), "layout 2");
}

#[tokio::test]
async fn buckets_that_mean_nothing_any_more_are_deleted() {
    let directory = Directory::new();
    let store = SqliteStore::open(directory.file()).expect("it opens");
    let (buckets, ops) = ([bucket("a", SECOND / 10)], [reserve(1, Mode::Try)]);
    // Without a number, nothing remembers the session.
    send(&store, &Batch::new(1, 0, SECOND / 10, &buckets, &ops)).await.expect("applied");
    let other = Connection::open(directory.file()).expect("it opens");
    let names = || -> Vec<String> {
        let mut names =
            other.prepare("SELECT name FROM bucket ORDER BY name").expect("it is there");
        names.query_map([], |row| row.get(0)).expect("it is read").map(Result::unwrap).collect()
    };
    assert_eq!(names(), ["a"]);
    for seq in 1..=40 {
        sleep(Duration::from_millis(100)).await;
        assert!(take(&store, seq, &bucket("b", SECOND / 10), 1).await.expect("applied"));
        if names() == ["b"] {
            return;
        }
    }
    panic!("still there: {:?}", names());
}

#[tokio::test]
async fn a_batch_that_is_not_waited_for_any_more_ends_the_wait_for_a_lock() {
    let directory = Directory::new();
    let store = SqliteStore::open(directory.file()).expect("it opens");
    let bucket = bucket("a", 60 * SECOND);
    let other = Connection::open(directory.file()).expect("it opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("it is locked");
    let given_up = timeout(Duration::from_millis(50), take(&store, 1, &bucket, 10)).await;
    assert!(given_up.is_err());
    // The writer looks every few milliseconds whether its batch is still waited for.
    sleep(Duration::from_millis(500)).await;
    other.execute_batch("COMMIT").expect("it is free");
    // Another batch: the limit is 10, so that it fits says that the first was not applied.
    assert!(take(&store, 2, &bucket, 10).await.expect("applied"));
}

#[tokio::test]
async fn sessions_of_one_process_and_of_others_are_given_hints() {
    let directory = Directory::new();
    let stores = [0; 2].map(|_| SqliteStore::open(directory.file()).expect("it opens"));
    for waits_at in [0, 1] {
        let rule = Rule { id: 8, limit: 1, held: false, window: Window::InFlight };
        let key = Arc::new(BucketKey::new("", &format!("calls {waits_at}")));
        let buckets = [Bucket::new(key, Arc::new([rule]))];
        let send_as = async |store: usize, session, seq, ops: &[Op]| {
            let batch = Batch::new(session, seq, 10 * SECOND, &buckets, ops);
            let answer = send(&stores[store], &batch).await.expect("applied");
            let Outcome::Applied { verdicts, .. } = answer.outcome else { panic!("{answer:?}") };
            verdicts[0].clone()
        };
        let (hinted, mut hints) = tokio::sync::mpsc::unbounded_channel();
        let hint = Hint::new(move |bucket| drop(hinted.send(bucket.to_owned())));
        let (holder, waiter) = (10 + waits_at, 20 + waits_at);
        let _listening = stores[waits_at as usize].listen("", waiter, hint);

        assert!(matches!(
            send_as(0, holder, 1, &[reserve(1, Mode::Try)]).await,
            Verdict::Granted { .. }
        ));
        let waiting = Op::Waiting { bucket: 0, lines: Box::default() };
        let wait = [reserve(1, Mode::Wait), waiting];
        assert!(matches!(send_as(waits_at as usize, waiter, 1, &wait).await, Verdict::Refused(_)));
        assert!(hints.try_recv().is_err());
        let settle = Op::Settle(crate::engine::Settle {
            on: [0].as_slice().into(),
            at: [u64::MAX >> 11].as_slice().into(),
            reserved: [1].as_slice().into(),
            actual: [1].as_slice().into(),
            close: true,
            claim: None,
        });
        assert_eq!(send_as(0, holder, 2, &[settle]).await, Verdict::Done);
        let name = timeout(Duration::from_secs(5), hints.recv()).await.expect("a hint comes");
        assert_eq!(name.as_deref(), Some(buckets[0].key.name()));
    }
}
