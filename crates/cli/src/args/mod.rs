//! The command lines of the C tools, whose grammar is not ours: `getopt_long`, comma lists, numbers with suffixes.
//!
//! | module | grammar |
//! |---|---|
//! | [`getopt`] | `-q -f qcow2 -fqcow2 -qf qcow2 --format=qcow2 --form qcow2 FILE -- -FILE` |
//! | [`list`] | `size=1G,lazy_refcounts,backing_file=a,,b` |
//! | [`number`] | `1.5G`, `0x10`, `on` |
//!
//! Invariants: an argument is never changed on the way, so file names may hold any bytes; what release 10.0 of the C tool
//! refuses is refused here. Not here: what an option means.

pub(crate) mod getopt;
pub(crate) mod list;
pub(crate) mod number;

/// Why a command line is not understood. Printed with a hint at the command's help.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UsageError {
    /// No option of that name.
    #[error("there is no option '{0}'")]
    Unknown(String),
    /// A shortened name that several options begin with.
    #[error("option '{name}' could be {candidates}")]
    Ambiguous {
        /// As it was given.
        name: String,
        /// What it could be.
        candidates: String,
    },
    /// The value is missing.
    #[error("option '{0}' needs a value")]
    NeedsValue(String),
    /// A value where none belongs.
    #[error("option '{0}' takes no value")]
    TakesNoValue(String),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}
