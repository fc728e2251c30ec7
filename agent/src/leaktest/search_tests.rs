//! Marks in every dress, alone, in the middle of others, cut in two, and where the search ends.

use super::*;

fn forms(searcher: &Searcher, bytes: &[u8]) -> Vec<Form> {
    let mut source = searcher.source();
    source.push(bytes);
    source.end().forms
}

#[test]
fn every_form_is_found_alone_and_in_the_middle_of_others() {
    let mark = Mark::random().unwrap();
    let searcher = Searcher::new(&mark);
    for form in Form::ALL {
        for text in [
            mark.text().to_owned(),
            mark.of("stdout"),
            format!("a b {} c", mark.of("x")),
        ] {
            let dressed = form.dress(&text);
            let around = [b"\x00\xfe before ", dressed.as_slice(), b" behind \x01"].concat();
            for bytes in [&dressed, &around] {
                let found = forms(&searcher, bytes);
                // What stands before it decides which alignment a base64 has.
                let is_base64 = |form: &Form| form.name().starts_with("base64");
                assert!(
                    found.contains(&form) || is_base64(&form) && found.iter().any(is_base64),
                    "{form:?} of {text}: {found:?}"
                );
            }
        }
    }
    assert_eq!(
        forms(&searcher, Mark::random().unwrap().text().as_bytes()),
        []
    );
    assert_eq!(forms(&searcher, &vec![0x78; 1 << 16]), []);
}

#[test]
fn the_place_where_it_was_left_is_told() {
    let mark = Mark::random().unwrap();
    let searcher = Searcher::new(&mark);
    for form in Form::ALL {
        let mut source = searcher.source();
        source.push(&form.dress(&format!("{} and more", mark.of("environment"))));
        let looked = source.end();
        // UTF-16 of one byte order is that of the other, one byte further on.
        let places: Vec<_> = looked
            .first
            .iter()
            .map(|hit| hit.left_as.as_deref())
            .collect();
        let is_told = places.iter().all(|place| *place == Some("environment"));
        assert!(
            is_told && !places.is_empty(),
            "{form:?}: {:?}",
            looked.first
        );
    }
}

/// A mark that was cut in two, anywhere, with anything between the parts: one half of its random characters is whole.
#[test]
fn a_mark_that_was_cut_in_two_is_found_by_a_half_of_it_in_every_form() {
    let mark = Mark::random().unwrap();
    let searcher = Searcher::new(&mark);
    let forms_of_bytes = Form::ALL
        .into_iter()
        .filter(|form| form.needle("x").is_some());
    for form in forms_of_bytes {
        let text = mark.text();
        for cut in 1..text.len() {
            let parts = [form.dress(&text[..cut]), form.dress(&text[cut..])];
            let between = b"\0\x12\x03\x1f";
            let found = forms(&searcher, &parts.join(&between[..]));
            assert!(
                found.contains(&Form::Half),
                "{form:?} cut at {cut}: {found:?}"
            );
        }
        // A whole one is one, and not three.
        let found = forms(&searcher, &form.dress(text));
        assert!(!found.contains(&Form::Half), "{form:?}: {found:?}");
    }
    // What is no half of the random characters is none of it: the beginning is everybody's.
    assert_eq!(forms(&searcher, &mark.text().as_bytes()[..15]), []);
}

#[test]
fn half_of_a_mark_at_the_border_of_a_piece_is_told_once_and_not_of_a_whole_one() {
    let mark = Mark::random().unwrap();
    let searcher = Searcher::new(&mark);
    for (text, expected) in [(mark.halves()[0], Form::Half), (mark.text(), Form::Raw)] {
        // Some of it is met with the first piece, and all of it with the second.
        let before = CHUNK_BYTES - 5;
        let mut bytes = vec![b'.'; before];
        bytes.extend_from_slice(text.as_bytes());
        let mut source = searcher.source();
        source.push(&bytes[..CHUNK_BYTES]);
        source.push(&bytes[CHUNK_BYTES..]);
        let looked = source.end();
        let told = looked.first.iter().map(|hit| (hit.offset, hit.form));
        assert_eq!(told.collect::<Vec<_>>(), [(before as u64, expected)]);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut member = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    member.extend(miniz_oxide::deflate::compress_to_vec(bytes, 1));
    member
}

#[test]
fn a_bomb_is_undone_up_to_a_bound_and_what_is_left_is_told() {
    let mark = Mark::random().unwrap();
    let searcher = Searcher::new(&mark);
    let mut inside = vec![b'.'; INFLATED_BYTES];
    inside.extend_from_slice(mark.text().as_bytes());
    let mut source = searcher.source();
    source.push(&gzip(&inside));
    let looked = source.end();
    assert_eq!(looked.hits, 0);
    assert_eq!(
        looked.not_searched,
        ["1 compressed members, beyond their first 4 MiB"]
    );

    // Within the bound of one, but many of them.
    let member = gzip(&vec![b'.'; INFLATED_BYTES]);
    let mut source = searcher.source();
    source.undoing = Undoing::new(3 * INFLATED_BYTES as u64);
    for _ in 0..5 {
        source.push(&member);
    }
    source.push(&gzip(mark.text().as_bytes()));
    let looked = source.end();
    assert_eq!(looked.hits, 0);
    assert_eq!(
        looked.not_searched,
        ["3 places that look compressed, after 1024 MiB had been undone"]
    );
    let mut source = searcher.source();
    source.push(&member);
    source.push(&gzip(mark.text().as_bytes()));
    let looked = source.end();
    assert_eq!((looked.hits, looked.not_searched), (1, vec![]));
}

#[test]
fn a_member_that_is_longer_than_what_is_looked_at_together_is_told() {
    let mark = Mark::random().unwrap();
    let searcher = Searcher::new(&mark);
    // Stored as it is, in blocks of 65,535 bytes.
    let mut member = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for _ in 0..80 {
        member.extend([0, 0xff, 0xff, 0, 0]);
        member.extend(vec![b'.'; 65_535]);
    }
    // What begins right before the border is met again, with what follows.
    let (early, late) = (CHUNK_BYTES - 2 * OVERLAP_BYTES, CHUNK_BYTES - 1);
    for (before, length, told) in [(early, 2 << 20, 1), (late, 60 << 10, 0)] {
        let mut source = searcher.source();
        source.push(&vec![b' '; before]);
        source.push(&member[..length]);
        assert_eq!(source.end().not_searched.len(), told, "{before}");
    }
}

#[test]
fn what_only_looks_hidden_costs_no_more_than_the_bound() {
    let searcher = Searcher::new(&Mark::random().unwrap());
    for text in ["H4sI", "1f8b08"] {
        let mut source = searcher.source();
        source.undoing = Undoing::new(1 << 20);
        source.push(text.repeat((1 << 20) / text.len()).as_bytes());
        assert_eq!(source.end().not_searched.len(), 1, "{text}");
    }
    let mut source = searcher.source();
    source.undoing = Undoing::new(1 << 20);
    source.push(&[0x1f, 0x8b, 8, 8].repeat(1 << 14));
    let looked = source.end();
    assert_eq!(looked.not_searched.len(), 1, "names without an end");
}

#[test]
fn what_lies_across_the_borders_of_pieces_is_found_once() {
    let mark = Mark::random().unwrap();
    let searcher = Searcher::new(&mark);
    let dressed = Form::Gzip.dress(mark.text());
    for before in [
        CHUNK_BYTES - 5,
        CHUNK_BYTES - OVERLAP_BYTES - 3,
        CHUNK_BYTES + 1,
    ] {
        let mut bytes = vec![b'.'; before];
        bytes.extend_from_slice(&dressed);
        bytes.extend_from_slice(mark.text().as_bytes());
        bytes.extend(vec![b'.'; CHUNK_BYTES]);
        let mut source = searcher.source();
        for part in bytes.chunks(100_003) {
            source.push(part);
        }
        let looked = source.end();
        assert_eq!(looked.bytes, bytes.len() as u64);
        let at = looked.first.iter().map(|hit| (hit.offset, hit.form));
        let raw = (before + dressed.len()) as u64;
        assert!(at.eq([(before as u64, Form::Gzip), (raw, Form::Raw)]));
    }
}
