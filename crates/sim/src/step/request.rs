//! [`Request`]: what guests ask of a disk.

use std::fmt;

use drystone_base::GuestRange;
use drystone_testkit::notation::{show_len, show_range};

use crate::words::{BadWord, Words};

/// A request. What lies past the end of the disk when it is made is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `read RANGE`.
    Read(GuestRange),
    /// `write RANGE`, `write RANGE fua`.
    Write(GuestRange, bool),
    /// `press RANGE`: a write that is to be stored compressed.
    Press(GuestRange),
    /// `zero RANGE`; `unmap RANGE` if space may be given back.
    Zero(GuestRange, bool),
    /// `discard RANGE`.
    Discard(GuestRange),
    /// `status RANGE`.
    Status(GuestRange),
    /// `flush`.
    Flush,
    /// `resize LEN`: longer by so much.
    Resize(u64),
}

impl Request {
    /// What the tally calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Write(_, false) => "write",
            Self::Write(_, true) => "write fua",
            Self::Press(_) => "compressed write",
            Self::Zero(_, false) => "zero",
            Self::Zero(_, true) => "unmap",
            Self::Discard(_) => "discard",
            Self::Status(_) => "status",
            Self::Flush => "flush",
            Self::Resize(_) => "resize",
        }
    }

    pub(crate) fn parse(verb: &str, words: &mut Words<'_>) -> Result<Option<Self>, BadWord> {
        Ok(Some(match verb {
            "read" => Self::Read(words.range()?),
            "write" => {
                let range = words.range()?;
                Self::Write(range, words.is_next("fua"))
            }
            "press" => Self::Press(words.range()?),
            "zero" => Self::Zero(words.range()?, false),
            "unmap" => Self::Zero(words.range()?, true),
            "discard" => Self::Discard(words.range()?),
            "status" => Self::Status(words.range()?),
            "flush" => Self::Flush,
            "resize" => Self::Resize(words.len()?),
            _ => return Ok(None),
        }))
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Read(range) => write!(f, "read {}", show_range(range)),
            Self::Write(range, false) => write!(f, "write {}", show_range(range)),
            Self::Write(range, true) => write!(f, "write {} fua", show_range(range)),
            Self::Press(range) => write!(f, "press {}", show_range(range)),
            Self::Zero(range, false) => write!(f, "zero {}", show_range(range)),
            Self::Zero(range, true) => write!(f, "unmap {}", show_range(range)),
            Self::Discard(range) => write!(f, "discard {}", show_range(range)),
            Self::Status(range) => write!(f, "status {}", show_range(range)),
            Self::Flush => f.write_str("flush"),
            Self::Resize(len) => write!(f, "resize {}", show_len(len)),
        }
    }
}
