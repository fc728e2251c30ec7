//! "Did you mean": the nearest of the names that would have been right.

/// The nearest known name, if one is near.
pub(crate) fn nearest<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // A third of the letters may be wrong, so that short words do not resemble everything.
    let most = (given.chars().count() / 3).clamp(1, 3);
    let cut_short = |name: &str| given.len() >= 3 && name.starts_with(given);
    let near = known.into_iter().filter_map(|name| {
        let distance = if given.eq_ignore_ascii_case(name) {
            0
        } else if cut_short(name) {
            1
        } else {
            strsim::damerau_levenshtein(given, name)
        };
        (distance <= most).then_some((distance, name))
    });
    near.min().map(|(_, name)| name)
}

/// A sentence with the nearest name, or with all of them when they are few.
pub(crate) fn sentence<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
) -> Option<String> {
    if let Some(near) = nearest(given, known.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let all: Vec<&str> = known.into_iter().collect();
    (1..=8)
        .contains(&all.len())
        .then(|| format!("there is: {}", all.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_meant_and_what_is_far_is_not() {
        let known = ["host-report", "nightly", "a"];
        assert_eq!(nearest("host-reprot", known), Some("host-report"));
        assert_eq!(nearest("nigh", known), Some("nightly"));
        assert_eq!(nearest("x", known), Some("a"));
        assert_eq!(nearest("N", ["m", "n"]), Some("n"));
        assert_eq!(nearest("something", known), None);
        assert_eq!(
            sentence("something", known).unwrap(),
            "there is: host-report, nightly, a"
        );
        assert_eq!(sentence("something", []), None);
    }
}
