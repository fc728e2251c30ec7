//! The time of day at the site, as its people read it off the clock: in the zone of the agent's process (`TZ`, or the
//! host's own), summer time included.
#![expect(
    unsafe_code,
    reason = "localtime_r is a C function; the host's zone has no other door without a copy of the rules"
)]

/// A day of the week and a minute of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// 0 is Monday.
    pub day: u8,
    /// 0 to 1439.
    pub minute: u16,
}

impl Moment {
    /// Of a time in microseconds since 1970; `None` for one that no calendar has.
    #[must_use]
    pub fn at(wall_us: u64) -> Option<Self> {
        let seconds = libc::time_t::try_from(wall_us / 1_000_000).ok()?;
        // SAFETY: an all-zero tm is a valid value of the C struct; it is only read after the call filled it.
        let mut parts = unsafe { std::mem::zeroed::<libc::tm>() };
        // SAFETY: both pointers are to locals; the function keeps neither.
        let found = unsafe { libc::localtime_r(&raw const seconds, &raw mut parts) };
        if found.is_null() {
            return None;
        }
        let minute = u16::try_from(parts.tm_hour * 60 + parts.tm_min).ok()?;
        // C counts from Sunday.
        let day = u8::try_from((parts.tm_wday + 6) % 7).ok()?;
        Some(Self { day, minute })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_later_is_the_same_moment_and_a_minute_later_the_next() {
        const MINUTE: u64 = 60_000_000;
        let noon = 1_767_268_800_000_000;
        let first = Moment::at(noon).unwrap();
        assert!(first.day < 7 && first.minute < 1440);
        assert_eq!(Moment::at(noon + 30_000_000).unwrap(), first);
        // No zone changes its clock in the first half of January.
        assert_eq!(Moment::at(noon + 7 * 1440 * MINUTE).unwrap(), first);
        let next = Moment::at(noon + MINUTE).unwrap();
        assert_eq!((next.minute + 1440 - first.minute) % 1440, 1);
        let tomorrow = Moment::at(noon + 1440 * MINUTE).unwrap();
        assert_eq!(
            (tomorrow.day, tomorrow.minute),
            ((first.day + 1) % 7, first.minute)
        );
    }
}
