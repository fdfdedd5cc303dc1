//! [`Step`]: one thing that an actor does, as data.
//!
//! | line | what |
//! |---|---|
//! | `wait 1500` | lets so many nanoseconds pass |
//! | `read 0..4K`, `write 0..4K`, ... | a request ([`Request`]) |
//! | `snapshot ...`, `drain ...`, ... | a change of the graph ([`Change`]) |
//! | `stream ...`, `pause`, ... | something asked of jobs ([`JobStep`]) |
//! | `connect`, `stall`, ... | an NBD client comes, stalls, goes ([`Peer`]) |
//! | `fault ...`, `cut ...`, ... | something that happens to devices ([`Trouble`]) |
//! | `abandon 3 write 0..4K` | any of the first two whose caller goes away after three polls |

mod change;
mod job;
mod peer;
mod request;
mod trouble;

use std::fmt;

use crate::words::{BadWord, Words};

pub use change::{BitmapVerb, Change, KeepVerb, Target, VisitKind};
pub use job::{JobStep, Reach, Stream};
pub use peer::Peer;
pub use request::Request;
pub use trouble::{FaultSpec, Part, Trouble};

/// One step of an actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Lets so many nanoseconds pass.
    Wait(u64),
    /// Makes a request and waits for it.
    Request(Request),
    /// Changes the graph.
    Change(Change),
    /// Asks something of jobs.
    Job(JobStep),
    /// Comes, stalls or goes as an NBD client.
    Peer(Peer),
    /// Lets something happen to devices.
    Trouble(Trouble),
    /// Begins a step and forgets it after so many polls.
    Abandon(u64, Box<Self>),
}

impl Step {
    pub(crate) fn parse(line: &str) -> Result<Self, BadWord> {
        let mut words = Words::of(line);
        let step = match words.word("a step")? {
            "abandon" => {
                let polls = words.value("a number of polls")?;
                let verb = words.word("a step")?;
                Self::Abandon(polls, Box::new(Self::parse_verb(verb, &mut words)?))
            }
            verb => Self::parse_verb(verb, &mut words)?,
        };
        words.end().map(|()| step)
    }

    fn parse_verb(verb: &str, words: &mut Words<'_>) -> Result<Self, BadWord> {
        if verb == "wait" {
            return words.value("a number of nanoseconds").map(Self::Wait);
        }
        if let Some(request) = Request::parse(verb, words)? {
            return Ok(Self::Request(request));
        }
        if let Some(change) = Change::parse(verb, words)? {
            return Ok(Self::Change(change));
        }
        if let Some(job) = JobStep::parse(verb, words)? {
            return Ok(Self::Job(job));
        }
        if let Some(peer) = Peer::parse(verb) {
            return Ok(Self::Peer(peer));
        }
        match Trouble::parse(verb, words)? {
            Some(trouble) => Ok(Self::Trouble(trouble)),
            None => Err(BadWord(format!("nobody knows how to '{verb}'"))),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait(ns) => write!(f, "wait {ns}"),
            Self::Request(request) => request.fmt(f),
            Self::Change(change) => change.fmt(f),
            Self::Job(job) => job.fmt(f),
            Self::Peer(peer) => peer.fmt(f),
            Self::Trouble(trouble) => trouble.fmt(f),
            Self::Abandon(polls, step) => write!(f, "abandon {polls} {step}"),
        }
    }
}
