//! Times as text: RFC 3339 in UTC with microseconds, written without allocating and without dividing twice a second.
//! Shared by the access log and the events, so that their lines sort together.

use std::time::{SystemTime, UNIX_EPOCH};

/// `2026-11-23T08:48:38.123456Z`
pub(super) const TEXT_BYTES: usize = 27;

/// Everything up to the full second, made once a second.
#[derive(Debug)]
pub(super) struct Clock {
    second: u64,
    text: [u8; TEXT_BYTES],
}

impl Clock {
    pub(super) fn new() -> Clock {
        let mut clock = Clock { second: 0, text: *b"0000-00-00T00:00:00.000000Z" };
        clock.set_second(0);
        clock
    }

    /// `unix_us` as text. Years from 10000 on are written as the last microsecond of 9999: the text keeps its length.
    pub(super) fn text(&mut self, unix_us: u64) -> &[u8; TEXT_BYTES] {
        const UNIX_US_MAX: u64 = 253_402_300_799_999_999;
        let unix_us = unix_us.min(UNIX_US_MAX);
        let (second, us) = (unix_us / 1_000_000, unix_us % 1_000_000);
        if second != self.second {
            self.set_second(second);
        }
        digits(&mut self.text[20..26], us);
        &self.text
    }

    fn set_second(&mut self, second: u64) {
        self.second = second;
        let (days, of_day) = (second / 86_400, second % 86_400);
        let (year, month, day) = date(days);
        digits(&mut self.text[0..4], year);
        digits(&mut self.text[5..7], month);
        digits(&mut self.text[8..10], day);
        digits(&mut self.text[11..13], of_day / 3_600);
        digits(&mut self.text[14..16], of_day / 60 % 60);
        digits(&mut self.text[17..19], of_day % 60);
    }
}

/// `time` as text.
pub(crate) fn text(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    String::from_utf8_lossy(Clock::new().text(us)).into_owned()
}

/// Year, month and day of the day `days` after 1970-01-01, in the Gregorian calendar. Counts in years that begin on
/// 1 March, so that the leap day is the last of its year and months have a regular rhythm (153 days per five of them).
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_FROM_YEAR_0: u64 = 719_468; // 0000-03-01 to 1970-01-01
    const DAYS_PER_ERA: u64 = 146_097; // 400 years
    let days = days + DAYS_FROM_YEAR_0;
    let (era, of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153; // 0 = March
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year_of_era + next_year, month, day)
}

/// `value` in decimal over the whole of `text`, with leading zeros.
fn digits(text: &mut [u8], mut value: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn check(unix_us: u64, expected: &str) {
        let text = *Clock::new().text(unix_us);
        assert_eq!(std::str::from_utf8(&text).unwrap(), expected);
    }

    #[test]
    fn known_times_are_written_as_rfc_3339() {
        check(0, "1970-01-01T00:00:00.000000Z");
        check(951_782_399_000_001, "2000-02-28T23:59:59.000001Z");
        check(951_782_400_000_000, "2000-02-29T00:00:00.000000Z");
        check(1_078_012_800_000_000, "2004-02-29T00:00:00.000000Z");
        check(4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z");
        check(1_795_424_918_123_456, "2026-11-23T09:08:38.123456Z");
        check(u64::MAX, "9999-12-31T23:59:59.999999Z");
    }

    #[test]
    fn a_clock_that_runs_on_or_back_is_right_at_every_step() {
        let mut clock = Clock::new();
        for second in (0..40_000_000_000).step_by(86_399 * 1_000).chain([5, 4, 86_400, 0]) {
            let text = *clock.text(second * 1_000_000);
            // The date as another implementation writes it: an HTTP date read back.
            let (year, month, day, clock_text) = parts(&text);
            let time = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            assert_eq!(time[5..7], day, "{second}");
            assert_eq!(&time[8..11], MONTHS[month - 1], "{second}");
            assert_eq!(time[12..16], year, "{second}");
            assert_eq!(time[17..25], clock_text, "{second}");
        }
    }

    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

    fn parts(text: &[u8]) -> (String, usize, String, String) {
        let text = std::str::from_utf8(text).unwrap();
        (text[0..4].into(), text[5..7].parse().unwrap(), text[8..10].into(), text[11..19].into())
    }
}
