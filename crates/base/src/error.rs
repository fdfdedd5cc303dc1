//! The one error type.
//!
//! [`Error`] says four things: a [`Kind`] to branch on, what it is about (node, path, option), one short sentence, and
//! its cause. The sentence never repeats the cause: whoever prints an error prints the chain ([`Error::report`]).
//! The errno that an I/O client sees and the QMP class both come from the kind, in one `match` each.

use std::fmt;
use std::path::{Path, PathBuf};

/// What went wrong, as far as a program wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The bytes of an image break its format's rules.
    InvalidImage,
    /// The image, option or request is valid, but this build or node cannot do it.
    Unsupported,
    /// An option or argument is malformed, unknown or out of range.
    InvalidInput,
    /// A request leaves the disk, or is not aligned as the node demands.
    OutOfRange,
    /// The named thing does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The operating system or a policy forbids it.
    PermissionDenied,
    /// Somebody else uses the node or file in a way that excludes this use.
    InUse,
    /// A write to something read-only.
    ReadOnly,
    /// No space left on the device below.
    NoSpace,
    /// A device or file system reported a failure.
    Io,
    /// Corruption was detected; the node is out of service for writing.
    Corrupt,
    /// The operation was cancelled, or what it worked on went away.
    Cancelled,
    /// A time limit passed.
    TimedOut,
    /// A peer closed the connection or broke the protocol.
    Disconnected,
    /// A limit on memory, length or count that protects us was reached.
    TooLarge,
}

impl Kind {
    /// The Linux errno that a client of a block device sees.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::InvalidImage | Self::InvalidInput | Self::OutOfRange => 22, // EINVAL
            Self::Unsupported => 95,                                          // EOPNOTSUPP
            Self::NotFound => 2,                                              // ENOENT
            Self::AlreadyExists => 17,                                        // EEXIST
            Self::PermissionDenied => 13,                                     // EACCES
            Self::InUse => 16,                                                // EBUSY
            Self::ReadOnly => 1,                                              // EPERM
            Self::NoSpace => 28,                                              // ENOSPC
            Self::Io | Self::Corrupt => 5,                                    // EIO
            Self::Cancelled => 125,                                           // ECANCELED
            Self::TimedOut => 110,                                            // ETIMEDOUT
            Self::Disconnected => 104,                                        // ECONNRESET
            Self::TooLarge => 7,                                              // E2BIG
        }
    }

    /// The kind that best fits an errno of the operating system.
    #[must_use]
    pub const fn from_errno(errno: i32) -> Self {
        match errno {
            // Among them a path that is a folder, goes through a file, is too long, or goes round in circles.
            20 | 21 | 22 | 36 | 40 => Self::InvalidInput,
            95 | 38 => Self::Unsupported,
            2 => Self::NotFound,
            17 => Self::AlreadyExists,
            13 | 1 => Self::PermissionDenied,
            16 | 11 => Self::InUse,
            30 => Self::ReadOnly,
            28 | 122 | 27 => Self::NoSpace,
            125 => Self::Cancelled,
            110 => Self::TimedOut,
            104 | 32 => Self::Disconnected,
            _ => Self::Io,
        }
    }
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What failed, about what, and why. One pointer wide, so that results stay small on the request path.
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    errno: Option<i32>,
    node: Option<String>,
    path: Option<PathBuf>,
    option: Option<String>,
    text: String,
    source: Option<Source>,
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with one sentence (no full stop, lower case, does not repeat a cause).
    #[must_use]
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            errno: None,
            node: None,
            path: None,
            option: None,
            text: text.into(),
            source: None,
        }))
    }

    /// An error of the operating system, met while doing `what` (such as "read", "open for writing").
    #[must_use]
    pub fn os(errno: i32, what: impl fmt::Display) -> Self {
        let mut error = Self::new(Kind::from_errno(errno), format!("cannot {what}"));
        error.0.errno = Some(errno);
        error.0.source = Some(Box::new(std::io::Error::from_raw_os_error(errno)));
        error
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds the node that it is about, unless a layer below has said so already.
    #[must_use]
    pub fn on_node(mut self, node: impl Into<String>) -> Self {
        self.0.node.get_or_insert_with(|| node.into());
        self
    }

    /// Adds the path that it is about, unless a layer below has said so already.
    #[must_use]
    pub fn at_path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path.get_or_insert_with(|| path.as_ref().to_path_buf());
        self
    }

    /// Adds the option that it is about, unless a layer below has said so already.
    #[must_use]
    pub fn in_option(mut self, option: impl Into<String>) -> Self {
        self.0.option.get_or_insert_with(|| option.into());
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The errno for an I/O client: the operating system's own if it came from there, else the kind's.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.0.errno.unwrap_or_else(|| self.0.kind.errno())
    }

    /// The node that it is about.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }

    /// The path that it is about.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The option that it is about.
    #[must_use]
    pub fn option(&self) -> Option<&str> {
        self.0.option.as_deref()
    }

    /// The sentence and its causes, joined by colons: what a tool prints behind its prefix.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }

    /// A second error that says the same, for a second waiter on one failed operation. The cause becomes text.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let inner = &*self.0;
        let mut copy = Self::new(inner.kind, inner.text.clone());
        copy.0.errno = inner.errno;
        copy.0.node.clone_from(&inner.node);
        copy.0.path.clone_from(&inner.path);
        copy.0.option.clone_from(&inner.option);
        if let Some(source) = &inner.source {
            copy.0.source = Some(source.to_string().into());
        }
        copy
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        if let Some(node) = &inner.node {
            write!(f, "node '{node}': ")?;
        }
        if let Some(path) = &inner.path {
            write!(f, "'{}': ", path.display())?;
        }
        if let Some(option) = &inner.option {
            write!(f, "option '{option}': ")?;
        }
        f.write_str(&inner.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.0.kind, self.report())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_what_it_is_about_once_and_then_the_cause() {
        let error = Error::os(5, "read").at_path("/a").at_path("/b").on_node("disk");
        assert_eq!(error.report(), "node 'disk': '/a': cannot read: Input/output error (os error 5)");
        assert_eq!(error.errno(), 5);
    }

    #[test]
    fn a_result_of_nothing_is_one_pointer() {
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn a_duplicate_reports_the_same() {
        let error = Error::os(28, "write").in_option("size");
        assert_eq!(error.duplicate().report(), error.report());
        assert_eq!(error.duplicate().kind(), Kind::NoSpace);
    }
}
