//! The file: its tables, and what is read and written there.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Statement, params};

use super::super::{BucketKey, StoreError};
use crate::engine::{BucketState, MAX_AMOUNT, Micros};

/// Says in the file whose it is: "TTDB".
const APPLICATION: i32 = 0x5454_4442;

/// Counts the layouts of the tables.
const LAYOUT: i32 = 1;

const TABLES: &str = "
    CREATE TABLE bucket (
        id INTEGER PRIMARY KEY,
        partition TEXT NOT NULL,
        name TEXT NOT NULL,
        -- By the host's clock. Before the state, so that a look at it does not read that.
        expires INTEGER NOT NULL,
        state BLOB NOT NULL,
        UNIQUE (partition, name)
    ) STRICT;
    CREATE TABLE hint (
        session INTEGER NOT NULL,
        bucket TEXT NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (session, bucket)
    ) STRICT, WITHOUT ROWID;
";

/// So many buckets are looked at in one sweep.
const SWEPT: i64 = 256;

/// A hint that was not fetched by now is of no use.
const HINT_LASTS: Micros = 10_000_000;

/// How long processes that create the file at once wait for each other.
const PATIENCE: Duration = Duration::from_secs(5);

/// Meanwhile, it is tried again after a random time up to this.
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// An open file.
#[derive(Debug)]
pub(super) struct Database(Connection);

impl Database {
    /// Opens the file, or makes it. Tries again while other processes have it locked.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let started = Instant::now();
        loop {
            match Self::try_to_open(path) {
                Err(error) if is_locked(&error) && started.elapsed() < PATIENCE => {
                    thread::sleep(TRY_AGAIN.mul_f64(fastrand::f64()));
                }
                opened => return opened,
            }
        }
    }

    fn try_to_open(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(store_error)?;
        // SQLite's own waiting does not cover everything: not a change of the journal, which all
        // that create the file make. So it never waits, here and in the worker.
        connection.busy_timeout(Duration::ZERO).map_err(store_error)?;
        prepare(&connection)?;
        let database = Self(connection);
        // Tables that were changed are noticed here, and not by the first batch.
        database.statements().map_err(store_error)?;
        Ok(database)
    }

    pub(super) fn statements(&self) -> DbResult<Statements<'_>> {
        let prepare = |sql| self.0.prepare(sql);
        Ok(Statements {
            begin: prepare("BEGIN IMMEDIATE")?,
            commit: prepare("COMMIT")?,
            rollback: prepare("ROLLBACK")?,
            load: prepare("SELECT id, state FROM bucket WHERE partition = ?1 AND name = ?2")?,
            insert: prepare(
                "INSERT INTO bucket (partition, name, expires, state) VALUES (?1, ?2, ?3, ?4)",
            )?,
            update: prepare("UPDATE bucket SET expires = ?2, state = ?3 WHERE id = ?1")?,
            last_swept: prepare(
                "SELECT max(id) FROM (SELECT id FROM bucket WHERE id > ?1 ORDER BY id LIMIT ?2)",
            )?,
            sweep: prepare("DELETE FROM bucket WHERE id > ?1 AND id <= ?2 AND expires <= ?3")?,
            sweep_hints: prepare("DELETE FROM hint WHERE at <= ?1")?,
            version: prepare("PRAGMA data_version")?,
            hints: prepare("SELECT session, bucket FROM hint")?,
            leave_hint: prepare(
                "INSERT OR REPLACE INTO hint (session, bucket, at) VALUES (?1, ?2, ?3)",
            )?,
            take_hint: prepare("DELETE FROM hint WHERE session = ?1 AND bucket = ?2")?,
        })
    }
}

/// Makes the tables where there are none, and sets what a connection needs.
fn prepare(connection: &Connection) -> Result<(), StoreError> {
    let execute = |sql: &str| connection.execute_batch(sql).map_err(store_error);
    // In one transaction: another process may be making the tables.
    execute("BEGIN")?;
    check(connection)?;
    execute("COMMIT")?;
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(store_error)?;
    if mode != "wal" {
        let error = format!("a write-ahead log cannot be kept there, only journal mode `{mode}`");
        return Err(StoreError::Rejected(error.into()));
    }
    // Written by the system without waiting for the disk: a killed process loses nothing.
    execute("PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE")?;
    // Another process may have been faster.
    if check(connection)? == 0 {
        execute(&format!(
            "{TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {LAYOUT};"
        ))?;
    }
    execute("COMMIT")
}

/// Whether the file is a store's. Returns its layout, 0 if it is empty. Within a transaction.
fn check(connection: &Connection) -> Result<i32, StoreError> {
    let number =
        |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i32>(0)).map_err(store_error);
    let (application, layout) = (number("PRAGMA application_id")?, number("PRAGMA user_version")?);
    match (application, layout) {
        (APPLICATION, LAYOUT) => Ok(LAYOUT),
        (APPLICATION, layout) => {
            Err(StoreError::Rejected(format!("layout {layout} of the file is not known").into()))
        }
        (0, 0) if number("SELECT count(*) FROM sqlite_schema")? == 0 => Ok(0),
        _ => Err(StoreError::Rejected("the file is the database of something else".into())),
    }
}

/// What is done with the file.
#[derive(Debug)]
pub(super) struct Statements<'c> {
    begin: Statement<'c>,
    commit: Statement<'c>,
    rollback: Statement<'c>,
    load: Statement<'c>,
    insert: Statement<'c>,
    update: Statement<'c>,
    last_swept: Statement<'c>,
    sweep: Statement<'c>,
    sweep_hints: Statement<'c>,
    version: Statement<'c>,
    hints: Statement<'c>,
    leave_hint: Statement<'c>,
    take_hint: Statement<'c>,
}

pub(super) type DbResult<T> = Result<T, rusqlite::Error>;

impl Statements<'_> {
    /// Begins to write, unless another process does.
    pub(super) fn begin(&mut self) -> DbResult<bool> {
        match self.begin.execute([]) {
            Ok(_) => Ok(true),
            Err(error) if is_busy(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn commit(&mut self) -> DbResult<()> {
        self.commit.execute([]).map(drop)
    }

    /// Undoes what was done since the beginning, if that is not undone yet.
    pub(super) fn roll_back(&mut self) {
        // Where there is no transaction any more, SQLite has rolled back by itself.
        let _ = self.rollback.execute([]);
    }

    /// The row and the state of a bucket, if it is known.
    pub(super) fn load(&mut self, key: &BucketKey) -> DbResult<Option<(i64, Vec<u8>)>> {
        let row = self
            .load
            .query_row([key.partition(), key.name()], |row| Ok((row.get(0)?, row.get(1)?)));
        row.optional()
    }

    /// Saves the state of a bucket, which means something for as long as it
    /// [lasts](BucketState::lasts).
    pub(super) fn save(
        &mut self,
        row: Option<i64>,
        key: &BucketKey,
        state: &BucketState,
        wall: Micros,
    ) -> DbResult<()> {
        let (expires, bytes) = (integer(wall + state.lasts()), state.to_bytes());
        match row {
            Some(row) => self.update.execute(params![row, expires, bytes]),
            None => self.insert.execute(params![key.partition(), key.name(), expires, bytes]),
        }
        .map(drop)
    }

    /// Deletes those of the next buckets after `row` that mean nothing any more. Returns where to
    /// go on.
    pub(super) fn sweep(&mut self, row: i64, wall: Micros) -> DbResult<i64> {
        self.sweep_hints.execute([integer(wall.saturating_sub(HINT_LASTS))])?;
        let last: Option<i64> = self.last_swept.query_row([row, SWEPT], |found| found.get(0))?;
        let Some(last) = last else { return Ok(i64::MIN) };
        self.sweep.execute([row, last, integer(wall)])?;
        Ok(last)
    }

    /// Changes when another connection has written.
    pub(super) fn version(&mut self) -> DbResult<i64> {
        self.version.query_row([], |row| row.get(0))
    }

    /// The hints that were left for sessions, with the buckets.
    pub(super) fn hints(&mut self) -> DbResult<Vec<(u64, String)>> {
        let rows = self.hints.query_map([], |row| {
            let session: i64 = row.get(0)?;
            Ok((session.unsigned_abs(), row.get(1)?))
        })?;
        rows.collect()
    }

    /// Leaves a hint for a session of another process.
    pub(super) fn leave_hint(&mut self, session: u64, bucket: &str, wall: Micros) -> DbResult<()> {
        self.leave_hint.execute(params![integer(session), bucket, integer(wall)]).map(drop)
    }

    /// Deletes a hint that was given.
    pub(super) fn take_hint(&mut self, session: u64, bucket: &str) -> DbResult<()> {
        self.take_hint.execute(params![integer(session), bucket]).map(drop)
    }
}

/// All numbers are far below what SQLite can say.
fn integer(number: u64) -> i64 {
    number.min(MAX_AMOUNT) as i64
}

fn is_busy(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Whether others have the file locked.
fn is_locked(error: &StoreError) -> bool {
    let StoreError::Unavailable(error) = error else { return false };
    error.downcast_ref().is_some_and(is_busy)
}

/// What is wrong with the file itself stays wrong.
pub(super) fn store_error(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::SystemIoFailure
            | ErrorCode::DiskFull
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationInterrupted,
        ) => StoreError::Unavailable(error.into()),
        _ => StoreError::Rejected(error.into()),
    }
}
