//! What was written is read as it was; whatever else lies there is not read at all, and said where.

use std::fs::File;
use std::io::Write as _;

use proptest::prelude::*;

use super::*;

fn key(byte: u8) -> DataKey {
    DataKey::new(Zeroizing::new([byte; 32]))
}

fn header(subject: u8, number: u64) -> Header {
    Header {
        key_id: KeyId([1; 8]),
        salt: [2; 32],
        kind: Kind::Log,
        subject: [subject; 16],
        part: log_part(number, 7),
    }
}

/// A file with these pieces, its borders between frames, and its end.
fn sealed(header: &Header, pieces: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
    let (mut sealer, bytes) = Sealer::begin(header, &key(9)).unwrap();
    let mut out = bytes.to_vec();
    let mut borders = vec![out.len()];
    for piece in pieces {
        sealer.frame(Frame::Bytes(piece), &mut out).unwrap();
        borders.push(out.len());
    }
    let received = pieces.iter().map(|piece| piece.len() as u64).sum();
    let end = Frame::End {
        received,
        left_out: 0,
    };
    sealer.frame(end, &mut out).unwrap();
    borders.push(out.len());
    (out, borders)
}

/// How a file reads: what of it is good, and how it ends.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    Whole(Vec<u8>),
    Open(Vec<u8>),
    Torn(Vec<u8>, u64),
    Damaged(Vec<u8>, u64),
    NoHeader,
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn read(expected: &Header, bytes: &[u8]) -> Read {
    let Some(first) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Read::NoHeader;
    };
    let Ok(parsed) = Header::parse(first) else {
        return Read::NoHeader;
    };
    if parsed != *expected {
        return Read::NoHeader;
    }
    let Ok(mut reader) = Reader::begin(first, &parsed, &key(9)) else {
        return Read::NoHeader;
    };
    let file = file_of(bytes);
    let mut content = Vec::new();
    loop {
        match reader.next(&file) {
            Ok(Next::Frame(Frame::Bytes(bytes))) => content.extend_from_slice(bytes),
            Ok(Next::Frame(_)) => {}
            Ok(Next::Nothing) => break,
            Ok(Next::Torn) => return Read::Torn(content, reader.offset()),
            Err(ReadError::Damaged { offset, .. }) => return Read::Damaged(content, offset),
            Err(other) => panic!("{other}"),
        }
    }
    if reader.is_over() {
        Read::Whole(content)
    } else {
        Read::Open(content)
    }
}

fn joined(pieces: &[Vec<u8>]) -> Vec<u8> {
    pieces.concat()
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        any::<u8>().prop_map(|byte| vec![byte; FRAME_BYTES]),
    ];
    proptest::collection::vec(piece, 0..6)
}

#[test]
fn a_header_says_what_it_was_made_of_and_nothing_less() {
    let header = header(3, 5);
    let (bytes, _) = sealed(&header, &[]);
    let first = bytes.first_chunk::<HEADER_BYTES>().unwrap();
    assert_eq!(Header::parse(first).unwrap(), header);
    assert_eq!(part_of_log(header.part), (5, 7));
    assert_eq!(header.key_id.to_string(), "0101010101010101");
    let mut newer = *first;
    newer[7] = 2;
    assert_eq!(Header::parse(&newer), Err(HeaderError::Version(2)));
    let mut other = *first;
    other[0] = 0;
    assert_eq!(Header::parse(&other), Err(HeaderError::Magic));
}

#[test]
fn another_key_opens_nothing() {
    let header = header(3, 5);
    let (bytes, _) = sealed(&header, &[b"secret".to_vec()]);
    let first = bytes.first_chunk::<HEADER_BYTES>().unwrap();
    let error = Reader::begin(first, &header, &key(8)).unwrap_err();
    assert!(matches!(error, ReadError::Header));
}

#[test]
fn nothing_of_the_content_or_the_key_is_in_the_file_or_in_what_is_shown_of_a_spec() {
    let spec = SealSpec {
        key: key(9),
        key_id: KeyId([1; 8]),
        salt: [2; 32],
    };
    let shown = format!("{spec:?}");
    assert!(
        shown.contains("not shown") && !shown.contains("9, 9"),
        "{shown}"
    );
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<SealSpec>(&text).unwrap(), spec);
    let no_salt = text.replace(&"02".repeat(32), &"00".repeat(32));
    assert_ne!(no_salt, text);
    for wrong in [
        text.replace("09", "0g"),
        text.replace("0909", "09"),
        no_salt,
    ] {
        assert!(serde_json::from_str::<SealSpec>(&wrong).is_err());
    }
    let (bytes, _) = sealed(&header(3, 0), &[b"the secret word".to_vec()]);
    assert!(!bytes.windows(6).any(|window| window == b"secret"));
}

#[test]
fn every_kind_of_frame_is_read_as_it_was_written() {
    let header = header(1, 1);
    let (mut sealer, bytes) = Sealer::begin(&header, &key(9)).unwrap();
    let mut out = bytes.to_vec();
    let frames = [
        Frame::Attributes(b"who"),
        Frame::Bytes(b""),
        Frame::LeftOut(u64::MAX),
        Frame::Bytes(b"more"),
        Frame::Continues,
    ];
    for frame in frames {
        sealer.frame(frame, &mut out).unwrap();
    }
    let too_long = vec![0; FRAME_BYTES + 1];
    assert!(sealer.frame(Frame::Bytes(&too_long), &mut out).is_err());
    let first = out.first_chunk::<HEADER_BYTES>().unwrap();
    let mut reader = Reader::begin(first, &header, &key(9)).unwrap();
    let file = file_of(&out);
    for frame in frames {
        assert_eq!(reader.next(&file).unwrap(), Next::Frame(frame));
    }
    assert_eq!(reader.next(&file).unwrap(), Next::Nothing);
}

#[test]
fn a_file_that_grows_is_followed_from_any_border_and_through_any_tear() {
    let header = header(3, 0);
    let (bytes, _) = sealed(&header, &[b"one".to_vec(), b"two".to_vec()]);
    let mut file = file_of(&bytes[..HEADER_BYTES]);
    let first = bytes.first_chunk::<HEADER_BYTES>().unwrap();
    let mut reader = Reader::begin(first, &header, &key(9)).unwrap();
    let mut content = Vec::new();
    for byte in &bytes[HEADER_BYTES..] {
        file.write_all(&[*byte]).unwrap();
        while let Next::Frame(frame) = reader.next(&file).unwrap() {
            if let Frame::Bytes(bytes) = frame {
                content.extend_from_slice(bytes);
            }
        }
    }
    assert!(reader.is_over());
    assert_eq!(content, b"onetwo");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_whole_is_read_whole(pieces in pieces()) {
        let (bytes, _) = sealed(&header(3, 0), &pieces);
        prop_assert_eq!(read(&header(3, 0), &bytes), Read::Whole(joined(&pieces)));
    }

    /// Any cut: what is before it is shown, and that it ends too early is known.
    #[test]
    fn any_cut_is_known(pieces in pieces(), at in any::<prop::sample::Index>()) {
        let (bytes, borders) = sealed(&header(3, 0), &pieces);
        let cut = at.index(bytes.len());
        let whole = borders.iter().filter(|border| **border <= cut).count();
        let read = read(&header(3, 0), &bytes[..cut]);
        if whole == 0 {
            prop_assert_eq!(read, Read::NoHeader);
        } else {
            let good = joined(&pieces[..whole - 1]);
            let border = borders[whole - 1];
            if border == cut {
                prop_assert_eq!(read, Read::Open(good));
            } else {
                prop_assert_eq!(read, Read::Torn(good, border as u64));
            }
        }
    }

    /// Any flip of any bit: nothing of the frame is shown, and where it begins is said.
    #[test]
    fn any_flip_is_known(pieces in pieces(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let (mut bytes, borders) = sealed(&header(3, 0), &pieces);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let before = borders.iter().filter(|border| **border <= at).count();
        let read = read(&header(3, 0), &bytes);
        if before == 0 {
            prop_assert_eq!(read, Read::NoHeader);
        } else {
            let good = joined(&pieces[..before - 1]);
            let border = borders[before - 1] as u64;
            // A length that became longer may reach beyond the end.
            let torn = read == Read::Torn(good.clone(), border);
            prop_assert!(torn || read == Read::Damaged(good, border), "{:?}", read);
            prop_assert!(!torn || at - (border as usize) < WORD_BYTES);
        }
    }

    /// Frames that change places, are left out, are doubled, or come from another file.
    #[test]
    fn any_splice_is_known(count in 2..6usize, from in 0..6usize, to in 0..6usize, how in 0..4u8) {
        let pieces: Vec<_> = (0..count).map(|n| vec![u8::try_from(n).unwrap(); 20]).collect();
        let (from, to) = (from % count, to % count);
        let (bytes, borders) = sealed(&header(3, 0), &pieces);
        let frame = |bytes: &[u8], n: usize| bytes[borders[n]..borders[n + 1]].to_vec();
        let mut frames: Vec<_> = (0..=count).map(|n| frame(&bytes, n)).collect();
        let first = match how {
            0 if from != to => { frames.swap(from, to); from.min(to) }
            1 => { frames.remove(from); from }
            2 => { let again = frames[from].clone(); frames.insert(from + 1, again); from + 1 }
            _ => {
                let other = [header(4, 0), header(3, 1)][to % 2];
                let (other, _) = sealed(&other, &pieces);
                frames[from] = frame(&other, from);
                from
            }
        };
        let mut spliced = bytes[..HEADER_BYTES].to_vec();
        spliced.extend(frames.concat());
        let good = joined(&pieces[..first]);
        let at = borders[first] as u64;
        prop_assert_eq!(read(&header(3, 0), &spliced), Read::Damaged(good, at));
    }

    /// A header of another file, or of any other content.
    #[test]
    fn any_other_header_opens_nothing(subject in any::<u8>(), number in any::<u64>(), pieces in pieces()) {
        let (bytes, _) = sealed(&header(subject, number), &pieces);
        let other = header(3, 0);
        prop_assume!(other != header(subject, number));
        let (mut moved, _) = sealed(&other, &[]);
        moved.truncate(HEADER_BYTES);
        moved.extend_from_slice(&bytes[HEADER_BYTES..]);
        prop_assert_eq!(read(&other, &moved), Read::Damaged(Vec::new(), HEADER_BYTES as u64));
    }

    #[test]
    fn something_behind_the_last_frame_is_known(pieces in pieces(), more in 1..100usize) {
        let (mut bytes, _) = sealed(&header(3, 0), &pieces);
        let end = bytes.len() as u64;
        bytes.extend(std::iter::repeat_n(0, more));
        prop_assert_eq!(read(&header(3, 0), &bytes), Read::Damaged(joined(&pieces), end));
    }
}

/// What a frame is called, and how long it says to be, is as authentic as what is in it; and who waits for a frame that no
/// frame can be would wait for ever.
#[test]
fn the_word_before_a_frame_is_authentic_and_one_that_is_none_is_not_waited_for() {
    let (bytes, borders) = sealed(&header(3, 0), &[vec![7; 16]]);
    let at = borders[0] + WORD_BYTES - 1;
    for (from, to) in [(word::BYTES, word::ATTRIBUTES), (word::BYTES, word::END)] {
        let mut renamed = bytes.clone();
        assert_eq!(renamed[at], from);
        renamed[at] = to;
        let expected = Read::Damaged(Vec::new(), borders[0] as u64);
        assert_eq!(read(&header(3, 0), &renamed), expected, "{to}");
    }
    let mut long = bytes[..borders[0]].to_vec();
    let too_long = u32::try_from(FRAME_BYTES + 1).unwrap();
    long.extend((u32::from(word::BYTES) << 24 | too_long).to_le_bytes());
    let expected = Read::Damaged(Vec::new(), borders[0] as u64);
    assert_eq!(read(&header(3, 0), &long), expected);
}
