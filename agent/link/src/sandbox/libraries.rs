//! Where the C library finds the modules that it loads to resolve a name.

use std::path::{Path, PathBuf};

/// Usual places; what is not there is left out.
const USUAL: &[&str] = &["/lib", "/lib64", "/usr/lib", "/usr/lib64"];

/// Usual places, and those that this process's own libraries were loaded from.
pub(super) fn directories() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = USUAL.iter().map(PathBuf::from).collect();
    // Without /proc the usual places have to do.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    all.extend(loaded_from(&maps));
    all.sort_unstable();
    all.dedup();
    all
}

/// The directories of mapped shared libraries (proc(5): the sixth field, which may have blanks).
fn loaded_from(maps: &str) -> Vec<PathBuf> {
    let files = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]));
    let libraries = files.filter(|file| file.contains(".so"));
    let dirs = libraries.filter_map(|file| Path::new(file).parent());
    dirs.map(Path::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_libraries_are_found_and_others_are_not() {
        let maps = "7f00-7f01 r-xp 00000000 fe:00 12  /gnu/store/abc-glibc/lib/libc.so.6\n\
                    5500-5501 r-xp 00000000 fe:00 13  /srv/outpost agent/outpost-agent\n\
                    7fff-8000 rw-p 00000000 00:00 0   [stack]\n";
        assert_eq!(
            loaded_from(maps),
            [PathBuf::from("/gnu/store/abc-glibc/lib")]
        );
    }
}
