//! [`JobStep`]: what is asked of jobs. A disk has one stream at a time, unless two are asked for, which is refused.

use std::fmt;

use drystone_job::OnError;

use crate::words::{BadWord, Words, unknown};

/// What is asked of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobStep {
    /// `stream all speed 0 on-error report`: the image on top gets what lower ones have.
    Stream(Stream),
    /// `pause`.
    Pause,
    /// `resume`.
    Resume,
    /// `cancel`, `cancel softly`.
    Cancel(bool),
    /// `complete`, which no stream is ready for.
    Complete,
    /// `finalize`.
    Finalize,
    /// `speed 65536`: bytes per second.
    Speed(u32),
}

/// The arguments of `stream`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// How far down is copied from.
    pub reach: Reach,
    /// Bytes per second; 0 for no limit.
    pub speed: u32,
    /// What an error does.
    pub on_error: OnError,
    /// The last step waits for `finalize`.
    pub is_manual: bool,
}

/// How far down is copied from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Everything.
    All,
    /// Down to the image of this number, from the top, which stays.
    Base(usize),
    /// Down to this one, which is copied, too.
    Bottom(usize),
}

const POLICIES: [(&str, OnError); 5] = [
    ("report", OnError::Report),
    ("ignore", OnError::Ignore),
    ("enospc", OnError::Enospc),
    ("stop", OnError::Stop),
    ("auto", OnError::Auto),
];

impl Stream {
    fn parse(words: &mut Words<'_>) -> Result<Self, BadWord> {
        let reach = match words.word("how far")? {
            "all" => Reach::All,
            "base" => Reach::Base(words.value("the number of an image")?),
            "bottom" => Reach::Bottom(words.value("the number of an image")?),
            other => return unknown("reach", other),
        };
        words.expect("speed")?;
        let speed = words.value("bytes per second")?;
        words.expect("on-error")?;
        let word = words.word("a policy")?;
        let known = POLICIES.iter().find(|(name, _)| *name == word);
        let on_error = known.map_or_else(|| unknown("policy", word), |(_, policy)| Ok(*policy))?;
        Ok(Self { reach, speed, on_error, is_manual: words.is_next("manual") })
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reach {
            Reach::All => f.write_str("stream all")?,
            Reach::Base(number) => write!(f, "stream base {number}")?,
            Reach::Bottom(number) => write!(f, "stream bottom {number}")?,
        }
        let policy =
            POLICIES.iter().find(|(_, policy)| *policy == self.on_error).map_or("report", |(name, _)| name);
        write!(f, " speed {} on-error {policy}", self.speed)?;
        if self.is_manual { f.write_str(" manual") } else { Ok(()) }
    }
}

impl JobStep {
    /// What the tally calls it.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Stream(_) => "stream",
            Self::Pause => "job pause",
            Self::Resume => "job resume",
            Self::Cancel(_) => "job cancel",
            Self::Complete => "job complete",
            Self::Finalize => "job finalize",
            Self::Speed(_) => "job speed",
        }
    }

    pub(crate) fn parse(verb: &str, words: &mut Words<'_>) -> Result<Option<Self>, BadWord> {
        Ok(Some(match verb {
            "stream" => Self::Stream(Stream::parse(words)?),
            "pause" => Self::Pause,
            "resume" => Self::Resume,
            "cancel" => Self::Cancel(words.is_next("softly")),
            "complete" => Self::Complete,
            "finalize" => Self::Finalize,
            "speed" => Self::Speed(words.value("bytes per second")?),
            _ => return Ok(None),
        }))
    }
}

impl fmt::Display for JobStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(stream) => stream.fmt(f),
            Self::Pause => f.write_str("pause"),
            Self::Resume => f.write_str("resume"),
            Self::Cancel(false) => f.write_str("cancel"),
            Self::Cancel(true) => f.write_str("cancel softly"),
            Self::Complete => f.write_str("complete"),
            Self::Finalize => f.write_str("finalize"),
            Self::Speed(speed) => write!(f, "speed {speed}"),
        }
    }
}
