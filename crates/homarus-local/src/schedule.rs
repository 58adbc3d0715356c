//! Schedules as CronJobs write them: five fields, or a nickname like `@hourly`, in a time zone.
//!
//! Pure but for the machine's table of time zones. A time that a change of clocks leaves out is skipped or moved as the
//! `croner` crate does it; without a zone it is UTC, as on a real cluster.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// A schedule is a line, not a page.
const LONGEST: usize = 1024;

/// What is wrong with a schedule. Its author's fault.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The fields.
    #[error("{0}")]
    Fields(String),
    /// The zone: a wrong name, or a machine without the table of zones.
    #[error("unknown time zone {0}: use a name like Europe/Berlin; this machine knows those below /usr/share/zoneinfo")]
    Zone(String),
}

/// When something is to happen, again and again.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

impl Schedule {
    /// Reads a schedule, and the zone it is meant in.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Schedule, ScheduleError> {
        if text.len() > LONGEST {
            return Err(ScheduleError::Fields(format!("longer than {LONGEST} bytes")));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).sloppy_ranges(true).build();
        let cron = parser.parse(text).map_err(|error| ScheduleError::Fields(error.to_string()))?;
        let zone = match zone {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| ScheduleError::Zone(name.to_owned()))?,
        };
        Ok(Schedule { cron, zone })
    }

    /// The first time after `time`; none if there is none any more.
    pub fn next(&self, time: Timestamp) -> Option<Timestamp> {
        self.cron.find_next_occurrence(&self.at(time), false).ok().map(|next| next.timestamp())
    }

    /// The last time up to `time`, itself included.
    pub fn last(&self, time: Timestamp) -> Option<Timestamp> {
        // The search counts from whole seconds.
        let whole = Timestamp::from_second(time.as_second()).ok()?;
        self.cron.find_previous_occurrence(&self.at(whole), true).ok().map(|last| last.timestamp())
    }

    /// A moment as people in the schedule's zone write it.
    pub fn written(&self, time: Timestamp) -> String {
        self.at(time).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().replace("+00:00", "Z")
    }

    fn at(&self, time: Timestamp) -> Zoned {
        time.to_zoned(self.zone.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn check(schedule: &str, zone: Option<&str>, from: &str, next: &str, last: &str) {
        let schedule = Schedule::parse(schedule, zone).unwrap();
        assert_eq!(schedule.next(time(from)), Some(time(next)), "{schedule:?} next");
        assert_eq!(schedule.last(time(from)), Some(time(last)), "{schedule:?} last");
    }

    #[test]
    fn times_before_and_after() {
        let noon = "2026-03-01T12:00:00Z";
        check("* * * * *", None, noon, "2026-03-01T12:01:00Z", noon);
        check("*/15 * * * *", None, "2026-03-01T12:07:09Z", "2026-03-01T12:15:00Z", "2026-03-01T12:00:00Z");
        check("30 4 1 * *", None, noon, "2026-04-01T04:30:00Z", "2026-03-01T04:30:00Z");
        check("@hourly", None, "2026-03-01T12:00:01Z", "2026-03-01T13:00:00Z", noon);
        check("0 9 * * MON-FRI", None, noon, "2026-03-02T09:00:00Z", "2026-02-27T09:00:00Z");
        // Day of month or day of week, where both are given.
        check("0 0 13 * 5", None, noon, "2026-03-06T00:00:00Z", "2026-02-27T00:00:00Z");
    }

    #[test]
    fn a_zone_moves_the_time() {
        check("0 9 * * *", Some("Etc/UTC"), "2026-03-01T12:00:00Z", "2026-03-02T09:00:00Z", "2026-03-01T09:00:00Z");
        check("0 9 * * *", Some("America/New_York"), "2026-03-01T12:00:00Z", "2026-03-01T14:00:00Z", "2026-02-28T14:00:00Z");
        let there = Schedule::parse("0 9 * * *", Some("America/New_York")).unwrap();
        assert_eq!(there.written(time("2026-03-01T14:00:00Z")), "2026-03-01T09:00:00-05:00");
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in ["", "* * * *", "* * * * * *", "61 * * * *", "often", "@sometimes", &"*".repeat(5000)] {
            assert!(matches!(Schedule::parse(text, None), Err(ScheduleError::Fields(_))), "{text:?}");
        }
        assert!(matches!(Schedule::parse("* * * * *", Some("Nowhere/Land")), Err(ScheduleError::Zone(_))));
    }

    #[test]
    fn a_day_that_never_comes_is_no_time() {
        let never = Schedule::parse("0 0 30 2 *", None).unwrap();
        assert_eq!(never.next(time("2026-03-01T12:00:00Z")), None);
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,40}", at in 0i64..4_000_000_000) {
            if let Ok(schedule) = Schedule::parse(&text, None) {
                let at = Timestamp::from_second(at).unwrap();
                proptest::prop_assert!(schedule.last(at).is_none_or(|last| last <= at));
            }
        }
    }
}
