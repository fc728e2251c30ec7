//! What tests of this crate share.

use std::io;

use rustix::fs::Mode;
use tempfile::TempDir;

/// A directory of a test's own. Neither it nor what is made in it can be written by others, whatever the mask of the account
/// that runs the tests.
pub(crate) fn tempdir() -> io::Result<TempDir> {
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    tempfile::tempdir()
}
