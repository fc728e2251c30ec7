//! "Did you mean": the nearest of the words that would have been right.

/// Words named when none is near.
const NAMED: usize = 20;

/// The nearest known word, or all of them, or nothing when there are none.
pub(super) fn hint<'a>(
    given: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Option<String> {
    if let Some(near) = nearest(given, known.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let all: Vec<String> = known
        .clone()
        .take(NAMED)
        .map(|word| format!("`{word}`"))
        .collect();
    match known.count() {
        0 => None,
        count if count > NAMED => Some(format!(
            "known are {} and {} more",
            all.join(", "),
            count - NAMED
        )),
        _ => Some(format!("known are {}", all.join(", "))),
    }
}

/// The nearest known word, if one is near.
pub(super) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may be wrong, so that short words do not resemble everything.
    let most = (given.chars().count() / 3).clamp(1, 3);
    let cut_short = |word: &str| given.len() >= 3 && word.starts_with(given);
    let near = known
        .map(|word| {
            (
                if cut_short(word) {
                    1
                } else {
                    distance(given, word)
                },
                word,
            )
        })
        .filter(|(distance, _)| *distance <= most);
    near.min().map(|(_, word)| word)
}

/// Letters to change, add, leave out or swap with their neighbour; words longer than a name are never near.
fn distance(a: &str, b: &str) -> usize {
    let letters = |text: &str| text.chars().take(65).collect::<Vec<char>>();
    let (a, b) = (letters(a), letters(b));
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let mut cost = (above[j] + usize::from(from != to))
                .min(above[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *from == b[j - 1] && a[i - 1] == *to {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "ab", 2),
            ("needs", "need", 1),
            ("kitten", "sitting", 3),
            ("tasks", "task s", 1),
            ("tpo", "top", 1),
        ] {
            assert_eq!(distance(a, b), expected, "{a:?} {b:?}");
        }
    }

    #[test]
    fn the_nearest_word_is_proposed_or_all_are_named() {
        let known = || ["entry", "needs", "with"].into_iter();
        let told = |given| hint(given, known()).unwrap();
        assert_eq!(told("need"), "did you mean `needs`?");
        assert_eq!(told("ent"), "did you mean `entry`?");
        assert_eq!(told("zzz"), "known are `entry`, `needs`, `with`");
        assert_eq!(hint("zzz", std::iter::empty()), None);
    }
}
