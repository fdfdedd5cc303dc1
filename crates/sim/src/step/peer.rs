//! [`Peer`]: what an NBD client does besides requests.

use std::fmt;

/// A step of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// `connect`: an export of its own is there, through which the actor's requests go from now on.
    Connect,
    /// `stall`: asks for much and takes nothing until a quiet section of the disk has begun and ended.
    Stall,
    /// `disconnect`: says goodbye, and the export goes.
    Disconnect,
    /// `vanish`: goes without a word, and the export goes.
    Vanish,
}

const NAMES: [(&str, Peer); 4] = [
    ("connect", Peer::Connect),
    ("stall", Peer::Stall),
    ("disconnect", Peer::Disconnect),
    ("vanish", Peer::Vanish),
];

impl Peer {
    /// Its word, and what the tally calls it.
    pub(crate) fn name(self) -> &'static str {
        NAMES.iter().find(|(_, step)| *step == self).map_or("?", |(name, _)| name)
    }

    pub(crate) fn parse(verb: &str) -> Option<Self> {
        NAMES.iter().find(|(name, _)| *name == verb).map(|(_, step)| *step)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
