//! Windows that begin at midnight somewhere. The engine knows no time zones: it is sent the
//! boundaries around the present and says when they do not reach.

use std::sync::Arc;

use crate::engine::Micros;

#[cfg(feature = "timezone")]
pub(crate) use zoned::Calendar;

/// Whole days of a time zone.
#[cfg(feature = "timezone")]
mod zoned {
    use std::time::Duration;

    use jiff::{Timestamp, ToSpan, tz::TimeZone};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    /// Days sent before and after the present one.
    const DAYS: std::ops::RangeInclusive<i64> = -2..=4;

    #[derive(Clone, Debug)]
    pub(crate) struct Calendar {
        zone: TimeZone,
    }

    impl Calendar {
        pub(crate) fn days_in(zone: &str, window: Duration) -> Result<Self, String> {
            if window != DAY {
                return Err("only windows of one day can begin at midnight of a time zone".into());
            }
            let zone = TimeZone::get(zone).map_err(|error| error.to_string())?;
            Ok(Self { zone })
        }

        /// The midnights around an instant; empty where a calendar has none.
        pub(crate) fn boundaries(&self, around: Micros) -> Arc<[Micros]> {
            self.midnights(around).unwrap_or_default().into()
        }

        fn midnights(&self, around: Micros) -> Option<Vec<Micros>> {
            let around = Timestamp::from_microsecond(i64::try_from(around).ok()?).ok()?;
            let today = around.to_zoned(self.zone.clone()).date();
            DAYS.map(|days| {
                let midnight =
                    today.checked_add(days.days()).ok()?.to_zoned(self.zone.clone()).ok()?;
                u64::try_from(midnight.timestamp().as_microsecond()).ok()
            })
            .collect()
        }
    }
}

/// Without the `timezone` feature there is no calendar.
#[cfg(not(feature = "timezone"))]
#[derive(Clone, Debug)]
pub(crate) enum Calendar {}

#[cfg(not(feature = "timezone"))]
impl Calendar {
    pub(crate) fn boundaries(&self, _around: Micros) -> Arc<[Micros]> {
        match *self {}
    }
}
