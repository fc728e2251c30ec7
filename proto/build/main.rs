//! Makes the wire's Rust code from the `.proto` files with pure-Rust tools, so that a fresh machine needs no protoc.
//!
//! Besides the messages it makes, from the descriptor: the bound checks of every message on the link, the bit budget,
//! the schema hash, and (for tests) the descriptor itself. It refuses to build when an agent could send a field that
//! states no bound or whose type could carry text.
#![expect(
    clippy::print_stdout,
    reason = "cargo reads a build script's standard output"
)]

mod bounds;
mod budget;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use protox::Compiler;
use sha2::{Digest, Sha256};

const INCLUDE: &str = "proto";
const BOUNDS: &str = "outpost/bounds.proto";
const LINK: &str = "outpost/link/v1/link.proto";
const IDENTITY: &str = "outpost/identity/v1/identity.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={INCLUDE}");
    println!("cargo:rerun-if-changed=build");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    let mut compiler = Compiler::new([INCLUDE])?;
    compiler.include_source_info(false).include_imports(true);
    compiler.open_files([BOUNDS, LINK, IDENTITY])?;
    fs::write(
        out.join("outpost.fds"),
        compiler.encode_file_descriptor_set(),
    )?;

    let pool = compiler.descriptor_pool();
    let options = bounds::Options::new(&pool)?;
    fs::write(out.join("bounds.rs"), bounds::generate(&pool, &options)?)?;
    fs::write(out.join("budget.rs"), budget::generate(&pool, &options)?)?;
    fs::write(out.join("schema_hash.rs"), schema_hash()?)?;
    messages(&out)
}

/// Messages only: no service code, because one generic handler per side is all that the link needs.
fn messages(out: &Path) -> Result<(), Box<dyn Error>> {
    let mut files = protox::compile([LINK, IDENTITY], [INCLUDE])?;
    files
        .file
        .retain(|file| matches!(file.name(), LINK | IDENTITY));
    for file in &mut files.file {
        file.service.clear();
    }
    prost_build::Config::new().out_dir(out).compile_fds(files)?;
    Ok(())
}

/// First 64 bits of SHA-256 over the encoded descriptors of the link and its bounds, without comments and positions.
fn schema_hash() -> Result<String, Box<dyn Error>> {
    let mut compiler = Compiler::new([INCLUDE])?;
    compiler.include_source_info(false).include_imports(false);
    compiler.open_files([BOUNDS, LINK])?;
    let digest = Sha256::digest(compiler.encode_file_descriptor_set());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    Ok(format!("{:#018x}", u64::from_be_bytes(first)))
}
