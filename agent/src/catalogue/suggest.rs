//! "Did you mean …?" for names that people mistype.

/// The known name that looks most like `given`, if one does: some letters wrong, missing or swapped, or a beginning.
fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong_letters = (given.chars().count() / 3).max(1);
    let score = |name: &'a str| (strsim::osa_distance(given, name), name);
    let (distance, name) = known.into_iter().map(score).min()?;
    let alike = distance <= wrong_letters || strsim::jaro_winkler(given, name) > 0.85;
    (alike && distance > 0).then_some(name)
}

/// The end of a sentence about an unknown name: the likely one, or nothing.
pub(crate) fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(given, known).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// The parser's own words about an unknown key, shorter and with a suggestion. It names the key and then the known
/// ones, all in backticks.
pub(super) fn unknown_key(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field `")?;
    let (given, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).collect::<Vec<_>>();
    let likely = did_you_mean(given, known.iter().copied());
    let list = if likely.is_empty() {
        format!("; known keys are {}", known.join(", "))
    } else {
        likely
    };
    Some(format!("there is no key `{given}`{list}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_key_gets_the_likely_one_and_a_strange_one_the_list() {
        let message = "unknown field `timeot`, expected one of `argv`, `timeout`, `user`";
        assert_eq!(
            unknown_key(message).unwrap(),
            "there is no key `timeot`; did you mean `timeout`?"
        );
        let message = "unknown field `zzz`, expected one of `argv`, `timeout`";
        assert_eq!(
            unknown_key(message).unwrap(),
            "there is no key `zzz`; known keys are argv, timeout"
        );
        assert_eq!(unknown_key("invalid type"), None);
    }
}
