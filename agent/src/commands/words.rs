//! Times and sizes as people read them.

/// Microseconds as the two largest units that matter.
pub(super) fn age(us: u64) -> String {
    left(us / 1_000_000)
}

/// Seconds as the two largest units that matter.
pub(super) fn left(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Bytes in the largest unit of which there is at least one.
pub(super) fn bytes(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.iter().find(|(_, shift)| bytes >> shift > 0);
    match unit {
        Some((name, shift)) => {
            let tenths = (bytes >> (shift - 10)) * 10 / 1024;
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// Microseconds since 1970 as a day and a time, UTC.
pub(super) fn at(us: u64) -> String {
    let s = us / 1_000_000;
    let (year, month, day) = civil(s / 86_400);
    let (hour, minute, second) = (s / 3600 % 24, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years that begin in March, in eras of 400 years: a leap day is then the last of its year.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let january_or_february = month >= 10;
    let month = if january_or_february {
        month - 9
    } else {
        month + 3
    };
    (
        era * 400 + year + u64::from(january_or_february),
        month,
        day,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_short() {
        assert_eq!(age(119_999_999), "119 s");
        assert_eq!(left(3_599), "59 min");
        assert_eq!(left(86_400), "24 h 0 min");
        assert_eq!(left(3 * 86_400 + 7_200), "3 days 2 h");
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1 << 30), "1.0 GiB");
        assert_eq!(bytes((5 << 30) - 1), "4.9 GiB");
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(at(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(at(951_782_400_000_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(at(1_767_225_599_000_000), "2025-12-31 23:59:59 UTC");
    }
}
