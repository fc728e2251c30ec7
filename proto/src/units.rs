//! Durations, sizes and dates as people write them in workflows and catalogues.

/// A text that is no duration, size or date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct NotAUnit {
    /// What was given, cut to 40 characters.
    pub text: String,
    /// What would have been right.
    pub expected: &'static str,
}

fn not(text: &str, expected: &'static str) -> NotAUnit {
    NotAUnit {
        text: text.chars().take(40).collect(),
        expected,
    }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Milliseconds of `500ms`, `10s`, `5m`, `2h` or `1d`.
///
/// # Errors
/// Anything else.
pub fn duration_ms(text: &str) -> Result<u64, NotAUnit> {
    let units = [
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    scaled(text, &units).ok_or_else(|| {
        not(
            text,
            "a duration: write a whole number and ms, s, m, h or d, such as `90s`",
        )
    })
}

/// Bytes of `512B`, `64KiB`, `16MiB` or `2GiB`.
///
/// # Errors
/// Anything else.
pub fn size_bytes(text: &str) -> Result<u64, NotAUnit> {
    let units = [
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
    ];
    scaled(text, &units).ok_or_else(|| {
        not(
            text,
            "a size: write a whole number and B, KiB, MiB or GiB, such as `16MiB`",
        )
    })
}

/// Whether `text` is a day of the Gregorian calendar in the form `YYYY-MM-DD`.
#[must_use]
pub fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = bytes.len() == 10
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    if !shape {
        return false;
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<u32>().unwrap_or(0);
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return false,
    };
    (1..=days).contains(&day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_have_one_form() {
        assert_eq!(duration_ms("500ms"), Ok(500));
        assert_eq!(duration_ms("2h"), Ok(7_200_000));
        assert_eq!(size_bytes("16MiB"), Ok(16 << 20));
        for text in [
            "",
            "s",
            "5",
            "5 s",
            "-5s",
            "1.5h",
            "5S",
            "99999999999999999999s",
        ] {
            assert!(duration_ms(text).is_err(), "{text:?}");
        }
        assert!(size_bytes("16MB").is_err());
    }

    #[test]
    fn dates_are_days_that_exist() {
        for text in ["2024-02-29", "2000-02-29", "2026-12-31"] {
            assert!(is_date(text), "{text}");
        }
        for text in [
            "2023-02-29",
            "1900-02-29",
            "2026-13-01",
            "2026-04-31",
            "2026-4-1",
            "٢٠٢٦-01-01",
        ] {
            assert!(!is_date(text), "{text}");
        }
    }
}
