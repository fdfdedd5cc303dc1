//! [`Change`]: what is done to the graph.
//!
//! Images of a disk are counted from the top: 0 is the one that guests write to. A number past the bottom goes round, so
//! that a step keeps its meaning when others are taken out of a script.

use std::fmt;

use drystone_testkit::notation::show_len;

use crate::image::Qcow2Kind;
use crate::words::{BadWord, Words, unknown};

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `snapshot cluster 4K refcount 16`: a new image takes the place of the one on top.
    Snapshot(Qcow2Kind),
    /// `doomed-snapshot cluster 4K refcount 16`: the same, together with a command that fails.
    DoomedSnapshot(Qcow2Kind),
    /// `drain 0 1500`: a quiet section of so many nanoseconds.
    Drain(Target, u64),
    /// `visit writer`: a user of its own, through which the actor's requests go from now on.
    Visit(VisitKind),
    /// `leave`: that user goes.
    Leave,
    /// `reopen 0 cache 64K`: an image gets caches of another size.
    Reopen(usize, u64),
    /// `freeze`: the image on top is read-only from now on.
    Freeze,
    /// `thaw`: it can be written again.
    Thaw,
    /// `grow 64K`: the disk gets longer by so much, by a command.
    Grow(u64),
    /// `shorten 4K`: the disk gets shorter by so much, by a command.
    Shorten(u64),
    /// `keep take 0`: an internal snapshot of the image on top; which one, going round.
    Keep(KeepVerb, usize),
    /// `lazy on`, `lazy off`: whether the image on top says that its counts may be written late.
    Lazy(bool),
    /// `filter in`, `filter out`: what is read is copied into the image on top.
    Filter(bool),
    /// `bitmap add 1`: a persistent bitmap of the image on top, and its twin in memory.
    Bitmap(BitmapVerb, u64),
    /// `delete`: an image that nobody needs any more is closed.
    Delete,
}

/// What is done with an internal snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepVerb {
    /// The disk is kept as it is.
    Take,
    /// The disk becomes what it was.
    Apply,
    /// What was kept goes.
    Forget,
}

/// What is done to a pair of bitmaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitmapVerb {
    /// They come.
    Add,
    /// They go.
    Drop,
    /// Nothing is dirty any more.
    Clear,
    /// They follow writes.
    Start,
    /// They do not.
    Stop,
}

/// Which nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The image of this number, from the top.
    Image(usize),
    /// Its file.
    File(usize),
    /// Everything there is.
    All,
}

/// What a user wants and shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisitKind {
    /// Reads and writes, and shares everything.
    Writer,
    /// Reads, and shares everything.
    Reader,
    /// Reads and lets nobody write: refused while there are writers.
    Jealous,
    /// Wants to write to an image that others are on top of: always refused.
    Intruder,
}

impl Target {
    fn parse(words: &mut Words<'_>) -> Result<Self, BadWord> {
        if words.is_next("all") {
            Ok(Self::All)
        } else if words.is_next("file") {
            words.value("the number of an image").map(Self::File)
        } else {
            words.value("the number of an image").map(Self::Image)
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(number) => write!(f, "{number}"),
            Self::File(number) => write!(f, "file {number}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl KeepVerb {
    /// Every verb.
    pub const ALL: [Self; 3] = [Self::Take, Self::Apply, Self::Forget];

    /// Its word.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Apply => "apply",
            Self::Forget => "forget",
        }
    }

    fn parse(word: &str) -> Result<Self, BadWord> {
        let known = Self::ALL.into_iter().find(|verb| verb.name() == word);
        known.map_or_else(|| unknown("thing to do with an internal snapshot", word), Ok)
    }
}

impl BitmapVerb {
    /// Every verb.
    pub const ALL: [Self; 5] = [Self::Add, Self::Drop, Self::Clear, Self::Start, Self::Stop];

    /// Its word.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Drop => "drop",
            Self::Clear => "clear",
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }

    fn parse(word: &str) -> Result<Self, BadWord> {
        let known = Self::ALL.into_iter().find(|verb| verb.name() == word);
        known.map_or_else(|| unknown("thing to do to a bitmap", word), Ok)
    }
}

impl VisitKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Writer, Self::Reader, Self::Jealous, Self::Intruder];

    /// Its word.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Jealous => "jealous",
            Self::Intruder => "intruder",
        }
    }

    fn parse(word: &str) -> Result<Self, BadWord> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == word);
        known.map_or_else(|| unknown("user", word), Ok)
    }
}

impl Change {
    /// What the tally calls it.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Snapshot(_) => "snapshot",
            Self::DoomedSnapshot(_) => "doomed snapshot",
            Self::Drain(..) => "drain",
            Self::Visit(VisitKind::Writer) => "writer comes",
            Self::Visit(VisitKind::Reader) => "reader comes",
            Self::Visit(VisitKind::Jealous) => "jealous reader comes",
            Self::Visit(VisitKind::Intruder) => "intruder comes",
            Self::Leave => "user goes",
            Self::Reopen(..) => "reopen with other caches",
            Self::Freeze => "reopen read-only",
            Self::Thaw => "reopen writable",
            Self::Grow(_) => "resize by command",
            Self::Shorten(_) => "shrink by command",
            Self::Keep(KeepVerb::Take, _) => "internal snapshot",
            Self::Keep(KeepVerb::Apply, _) => "internal snapshot is applied",
            Self::Keep(KeepVerb::Forget, _) => "internal snapshot goes",
            Self::Lazy(_) => "amend",
            Self::Filter(true) => "copy-on-read comes",
            Self::Filter(false) => "copy-on-read goes",
            Self::Bitmap(BitmapVerb::Add, _) => "bitmaps come",
            Self::Bitmap(BitmapVerb::Drop, _) => "bitmaps go",
            Self::Bitmap(..) => "bitmaps are cleared or follow",
            Self::Delete => "image is closed",
        }
    }

    pub(crate) fn parse(verb: &str, words: &mut Words<'_>) -> Result<Option<Self>, BadWord> {
        Ok(Some(match verb {
            "snapshot" => Self::Snapshot(Qcow2Kind::parse(words)?),
            "doomed-snapshot" => Self::DoomedSnapshot(Qcow2Kind::parse(words)?),
            "drain" => Self::Drain(Target::parse(words)?, words.value("a number of nanoseconds")?),
            "visit" => Self::Visit(VisitKind::parse(words.word("a user")?)?),
            "leave" => Self::Leave,
            "reopen" => {
                let number = words.value("the number of an image")?;
                words.expect("cache")?;
                Self::Reopen(number, words.len()?)
            }
            "freeze" => Self::Freeze,
            "thaw" => Self::Thaw,
            "grow" => Self::Grow(words.len()?),
            "shorten" => Self::Shorten(words.len()?),
            "keep" => {
                let verb = KeepVerb::parse(words.word("what to do")?)?;
                Self::Keep(verb, words.value("the number of a snapshot")?)
            }
            "lazy" => match words.word("on or off")? {
                "on" => Self::Lazy(true),
                "off" => Self::Lazy(false),
                other => return unknown("state", other),
            },
            "filter" => match words.word("where to")? {
                "in" => Self::Filter(true),
                "out" => Self::Filter(false),
                other => return unknown("way", other),
            },
            "bitmap" => {
                let verb = BitmapVerb::parse(words.word("what to do")?)?;
                Self::Bitmap(verb, words.value("the number of a bitmap")?)
            }
            "delete" => Self::Delete,
            _ => return Ok(None),
        }))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(kind) => write!(f, "snapshot {kind}"),
            Self::DoomedSnapshot(kind) => write!(f, "doomed-snapshot {kind}"),
            Self::Drain(target, ns) => write!(f, "drain {target} {ns}"),
            Self::Visit(kind) => write!(f, "visit {}", kind.name()),
            Self::Leave => f.write_str("leave"),
            Self::Reopen(number, bytes) => write!(f, "reopen {number} cache {}", show_len(*bytes)),
            Self::Freeze => f.write_str("freeze"),
            Self::Thaw => f.write_str("thaw"),
            Self::Grow(bytes) => write!(f, "grow {}", show_len(*bytes)),
            Self::Shorten(bytes) => write!(f, "shorten {}", show_len(*bytes)),
            Self::Keep(verb, number) => write!(f, "keep {} {number}", verb.name()),
            Self::Lazy(true) => f.write_str("lazy on"),
            Self::Lazy(false) => f.write_str("lazy off"),
            Self::Filter(true) => f.write_str("filter in"),
            Self::Filter(false) => f.write_str("filter out"),
            Self::Bitmap(verb, number) => write!(f, "bitmap {} {number}", verb.name()),
            Self::Delete => f.write_str("delete"),
        }
    }
}
