//! Windows that begin at midnight somewhere. The engine knows no time zones: it is sent the
//! boundaries around the present and says when they do not reach.

use std::{sync::Arc, time::Duration};

use crate::engine::Micros;

#[cfg(feature = "timezone")]
pub(crate) use zoned::Calendar;

/// Lengths by which windows of a calendar are named.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// The longest month.
pub(crate) const MONTH: Duration = Duration::from_secs(31 * 86_400);

/// Whole days, weeks or months of a time zone.
#[cfg(feature = "timezone")]
mod zoned {
    use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};

    use super::*;

    /// Windows sent before and after the present one.
    const WINDOWS: std::ops::RangeInclusive<i64> = -2..=4;

    #[derive(Clone, Debug)]
    pub(crate) struct Calendar {
        zone: TimeZone,
        unit: Unit,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Unit {
        Day,
        /// From Monday on.
        Week,
        Month,
    }

    impl Unit {
        /// The first day of the window that a day is in.
        fn first_day(self, day: Date) -> Option<Date> {
            match self {
                Self::Day => Some(day),
                Self::Week => {
                    let after_monday = i64::from(day.weekday().to_monday_zero_offset());
                    day.checked_sub(after_monday.days()).ok()
                }
                Self::Month => Some(day.first_of_month()),
            }
        }

        /// The first day of the window so many windows after the one that begins on a day.
        fn after(self, first: Date, windows: i64) -> Option<Date> {
            let span = match self {
                Self::Day => windows.days(),
                Self::Week => windows.weeks(),
                Self::Month => windows.months(),
            };
            first.checked_add(span).ok()
        }
    }

    impl Calendar {
        /// The windows of a zone that are about as long as this.
        pub(crate) fn of(zone: &str, window: Duration) -> Result<Self, String> {
            let unit = match window {
                DAY => Unit::Day,
                WEEK => Unit::Week,
                MONTH => Unit::Month,
                _ => {
                    return Err(
                        "only windows of one day, one week or one month (31 days) can begin \
                                at midnight of a time zone"
                            .into(),
                    );
                }
            };
            let zone = TimeZone::get(zone).map_err(|error| error.to_string())?;
            Ok(Self { zone, unit })
        }

        /// The name of its time zone.
        pub(crate) fn zone(&self) -> Option<&str> {
            self.zone.iana_name()
        }

        /// The midnights around an instant at which windows begin; empty where a calendar has none.
        pub(crate) fn boundaries(&self, around: Micros) -> Arc<[Micros]> {
            self.midnights(around).unwrap_or_default().into()
        }

        fn midnights(&self, around: Micros) -> Option<Vec<Micros>> {
            let around = Timestamp::from_microsecond(i64::try_from(around).ok()?).ok()?;
            let today = around.to_zoned(self.zone.clone()).date();
            let first = self.unit.first_day(today)?;
            WINDOWS
                .map(|windows| {
                    let day = self.unit.after(first, windows)?;
                    let midnight = day.to_zoned(self.zone.clone()).ok()?;
                    u64::try_from(midnight.timestamp().as_microsecond()).ok()
                })
                .collect()
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const HOUR: Micros = 3_600_000_000;

        /// The hours between the midnights around an instant.
        fn hours(zone: &str, window: Duration, around: &str) -> Vec<u64> {
            let around: Timestamp = around.parse().unwrap();
            let around = u64::try_from(around.as_microsecond()).unwrap();
            let boundaries = Calendar::of(zone, window).unwrap().boundaries(around);
            assert!(boundaries[2] <= around && around < boundaries[3]);
            boundaries.windows(2).map(|pair| (pair[1] - pair[0]) / HOUR).collect()
        }

        #[test]
        fn windows_are_as_long_as_the_calendar_says() {
            let zone = "America/Los_Angeles";
            assert_eq!(hours(zone, DAY, "2027-03-14T12:00:00Z"), [24, 24, 23, 24, 24, 24]);
            assert_eq!(
                hours(zone, WEEK, "2027-11-08T07:59:59Z"),
                [168, 168, 169, 168, 168, 168],
                "a Sunday of 25 hours ends the third week"
            );
            let days = |days: [u64; 6]| days.map(|days| days * 24);
            assert_eq!(hours("UTC", MONTH, "2028-02-29T23:59:59Z"), days([31, 31, 29, 31, 30, 31]));
            assert_eq!(hours("UTC", MONTH, "2027-03-01T00:00:00Z"), days([31, 28, 31, 30, 31, 30]));
        }

        #[test]
        fn other_windows_have_no_calendar() {
            for window in [DAY * 2, DAY * 30, Duration::from_secs(60)] {
                assert!(Calendar::of("UTC", window).is_err(), "{window:?}");
            }
            assert!(Calendar::of("Nowhere/Else", DAY).is_err());
        }
    }
}

/// Without the `timezone` feature there is no calendar.
#[cfg(not(feature = "timezone"))]
#[derive(Clone, Debug)]
pub(crate) enum Calendar {}

#[cfg(not(feature = "timezone"))]
impl Calendar {
    pub(crate) fn zone(&self) -> Option<&str> {
        match *self {}
    }

    pub(crate) fn boundaries(&self, _around: Micros) -> Arc<[Micros]> {
        match *self {}
    }
}
