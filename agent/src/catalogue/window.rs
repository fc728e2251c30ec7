//! When an entry may start: days of the week and times of day, by the site's own clock.

use std::fmt;

use crate::local_time::Moment;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY_MINUTES: u16 = 24 * 60;

/// One window: it belongs to the days on which it begins, and may end on the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    days: [bool; 7],
    from: u16,
    /// The first minute after it; at most 24:00, and less than `from` when it ends on the next day.
    to: u16,
    text: String,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no window: write days, times or both, such as \"mon-fri 20:00-06:00\", \"sat,sun\" or \
                 \"01:00-05:00\""
            )
        };
        let mut days = None;
        let mut times = None;
        for part in text.split_whitespace() {
            if part.starts_with(|c: char| c.is_ascii_digit()) {
                if times.replace(time_range(part).ok_or_else(wrong)?).is_some() {
                    return Err(wrong());
                }
            } else if times.is_some() || days.replace(day_list(part).ok_or_else(wrong)?).is_some() {
                return Err(wrong());
            }
        }
        if days.is_none() && times.is_none() {
            return Err(wrong());
        }
        let (from, to) = times.unwrap_or((0, DAY_MINUTES));
        Ok(Self {
            days: days.unwrap_or([true; 7]),
            from,
            to,
            text: text.to_owned(),
        })
    }
}

impl Window {
    /// Whether a moment is in it.
    #[must_use]
    pub fn is_open(&self, at: Moment) -> bool {
        let on = |day: u8| self.days.get(usize::from(day)).copied().unwrap_or(false);
        let yesterday = (at.day + 6) % 7;
        if self.from < self.to {
            on(at.day) && (self.from..self.to).contains(&at.minute)
        } else {
            on(at.day) && at.minute >= self.from || on(yesterday) && at.minute < self.to
        }
    }
}

/// `mon-fri`, `sat,sun`, `fri-mon,wed`.
fn day_list(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|day| *day == name);
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let count = (last + 7 - first) % 7 + 1;
        for at in 0..count {
            *days.get_mut((first + at) % 7)? = true;
        }
    }
    Some(days)
}

/// `20:00-06:00`; the end is not in it.
fn time_range(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (time(from)?, time(to)?);
    (from != to && from < DAY_MINUTES && to > 0).then_some((from, to))
}

fn time(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    let (hours, minutes) = (hours.parse::<u16>().ok()?, minutes.parse::<u16>().ok()?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY_MINUTES).then_some(minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is open at a day (0 is Monday) and a time.
    fn open(window: &str, day: u8, time_of_day: &str) -> bool {
        let minute = time(time_of_day).unwrap();
        window
            .parse::<Window>()
            .unwrap()
            .is_open(Moment { day, minute })
    }

    #[test]
    fn days_and_times_open_it_and_the_end_is_not_in_it() {
        assert!(open("mon-fri 08:00-18:00", 0, "08:00"));
        assert!(open("mon-fri 08:00-18:00", 4, "17:59"));
        assert!(!open("mon-fri 08:00-18:00", 4, "18:00"));
        assert!(!open("mon-fri 08:00-18:00", 5, "12:00"));
        assert!(open("sat,sun", 6, "23:59") && open("sat,sun", 5, "00:00"));
        assert!(!open("sat,sun", 0, "00:00"));
        assert!(open("01:00-05:00", 3, "03:00") && !open("01:00-05:00", 3, "05:00"));
        assert!(open("20:00-24:00", 3, "23:59"));
        assert!(open("fri-mon,wed", 0, "12:00") && open("fri-mon,wed", 2, "12:00"));
        assert!(!open("fri-mon,wed", 1, "12:00"));
    }

    #[test]
    fn one_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let nights = "mon-fri 20:00-06:00";
        assert!(open(nights, 0, "20:00") && open(nights, 1, "05:59"));
        assert!(
            !open(nights, 0, "05:59"),
            "the night from Sunday is none of them"
        );
        assert!(
            open(nights, 5, "03:00"),
            "the night from Friday ends on Saturday"
        );
        assert!(!open(nights, 5, "20:00") && !open(nights, 1, "06:00"));
    }

    #[test]
    fn what_is_no_window_is_refused_in_words() {
        for text in [
            "",
            "daily",
            "mon-",
            "mon tue",
            "08:00",
            "8:00-9:00",
            "08:00-08:00",
            "08:00-25:00",
            "24:00-01:00",
            "20:00-00:00",
            "08:60-09:00",
            "08:00-09:00 mon",
            "mon 08:00-09:00 10:00-11:00",
            "+8:00-09:00",
        ] {
            let why = text.parse::<Window>().unwrap_err();
            assert!(why.contains("is no window"), "{text}: {why}");
        }
    }
}
