//! The five fields of a cron expression, for people: which one cannot be read, and what it can be.

use super::{cron, shown};

/// Name and values of each, in their order.
const FIELDS: [(&str, &str); 5] = [
    ("minute", "a number from 0 to 59"),
    ("hour", "a number from 0 to 23"),
    (
        "day of month",
        "a number from 1 to 31 or `L` for the last day",
    ),
    ("month", "a number from 1 to 12 or `JAN` to `DEC`"),
    (
        "day of week",
        "a number from 0 to 7 (Sunday is 0 and 7) or `SUN` to `SAT`",
    ),
];

/// What is wrong with an expression of five fields that cannot be read: the first field that cannot be read alone.
pub(super) fn at_fault(expression: &str) -> String {
    let alone = |place: usize, field: &str| {
        let mut fields = ["*"; FIELDS.len()];
        if let Some(slot) = fields.get_mut(place) {
            *slot = field;
        }
        cron(&fields.join(" "))
    };
    let parts = expression.split_whitespace().enumerate();
    let wrong = parts
        .filter(|(place, field)| alone(*place, field).is_none())
        .find_map(|(place, field)| FIELDS.get(place).map(|known| (known, field)));
    match wrong {
        Some(((name, values), field)) => format!(
            "its {name} is `{}`; give {values}; or `*` for all, a list (`1,3`), a range (`1-5`), steps (`*/2`)",
            shown(field)
        ),
        None => "its fields can be read one by one and not together; simplify them, or make two workflows of it"
            .to_owned(),
    }
}
