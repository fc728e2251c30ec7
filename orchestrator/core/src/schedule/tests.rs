//! Against a model that knows nothing of cron or of searching: a clock that is watched minute by minute through every
//! zone change of ten years.

use std::collections::BTreeSet;

use jiff::civil;

use super::*;
use crate::spec::Missed;

const ZONES: [&str; 6] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Africa/Casablanca",
    "Asia/Tehran",
];
const MINUTE: u64 = 60_000_000;
const HOUR: u64 = 60 * MINUTE;

/// An expression and, written out by hand, what it means: minutes, hours and weekdays (0 is Sunday).
struct Case {
    expression: &'static str,
    minutes: Vec<i8>,
    hours: Vec<i8>,
    weekdays: Vec<i8>,
}

fn case(expression: &'static str, minutes: &[i8], hours: &[i8], weekdays: &[i8]) -> Case {
    let (minutes, hours, weekdays) = (minutes.to_vec(), hours.to_vec(), weekdays.to_vec());
    Case {
        expression,
        minutes,
        hours,
        weekdays,
    }
}

fn cases() -> Vec<Case> {
    let (every_hour, every_day): (Vec<i8>, Vec<i8>) = ((0..24).collect(), (0..7).collect());
    let every_minute: Vec<i8> = (0..60).collect();
    vec![
        case("30 2 * * *", &[30], &[2], &every_day),
        case("0 0 * * *", &[0], &[0], &every_day),
        case("@daily", &[0], &[0], &every_day),
        case("0 1 * * *", &[0], &[1], &every_day),
        case("45 1 * * 0", &[45], &[1], &[0]),
        case("59 23 * * *", &[59], &[23], &every_day),
        case("0,30 1-3 * * *", &[0, 30], &[1, 2, 3], &every_day),
        case("*/10 2 * * *", &[0, 10, 20, 30, 40, 50], &[2], &every_day),
        case("5 0,2 * * 6,0", &[5], &[0, 2], &[6, 0]),
        case(
            "0 */2 * * *",
            &[0],
            &[0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22],
            &every_day,
        ),
        case("*/15 * * * *", &[0, 15, 30, 45], &every_hour, &every_day),
        case("0 * * * *", &[0], &every_hour, &every_day),
        case("* * * * *", &every_minute, &every_hour, &every_day),
    ]
}

impl Case {
    fn matches(&self, civil: DateTime) -> bool {
        self.minutes.contains(&civil.minute())
            && self.hours.contains(&civil.hour())
            && self
                .weekdays
                .contains(&civil.weekday().to_sunday_zero_offset())
    }

    /// The instants within a span, found by watching the clock.
    fn watched(&self, zone: &TimeZone, from: u64, until: u64) -> BTreeSet<u64> {
        let elapsed = self.hours.len() == 24;
        let mut instants = BTreeSet::new();
        let mut shown: BTreeSet<DateTime> = BTreeSet::new();
        let mut before = None;
        for now in (from..=until).step_by(60_000_000) {
            let civil = zone.to_datetime(timestamp(now).unwrap());
            let again = !shown.insert(civil);
            if self.matches(civil) && (elapsed || !again) {
                instants.insert(now);
            }
            if let Some(before) = before.replace(civil) {
                let mut skipped = minute_after(before);
                while !elapsed && skipped < civil {
                    if self.matches(skipped) {
                        instants.insert(now);
                    }
                    skipped = minute_after(skipped);
                }
            }
        }
        instants
    }

    fn schedule(&self, zone: &str) -> Schedule {
        cron(self.expression, zone).unwrap()
    }
}

fn minute_after(civil: DateTime) -> DateTime {
    civil.checked_add(SignedDuration::from_mins(1)).unwrap()
}

fn cron(expression: &str, zone: &str) -> Result<Schedule, ScheduleError> {
    Schedule::new(&ScheduleSpec {
        timezone: zone.to_owned(),
        ..ScheduleSpec::new(When::Cron {
            expression: expression.to_owned(),
        })
    })
}

fn zoned(name: &str) -> TimeZone {
    TimeZoneDatabase::bundled().get(name).unwrap()
}

fn at(zone: &str, text: &str) -> u64 {
    let civil: civil::DateTime = text.parse().unwrap();
    micros(zoned(zone).to_timestamp(civil).unwrap()).unwrap()
}

/// Every change of a zone's offset from 2020 to 2030.
fn changes(zone: &TimeZone) -> Vec<u64> {
    let from: Timestamp = "2020-01-01T00:00Z".parse().unwrap();
    let until: Timestamp = "2031-01-01T00:00Z".parse().unwrap();
    let changes = zone.following(from).map(|change| change.timestamp());
    let changes = changes.take_while(|change| *change < until);
    changes.map(|change| micros(change).unwrap()).collect()
}

#[test]
fn every_zone_change_of_ten_years() {
    let mut seen = 0;
    for name in ZONES {
        let zone = zoned(name);
        let changes = changes(&zone);
        assert!(!changes.is_empty(), "{name}");
        for change in changes {
            seen += 1;
            // Long enough before that everything shown twice, or skipped, lies within; a little after.
            let (from, until) = (change - 5 * HOUR, change + 5 * HOUR);
            for case in cases() {
                let schedule = case.schedule(name);
                let model = case.watched(&zone, from, until);
                let found: BTreeSet<u64> = schedule
                    .following(from - 1)
                    .take_while(|instant| *instant <= until)
                    .collect();
                assert_eq!(found, model, "{name} {} around {change}", case.expression);
                let back =
                    std::iter::successors(schedule.prev(until), |last| schedule.prev(last - 1));
                let back: BTreeSet<u64> = back.take_while(|instant| *instant >= from).collect();
                assert_eq!(back, model, "{name} {} back from {until}", case.expression);
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn from_any_moment_forward_and_back() {
    for name in ZONES {
        let zone = zoned(name);
        for change in changes(&zone).into_iter().take(4) {
            let (from, until) = (change - 27 * HOUR, change + 27 * HOUR);
            for case in cases() {
                let schedule = case.schedule(name);
                let model = case.watched(&zone, from, until);
                // Around the change each quarter of a minute and each odd microsecond.
                let moments = (change - 3 * HOUR..change + 3 * HOUR).step_by(377_000_003);
                for moment in moments.chain(model.iter().flat_map(|at| [at - 1, *at, at + 1])) {
                    if let Some(next) = model.range(moment + 1..).next() {
                        assert_eq!(
                            schedule.next(moment),
                            Some(*next),
                            "{name} {}",
                            case.expression
                        );
                    }
                    if let Some(prev) = model.range(..=moment).next_back() {
                        assert_eq!(
                            schedule.prev(moment),
                            Some(*prev),
                            "{name} {}",
                            case.expression
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_daily_time_comes_once_a_day_for_ten_years() {
    for name in ZONES {
        for expression in ["0 0 * * *", "30 2 * * *", "15 1 * * *", "59 23 * * *"] {
            let schedule = cron(expression, name).unwrap();
            let (from, until) = (
                at(name, "2020-01-01T00:00") - 1,
                at(name, "2030-01-01T00:00") - 1,
            );
            let instants = schedule
                .following(from)
                .take_while(|at| *at <= until)
                .count();
            assert_eq!(instants, 3653, "{name} {expression}");
        }
    }
}

#[test]
fn the_documented_examples() {
    let berlin = |text| at("Europe/Berlin", text);
    let nightly = cron("30 2 * * *", "Europe/Berlin").unwrap();
    // 2026-03-29: 02:00 to 03:00 does not exist. At the moment after the gap.
    assert_eq!(
        nightly.next(berlin("2026-03-29T00:00")),
        Some(berlin("2026-03-29T03:00"))
    );
    // 2026-10-25: 02:00 to 03:00 exists twice. The first time, then the next day.
    let first = nightly.next(berlin("2026-10-25T00:00")).unwrap();
    assert_eq!(first, micros("2026-10-25T00:30Z".parse().unwrap()).unwrap());
    assert_eq!(nightly.next(first), Some(berlin("2026-10-26T02:30")));
    // Midnight that does not exist: Santiago, 2026-09-06, 00:00 to 01:00.
    let midnight = cron("@daily", "America/Santiago").unwrap();
    let santiago = |text| at("America/Santiago", text);
    assert_eq!(
        midnight.next(santiago("2026-09-05T12:00")),
        Some(santiago("2026-09-06T01:00"))
    );
}

#[test]
fn intervals_are_counted_from_their_start() {
    let every = |ms, start, end| {
        let spec = ScheduleSpec {
            start,
            end,
            ..ScheduleSpec::new(When::Every { ms })
        };
        Schedule::new(&spec).unwrap()
    };
    let plain = every(900_000, None, None);
    assert_eq!(plain.next(0), Some(900_000_000));
    assert_eq!(plain.next(900_000_000 - 1), Some(900_000_000));
    assert_eq!(plain.next(900_000_000), Some(1_800_000_000));
    assert_eq!(plain.prev(1_799_999_999), Some(900_000_000));
    assert_eq!(plain.prev(899_999_999), None);
    let started = every(1_000, Some(5_500_000), Some(7_500_000));
    let all: Vec<u64> = started.following(0).collect();
    assert_eq!(all, [5_500_000, 6_500_000, 7_500_000]);
    assert_eq!(started.prev(u64::MAX), Some(7_500_000));
    assert_eq!(started.prev(5_499_999), None);
    assert_eq!(every(EVERY_MS.1, None, None).next(u64::MAX), None);
}

#[test]
fn start_and_end_bound_a_cron_expression() {
    let berlin = |text| at("Europe/Berlin", text);
    let spec = ScheduleSpec {
        timezone: "Europe/Berlin".to_owned(),
        start: Some(berlin("2026-01-01T00:00")),
        end: Some(berlin("2026-01-03T00:00")),
        ..ScheduleSpec::new(When::Cron {
            expression: "@midnight".to_owned(),
        })
    };
    assert_eq!(
        upcoming(&spec, 0, 10),
        ["2026-01-01T00:00", "2026-01-02T00:00", "2026-01-03T00:00"].map(berlin)
    );
    assert_eq!(upcoming(&spec, berlin("2026-01-03T00:00"), 10), []);
    assert_eq!(upcoming(&spec, 0, 1), [berlin("2026-01-01T00:00")]);
    check(&spec).unwrap();
}

#[test]
fn what_is_no_schedule() {
    let spec = |expression: &str, zone: &str| ScheduleSpec {
        timezone: zone.to_owned(),
        ..ScheduleSpec::new(When::Cron {
            expression: expression.to_owned(),
        })
    };
    let every = |ms| ScheduleSpec::new(When::Every { ms });
    let mut limit = every(1_000);
    (limit.missed, limit.missed_limit) = (Missed::All, 101);
    let mut backwards = every(1_000);
    (backwards.start, backwards.end) = (Some(2), Some(1));
    let mut none_between = spec("0 0 1 1 *", "UTC");
    (none_between.start, none_between.end) = (
        Some(at("UTC", "2026-02-01T00:00")),
        Some(at("UTC", "2026-12-31T00:00")),
    );
    let refused = [
        spec("", "UTC"),
        spec("* * * *", "UTC"),
        spec("0 30 2 * * *", "UTC"),
        spec("61 2 * * *", "UTC"),
        spec("0 24 * * *", "UTC"),
        spec("0 0 1,32 * *", "UTC"),
        spec("0 0 * SEPT *", "UTC"),
        spec("0 0 * * mo-fr", "UTC"),
        spec("0 0 * * \u{1b}[31m", "UTC"),
        spec("*/0 0 5-1-2 * *", "UTC"),
        spec("@reboot", "UTC"),
        spec(&"0,".repeat(200), "UTC"),
        spec("0 0 30 2 *", "UTC"),
        spec("0 0 * * *", "Europe/Berln"),
        every(999),
        every(EVERY_MS.1 + 1),
        limit,
        backwards,
        none_between,
    ];
    let told: Vec<String> = refused
        .iter()
        .map(|spec| check(spec).unwrap_err().to_string())
        .collect();
    assert!(told.iter().all(|text| !text.contains('\u{1b}')));
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn what_croner_knows_beyond_five_plain_fields() {
    let next = |expression: &str| {
        cron(expression, "UTC")
            .unwrap()
            .next(at("UTC", "2026-01-15T00:00"))
            .unwrap()
    };
    assert_eq!(next("0 0 L * *"), at("UTC", "2026-01-31T00:00"));
    assert_eq!(next("0 0 * * FRI#L"), at("UTC", "2026-01-30T00:00"));
    assert_eq!(next("0 9 * FEB MON-FRI"), at("UTC", "2026-02-02T09:00"));
    assert_eq!(next("0 0 29 2 *"), at("UTC", "2028-02-29T00:00"));
}
