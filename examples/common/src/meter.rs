//! What a limiter did, added up.

use std::{fmt, time::Duration};

use tokio::{sync::watch, time::timeout};
use tower_throttle::{
    BoxError,
    observe::{Event, Observer},
};

/// The longest that [`Meter::until`] waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// Adds up what a limiter grants and settles: give its [`observer`](Self::observer) to the limiter.
#[derive(Clone, Debug)]
pub struct Meter {
    totals: watch::Sender<Totals>,
}

/// What happened so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Reservations made.
    pub reservations: u64,
    /// Reservations settled, kept or released.
    pub settled: u64,
    /// Demands refused.
    pub refused: u64,
    /// How long the granted demands waited in all.
    pub waited: Duration,
    /// Tokens reserved.
    pub reserved: u64,
    /// Tokens charged in the end, by reservations that are settled.
    pub charged: u64,
    /// What was reserved for the reservations that are settled.
    concluded: u64,
}

impl Totals {
    /// Tokens given back: reserved and not used.
    pub fn refunded(&self) -> u64 {
        self.concluded.saturating_sub(self.charged)
    }

    fn add(&mut self, event: &Event<'_>) {
        match event {
            Event::Granted { reserved, waited, .. } => {
                self.reservations += 1;
                self.waited += *waited;
                self.reserved += reserved.get("tokens").unwrap_or(0);
            }
            Event::Settled { reserved, actual, .. } => {
                self.settled += 1;
                self.concluded += reserved.get("tokens").unwrap_or(0);
                self.charged += actual.get("tokens").unwrap_or(0);
            }
            Event::Refused { .. } => self.refused += 1,
            _ => {}
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reservations, refused, waited, reserved, charged, .. } = self;
        let refunded = self.refunded();
        write!(f, "{reservations} reservations of {reserved} tokens in all, {refused} refused; ")?;
        write!(
            f,
            "waited for {} ms; {charged} tokens used, {refunded} refunded",
            waited.as_millis()
        )
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self { totals: watch::Sender::new(Totals::default()) }
    }
}

impl Meter {
    /// What tells the meter.
    pub fn observer(&self) -> impl Observer + use<> {
        let totals = self.totals.clone();
        move |event: &Event<'_>| totals.send_modify(|totals| totals.add(event))
    }

    /// What happened so far.
    pub fn totals(&self) -> Totals {
        self.totals.borrow().clone()
    }

    /// Waits until it is so.
    ///
    /// # Errors
    /// When it is not so after twenty seconds.
    pub async fn until(&self, condition: impl FnMut(&Totals) -> bool) -> Result<Totals, BoxError> {
        let mut totals = self.totals.subscribe();
        let met = timeout(PATIENCE, totals.wait_for(condition)).await;
        match met {
            Ok(met) => Ok(met?.clone()),
            Err(_) => Err(format!("it never came to pass: {}", self.totals()).into()),
        }
    }

    /// Waits until as many reservations are settled.
    ///
    /// # Errors
    /// When they are not after twenty seconds.
    pub async fn settled(&self, reservations: u64) -> Result<Totals, BoxError> {
        self.until(|totals| totals.settled >= reservations).await
    }
}
