//! A clock for each model: it stands still until [`advance`].

use std::{
    cell::{Cell, RefCell},
    error::Error,
    fmt,
    future::poll_fn,
    ops::{Add, Sub},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

// Shuttle runs all tasks of a model on one thread.
std::thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static SLEEPERS: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
}

/// Begins a model: the clock starts anew.
pub fn reset() {
    NOW.set(Duration::ZERO);
    SLEEPERS.take();
}

/// Lets time pass.
pub fn advance(by: Duration) {
    NOW.set(NOW.get() + by);
    SLEEPERS.take().into_iter().for_each(Waker::wake);
}

/// A time of the model's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    /// The present.
    pub fn now() -> Self {
        Self(NOW.get())
    }

    /// How long it was.
    pub fn elapsed(self) -> Duration {
        Self::now() - self
    }

    /// The time after an earlier one, or zero.
    pub fn duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time after an earlier one, or zero.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }

    /// The time after an earlier one.
    pub fn checked_duration_since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0)
    }

    /// A later time.
    pub fn checked_add(self, by: Duration) -> Option<Self> {
        self.0.checked_add(by).map(Self)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

/// Sleeps until a time.
#[derive(Debug)]
pub struct Sleep(Instant);

impl Sleep {
    /// When it ends.
    pub fn deadline(&self) -> Instant {
        self.0
    }

    /// Ends at another time.
    pub fn reset(self: Pin<&mut Self>, until: Instant) {
        self.get_mut().0 = until;
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.0 {
            return Poll::Ready(());
        }
        SLEEPERS.with_borrow_mut(|sleepers| sleepers.push(context.waker().clone()));
        Poll::Pending
    }
}

/// Sleeps for a time.
pub fn sleep(time: Duration) -> Sleep {
    Sleep(Instant::now() + time)
}

/// The time was up first.
#[derive(Debug)]
pub struct Elapsed(());

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadline has elapsed")
    }
}

impl Error for Elapsed {}

/// The output, if it is there in time.
///
/// # Errors
/// The time was up first.
pub async fn timeout<F: Future>(time: Duration, future: F) -> Result<F::Output, Elapsed> {
    timeout_at(Instant::now() + time, future).await
}

/// The output, if it is there until then.
///
/// # Errors
/// The time was up first.
pub async fn timeout_at<F: Future>(until: Instant, future: F) -> Result<F::Output, Elapsed> {
    let (mut future, mut sleep) = (pin!(future), Sleep(until));
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => Pin::new(&mut sleep).poll(context).map(|()| Err(Elapsed(()))),
    })
    .await
}
