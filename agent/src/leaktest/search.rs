//! Looking for a mark in bytes of any kind, in every form, in bounded memory.

use std::collections::BTreeMap;

use memchr::memmem::{self, Finder};
use miniz_oxide::inflate::{
    TINFLStatus, decompress_to_vec_with_limit, decompress_to_vec_zlib_with_limit,
};
use serde::Serialize;

use super::mark::{Form, Mark, place_after, unbase64, unhex};

/// Bytes that are looked at together.
const CHUNK_BYTES: usize = 4 << 20;
/// Bytes that are looked at again with what follows them: whatever lies across the border is found.
const OVERLAP_BYTES: usize = 64 << 10;
/// Bytes that one compressed member may hold; what is beyond is told as not searched.
const INFLATED_BYTES: usize = 4 << 20;
/// Bytes that are undone in all, of compression, base64 and hex, in one source; what is beyond is told as not searched.
const UNDONE_BYTES: u64 = 1 << 30;
/// Bytes of a compressed member's own name or comment.
const NAME_BYTES: usize = 1 << 10;
/// Bytes of the longest form of a whole mark that is looked for byte for byte, and more.
const WHOLE_BYTES: usize = 64;
/// Places of one source that are told one by one.
const TOLD: usize = 20;

const GZIP: &[u8] = &[0x1f, 0x8b, 8];
const GZIP_BASE64: &[u8] = b"H4sI";
const GZIP_HEX: [&[u8]; 2] = [b"1f8b08", b"1F8B08"];
const ZLIB: [&[u8]; 4] = [&[0x78, 0x01], &[0x78, 0x5e], &[0x78, 0x9c], &[0x78, 0xda]];

/// A mark that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// Bytes before it.
    pub offset: u64,
    /// How it was written down.
    pub form: Form,
    /// Where the canary had left it, if that could be read.
    pub left_as: Option<String>,
}

/// Looks for one mark.
pub struct Searcher {
    mark: Mark,
    needles: Vec<(Form, Finder<'static>)>,
    /// Of the halves.
    halves: Vec<Finder<'static>>,
}

impl Searcher {
    /// For this mark.
    #[must_use]
    pub fn new(mark: &Mark) -> Self {
        let finder = |form: Form, text| Some(Finder::new(&form.needle(text)?).into_owned());
        let needle = |form: Form| Some((form, finder(form, mark.text())?));
        let halves = mark.halves().into_iter();
        let halves = halves.flat_map(|half| Form::ALL.map(|form| finder(form, half)));
        Self {
            mark: mark.clone(),
            needles: Form::ALL.into_iter().filter_map(needle).collect(),
            halves: halves.flatten().collect(),
        }
    }

    /// Begins to look at a source.
    #[must_use]
    pub fn source(&self) -> Source<'_> {
        Source {
            searcher: self,
            buffer: Vec::new(),
            before: 0,
            found: BTreeMap::new(),
            undoing: Undoing::new(UNDONE_BYTES),
        }
    }

    /// Every occurrence in a piece, told with its offset there.
    fn piece(
        &self,
        bytes: &[u8],
        undoing: &mut Undoing,
        tell: &mut dyn FnMut(usize, Form, Option<String>),
    ) {
        self.plain(bytes, undoing.again_from, tell);
        for at in memmem::find_iter(bytes, GZIP) {
            if let Some(left_as) = self.within(&undoing.gunzip(at, &bytes[at..])) {
                tell(at, Form::Gzip, left_as);
            }
        }
        for magic in ZLIB {
            for at in memmem::find_iter(bytes, magic) {
                if let Some(left_as) = self.within(&undoing.inflate(at, &bytes[at..], true)) {
                    tell(at, Form::Zlib, left_as);
                }
            }
        }
        for at in memmem::find_iter(bytes, GZIP_BASE64) {
            let undone = undoing.undo(at, &bytes[at..], unbase64);
            if let Some(left_as) = self.within(&undoing.gunzip(at, &undone)) {
                tell(at, Form::GzipBase64, left_as);
            }
        }
        for magic in GZIP_HEX {
            for at in memmem::find_iter(bytes, magic) {
                let undone = undoing.undo(at, &bytes[at..], unhex);
                if let Some(left_as) = self.within(&undoing.gunzip(at, &undone)) {
                    tell(at, Form::GzipHex, left_as);
                }
            }
        }
    }

    /// Halves only where they are no part of a whole one, nor can become one with what follows: `again_from`.
    fn plain(
        &self,
        bytes: &[u8],
        again_from: usize,
        tell: &mut dyn FnMut(usize, Form, Option<String>),
    ) {
        let mut whole = Vec::new();
        for (form, finder) in &self.needles {
            for at in finder.find_iter(bytes) {
                tell(at, *form, form.place(&bytes[at..], &self.mark));
                whole.push(at..at + finder.needle().len());
            }
        }
        whole.sort_unstable_by_key(|range| range.start);
        for finder in &self.halves {
            for at in finder.find_iter(bytes).take_while(|at| *at < again_from) {
                // The longest needle is 48 bytes: whatever encloses this one began no earlier.
                let near = whole.partition_point(|range| range.start + WHOLE_BYTES < at);
                let near = whole
                    .iter()
                    .skip(near)
                    .take_while(|range| range.start <= at);
                let ends = at + finder.needle().len();
                if !near.into_iter().any(|range| ends <= range.end) {
                    tell(at, Form::Half, None);
                }
            }
        }
    }

    /// Whether what was compressed has the mark, in any uncompressed form.
    fn within(&self, inflated: &[u8]) -> Option<Option<String>> {
        let mut found = None;
        self.plain(inflated, usize::MAX, &mut |at, _, left_as| {
            let left_as = left_as.or_else(|| place_after(&inflated[at..], &self.mark));
            found.get_or_insert(left_as);
        });
        found
    }
}

/// A source that is being looked at.
pub struct Source<'a> {
    searcher: &'a Searcher,
    buffer: Vec<u8>,
    /// Bytes that are no longer in the buffer.
    before: u64,
    found: BTreeMap<(u64, Form), Option<String>>,
    undoing: Undoing,
}

/// What there was in a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Looked {
    /// Bytes looked at.
    pub bytes: u64,
    /// How often the mark occurs.
    pub hits: usize,
    /// The first of them.
    pub first: Vec<Hit>,
    /// What could not be searched, and why; the bytes above say nothing of it.
    pub not_searched: Vec<String>,
    /// The forms that occur.
    #[serde(skip)]
    pub forms: Vec<Form>,
}

impl Source<'_> {
    /// Looks at what comes next.
    pub fn push(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(CHUNK_BYTES) {
            self.buffer.extend_from_slice(part);
            if self.buffer.len() >= CHUNK_BYTES {
                self.look(false);
                let past = self.buffer.len() - OVERLAP_BYTES;
                self.buffer.drain(..past);
                self.before += past as u64;
            }
        }
    }

    /// Ends what was looked at so far: what comes next is not its continuation.
    pub fn cut(&mut self) {
        self.look(true);
        self.before += self.buffer.len() as u64;
        self.buffer.clear();
    }

    fn look(&mut self, is_last: bool) {
        let (before, found) = (self.before, &mut self.found);
        self.undoing.again_from = match is_last {
            true => usize::MAX,
            false => self.buffer.len() - OVERLAP_BYTES,
        };
        let undoing = &mut self.undoing;
        self.searcher
            .piece(&self.buffer, undoing, &mut |at, form, left_as| {
                found.entry((before + at as u64, form)).or_insert(left_as);
            });
    }

    /// Everything that was found.
    #[must_use]
    pub fn end(mut self) -> Looked {
        self.cut();
        let mut forms: Vec<Form> = self.found.keys().map(|(_, form)| *form).collect();
        forms.sort_unstable();
        forms.dedup();
        let hits = self.found.len();
        let first = self.found.into_iter().take(TOLD);
        let first = first.map(|((offset, form), left_as)| Hit {
            offset,
            form,
            left_as,
        });
        Looked {
            bytes: self.before,
            hits,
            first: first.collect(),
            not_searched: self.undoing.words(),
            forms,
        }
    }
}

/// Undoes what hides texts, up to a bound for each place and for all of them, and remembers what it did not undo.
struct Undoing {
    /// Bytes that may still be undone.
    left: u64,
    /// What begins here or later is met again, with what follows it.
    again_from: usize,
    /// Members that hold more than one may.
    long: u64,
    /// Members that go on behind the piece.
    torn: u64,
    /// Places that came after the bound.
    over: u64,
}

impl Undoing {
    fn new(left: u64) -> Self {
        Self {
            left,
            again_from: usize::MAX,
            long: 0,
            torn: 0,
            over: 0,
        }
    }

    /// Takes bytes from the bound; `None` when there is nothing left of it.
    fn room(&mut self, at: usize) -> Option<usize> {
        let is_counted = at < self.again_from;
        if self.left == 0 {
            self.over += u64::from(is_counted);
            return None;
        }
        Some(usize::try_from(self.left).unwrap_or(usize::MAX))
    }

    fn undo(&mut self, at: usize, bytes: &[u8], undo: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let Some(room) = self.room(at) else {
            return Vec::new();
        };
        let undone = undo(&bytes[..bytes.len().min(room)]);
        // Two digits, or less than two characters, were read for each byte, and a few to find that there is none.
        let read = 2 * undone.len() as u64 + 4;
        self.left = self.left.saturating_sub(read);
        undone
    }

    fn inflate(&mut self, at: usize, bytes: &[u8], is_zlib: bool) -> Vec<u8> {
        let Some(room) = self.room(at) else {
            return Vec::new();
        };
        let most = INFLATED_BYTES.min(room);
        let result = match is_zlib {
            true => decompress_to_vec_zlib_with_limit(bytes, most),
            false => decompress_to_vec_with_limit(bytes, most),
        };
        // What is cut off, too long or followed by other bytes was still undone up to there.
        let (inflated, status) = match result {
            Ok(inflated) => (inflated, TINFLStatus::Done),
            Err(error) => (error.output, error.status),
        };
        self.left = self.left.saturating_sub(inflated.len() as u64);
        let is_torn = matches!(
            status,
            TINFLStatus::FailedCannotMakeProgress | TINFLStatus::NeedsMoreInput
        );
        if at < self.again_from {
            self.long += u64::from(status == TINFLStatus::HasMoreOutput);
            self.torn += u64::from(is_torn && self.again_from != usize::MAX);
        }
        inflated
    }

    /// What the member that begins here holds (RFC 1952).
    fn gunzip(&mut self, at: usize, bytes: &[u8]) -> Vec<u8> {
        if bytes.is_empty() || self.room(at).is_none() {
            return Vec::new();
        }
        match body_of(bytes) {
            Some(body) => self.inflate(at, body, false),
            None => {
                // A name without an end costs as well.
                let looked_at = NAME_BYTES.min(bytes.len()) as u64;
                self.left = self.left.saturating_sub(looked_at);
                Vec::new()
            }
        }
    }

    fn words(&self) -> Vec<String> {
        let mib = INFLATED_BYTES >> 20;
        let told = [
            (
                self.long,
                format!("compressed members, beyond their first {mib} MiB"),
            ),
            (
                self.torn,
                format!(
                    "compressed members, beyond the {} MiB that are looked at together",
                    CHUNK_BYTES >> 20
                ),
            ),
            (
                self.over,
                format!(
                    "places that look compressed, after {} MiB had been undone",
                    UNDONE_BYTES >> 20
                ),
            ),
        ];
        let told = told.into_iter().filter(|(count, _)| *count > 0);
        told.map(|(count, what)| format!("{count} {what}"))
            .collect()
    }
}

/// What is behind a member's header.
fn body_of(bytes: &[u8]) -> Option<&[u8]> {
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    const CRC: u8 = 2;
    let (head, mut rest) = bytes.split_at_checked(10)?;
    head.starts_with(GZIP).then_some(())?;
    let flags = head[3];
    if flags & EXTRA != 0 {
        let (length, after) = rest.split_at_checked(2)?;
        rest = after.get(usize::from(u16::from_le_bytes([length[0], length[1]]))..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = memchr::memchr(0, &rest[..rest.len().min(NAME_BYTES)])?;
            rest = &rest[end + 1..];
        }
    }
    rest.get(if flags & CRC == 0 { 0 } else { 2 }..)
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
