//! Values that are nowhere else, and the search for them: as they are, as hex and as base64 at any place of a longer text.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// A value that is nowhere else.
pub(crate) fn canary(name: &str) -> String {
    let random = std::fs::File::open("/dev/urandom").and_then(|mut file| {
        let mut bytes = [0; 12];
        file.read_exact(&mut bytes).map(|()| bytes)
    });
    let random = random.unwrap().map(|byte| format!("{byte:02x}")).concat();
    format!("canary-{name}-{random}")
}

/// All forms in which a value is looked for: as it is, and as hex and base64 of it at any place of a longer text.
fn forms(value: &str) -> Vec<Vec<u8>> {
    let bytes = value.as_bytes();
    let hex = bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let mut forms = vec![
        bytes.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
    ];
    for skipped in 0..3 {
        let whole = bytes.get(skipped..).unwrap();
        let whole = whole.get(..whole.len() / 3 * 3).unwrap();
        forms.push(base64(whole));
    }
    forms
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let of = |three: &[u8]| {
        let number = three
            .iter()
            .fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| LETTERS[number >> shift & 63])
    };
    bytes.chunks_exact(3).flat_map(of).collect()
}

/// Which values are found in which places, in any form.
#[derive(Default)]
pub(crate) struct Search {
    pub(crate) needles: Vec<(String, Vec<u8>)>,
    pub(crate) found: Vec<String>,
    pub(crate) looked: usize,
}

impl Search {
    pub(crate) fn new(values: &BTreeMap<&str, String>) -> Self {
        let needles = values.iter().flat_map(|(name, value)| {
            forms(value)
                .into_iter()
                .map(|form| ((*name).to_owned(), form))
        });
        Self {
            needles: needles.collect(),
            ..Self::default()
        }
    }

    pub(crate) fn bytes(&mut self, place: &str, bytes: &[u8]) {
        self.looked += bytes.len();
        // One look at each byte: most of them begin nothing that is looked for.
        let mut begins = [false; 256];
        for (_, needle) in &self.needles {
            begins[usize::from(needle[0])] = true;
        }
        for (at, first) in bytes.iter().enumerate() {
            if begins[usize::from(*first)] {
                let rest = &bytes[at..];
                let here = self
                    .needles
                    .iter()
                    .filter(|(_, needle)| rest.starts_with(needle));
                self.found
                    .extend(here.map(|(name, _)| format!("{name} in {place}")));
            }
        }
    }

    /// Every file below a directory but for those below one of `but`; those that go meanwhile are passed over.
    pub(crate) fn tree(&mut self, dir: &Path, but: &[&Path]) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = path.symlink_metadata() else {
                continue;
            };
            if but.contains(&path.as_path()) {
                continue;
            }
            if meta.is_dir() {
                self.tree(&path, but);
            } else if meta.is_file() {
                let bytes = std::fs::read(&path).unwrap_or_default();
                self.bytes(&path.display().to_string(), &bytes);
            }
        }
    }

    /// The arguments of every process of this host.
    pub(crate) fn arguments(&mut self) {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let path = entry.path().join("cmdline");
            let bytes = std::fs::read(&path).unwrap_or_default();
            self.bytes(&path.display().to_string(), &bytes);
        }
    }

    /// Everything that a process can write to: its heap, its stacks and its tables.
    pub(crate) fn memory(&mut self, place: &str, pid: i32) {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
        for map in maps.lines().filter(|map| map.contains(" rw")) {
            let (from, rest) = map.split_once('-').unwrap();
            let to = rest.split(' ').next().unwrap();
            let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).unwrap());
            let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
            // Some of what is mapped is not there.
            let read = memory.read_at(&mut bytes, from).unwrap_or(0);
            self.bytes(place, bytes.get(..read).unwrap());
        }
    }

    #[track_caller]
    pub(crate) fn nothing(self) {
        assert!(self.looked > 0, "nothing was looked at");
        assert!(self.found.is_empty(), "{:#?}", self.found);
    }
}
