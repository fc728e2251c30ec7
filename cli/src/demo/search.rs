//! Whether any text of a report is in what was sent: as it is, in hex of either case, or in base64 of either alphabet.
//!
//! Every six bytes in a row of what was sent are looked at, and what they would be if they were hex or base64; then
//! every six bytes in a row of the report's texts are looked for among them. So a string of six or more bytes would be
//! found wherever it stood, whole or in part, at any of the three alignments that base64 has.

use std::collections::{BTreeSet, HashSet};

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

/// Shorter strings prove nothing: any two bytes are somewhere.
pub(crate) const SHORTEST: usize = 6;

type Piece = [u8; SHORTEST];

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Search {
    /// Different strings of six or more bytes that were looked for.
    pub(crate) strings: usize,
    /// Bytes they were looked for in.
    pub(crate) bytes: usize,
    /// Those that occur, in part at least.
    pub(crate) found: Vec<String>,
}

/// Looks for every string in the bytes.
pub(crate) fn search(strings: &BTreeSet<String>, sent: &[u8]) -> Search {
    let pieces = pieces(sent);
    let occurs = |text: &&String| {
        text.as_bytes()
            .array_windows()
            .any(|piece: &Piece| pieces.contains(piece))
    };
    let found = strings.iter().filter(occurs).cloned().collect();
    Search {
        strings: strings.len(),
        bytes: sent.len(),
        found,
    }
}

/// The texts of a JSON document: every text value, and every word of it.
pub(crate) fn texts_of_json(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => add(text, into),
        Value::Array(items) => items.iter().for_each(|item| texts_of_json(item, into)),
        Value::Object(fields) => fields.values().for_each(|field| texts_of_json(field, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The texts of an HTML document: what is between the tags, entities resolved, and every word of it. Styles and
/// scripts are no text.
pub(crate) fn texts_of_html(html: &str, into: &mut BTreeSet<String>) {
    let mut rest = html;
    while let Some((text, tagged)) = rest.split_once('<') {
        add(&resolved(text), into);
        let skipped = ["style", "script"]
            .iter()
            .find(|name| tagged.get(..name.len()) == Some(**name));
        rest = match skipped {
            Some(name) => tagged
                .split_once(&format!("</{name}"))
                .map_or("", |(_, rest)| rest),
            None => tagged,
        };
        rest = rest.split_once('>').map_or("", |(_, rest)| rest);
    }
    add(&resolved(rest), into);
}

fn resolved(text: &str) -> String {
    let named = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&nbsp;", " "),
        ("&amp;", "&"),
    ];
    named
        .iter()
        .fold(text.to_owned(), |text, (name, is)| text.replace(name, is))
}

fn add(text: &str, into: &mut BTreeSet<String>) {
    let words = text.split_whitespace().chain([text.trim()]);
    into.extend(
        words
            .filter(|word| word.len() >= SHORTEST)
            .map(str::to_owned),
    );
}

/// Everything that six bytes in a row are or could stand for.
fn pieces(sent: &[u8]) -> HashSet<Piece> {
    let mut pieces: HashSet<Piece> = sent.array_windows().copied().collect();
    pieces.extend(sent.array_windows::<{ 2 * SHORTEST }>().filter_map(unhex));
    for alphabet in [STANDARD, URL_SAFE] {
        // The last character of a run that is cut may hold bits of what followed.
        let config = GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true);
        let engine = GeneralPurpose::new(&alphabet, config);
        // Six bytes that begin at the first, second or third byte of a group of four characters.
        for (skip, characters) in [(0, 8), (1, 10), (2, 11)] {
            for run in sent
                .windows(characters)
                .filter(|run| run.iter().all(may_be_base64))
            {
                let decoded = engine.decode(run).unwrap_or_default();
                pieces.extend(
                    decoded
                        .get(skip..)
                        .and_then(|bytes| bytes.first_chunk::<SHORTEST>()),
                );
            }
        }
    }
    pieces
}

/// Of either alphabet.
fn may_be_base64(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/-_=".contains(byte)
}

fn unhex(digits: &[u8; 2 * SHORTEST]) -> Option<Piece> {
    let mut piece = Piece::default();
    for (byte, pair) in piece.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(piece)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

    fn found(text: &str, sent: &[u8]) -> bool {
        !search(&BTreeSet::from([text.to_owned()]), sent)
            .found
            .is_empty()
    }

    fn around(inner: &[u8]) -> Vec<u8> {
        [b"\x00\x07\xfe", inner, b"\xff\x01"].concat()
    }

    #[test]
    fn a_string_is_found_in_every_dress() {
        let text = "p@ss~w\u{fc}rd?>";
        let hex = |upper: bool| {
            let digits = text
                .bytes()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>();
            if upper { digits.to_uppercase() } else { digits }
        };
        for inner in [text.to_owned(), hex(false), hex(true)] {
            assert!(found(text, &around(inner.as_bytes())), "{inner}");
        }
        for before in ["", "x", "xy", "xyz"] {
            for after in ["", "1", "12"] {
                let whole = format!("{before}{text}{after}");
                for encoded in [
                    BASE64_STANDARD.encode(&whole),
                    BASE64_URL_SAFE_NO_PAD.encode(&whole),
                ] {
                    assert!(
                        found(text, &around(encoded.as_bytes())),
                        "{whole}: {encoded}"
                    );
                    assert!(found(text, encoded.as_bytes()), "{whole}: {encoded}");
                }
            }
        }
    }

    #[test]
    fn the_shortest_string_is_found_at_every_alignment() {
        for before in ["", "\u{1}", "\u{1}\u{2}"] {
            let encoded = BASE64_STANDARD.encode(format!("{before}secret"));
            assert!(found("secret", encoded.as_bytes()), "{encoded}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        assert!(!found("secret", &around(b"secre t and s-e-c-r-e-t")));
        assert!(!found(
            "secret",
            &(0..=255).cycle().take(4096).collect::<Vec<u8>>()
        ));
    }

    #[test]
    fn the_texts_of_a_report_are_its_values_and_words() {
        let mut texts = BTreeSet::new();
        texts_of_json(
            &serde_json::json!({"hidden": ["openssl 3.0.11", {"k": "short"}], "n": 1234567}),
            &mut texts,
        );
        assert_eq!(
            texts,
            BTreeSet::from([
                "openssl 3.0.11".to_owned(),
                "openssl".to_owned(),
                "3.0.11".to_owned()
            ])
        );
        texts.clear();
        texts_of_html(
            "<style>p{color:red}</style><p class=\"longer\">a &lt;b&gt;cdef <b>tail-piece</b>",
            &mut texts,
        );
        assert_eq!(
            texts,
            BTreeSet::from([
                "a <b>cdef".to_owned(),
                "<b>cdef".to_owned(),
                "tail-piece".to_owned()
            ])
        );
    }
}
