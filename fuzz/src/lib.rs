//! What reads foreign bytes, each as one function of them.
//!
//! ```text
//!   libFuzzer (`cargo xtask fuzz`, nightly) ──┐
//!   corpus/, findings/ (`cargo xtask test`) ──┼──► Target::run(&[u8])     panics, or takes too long: a finding
//!   seeds, mutated (`cargo xtask test`) ──────┘
//! ```
//!
//! | module | targets |
//! |---|---|
//! | [`qcow2`] | header and tables; an image that is opened, read, written and checked; compressed clusters; what we make |
//! | [`raw`] | windows |
//! | [`name`] | names of images, formats by their first bytes, LUKS headers, rules of `blkdebug` |
//! | [`nbd`] | a server under a client's bytes, a client under a server's |
//! | [`qmp`] | sessions, JSON |
//! | [`option`] | options and numbers of command lines |
//! | [`input`], [`request`], [`mutate`] | structure out of bytes; requests to a disk; bytes that are almost right |
//!
//! A target demands more than that nothing panics: what is parsed is encoded to the same, what arrives in pieces is
//! understood as if it came at once, two implementations agree, an image that is consistent stays so.
//!
//! Invariant: a target is a function of its input alone. No file, no clock, no thread, no random number.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a target that meets the unexpected has found something"
)]

pub mod input;
pub mod mutate;
pub mod name;
pub mod nbd;
pub mod option;
pub mod qcow2;
pub mod qmp;
pub mod raw;
pub mod request;

/// One thing that reads foreign bytes.
pub struct Target {
    /// Its name, also that of its folders and of its libFuzzer program.
    pub name: &'static str,
    /// Reads them; panics where a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs that are right: where mutations begin.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that mean something to it.
    pub words: &'static [&'static [u8]],
    /// The longest input that is worth its time, in bytes.
    pub len_max: usize,
    /// How many mutations `cargo xtask test` makes.
    pub mutations: u64,
}

/// Every target.
pub static TARGETS: &[Target] = &[
    qcow2::HEADER,
    qcow2::TABLES,
    qcow2::COMPRESSED,
    qcow2::PRESSED,
    qcow2::CREATE,
    qcow2::IMAGE,
    raw::WINDOW,
    name::PROBE,
    name::NAME,
    name::LUKS,
    name::RULES,
    nbd::SERVER,
    nbd::CLIENT,
    qmp::SESSION,
    qmp::JSON,
    option::KEYVAL,
    option::NUMBER,
];

/// The target called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Drives the target called `name`: the body of a libFuzzer program.
///
/// # Panics
/// If there is none, or if it found something.
pub fn run(name: &str, bytes: &[u8]) {
    (find(name).unwrap().run)(bytes);
}
