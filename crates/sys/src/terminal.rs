//! Keys pressed at the terminal that the process was started from.
//!
//! ```text
//!   Keys::take --(standard input is a terminal, and we are in its foreground)--> keys one by one, without echo
//!        drop  --> the terminal is as it was
//! ```
//! Keys that make signals (ctrl-C) still do. A process in the background leaves the terminal alone: the kernel would stop
//! it for touching it.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use rustix::io::Errno;
use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

use crate::event::Watched;

/// The keys of the terminal at standard input, until dropped.
pub struct Keys {
    terminal: Watched,
    before: Termios,
}

impl Keys {
    /// Takes the keys; `None` if there is no terminal or it is not ours to use.
    #[must_use]
    pub fn take() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() || !is_in_foreground(&stdin) {
            return None;
        }
        let own: OwnedFd = rustix::io::fcntl_dupfd_cloexec(&stdin, 0).ok()?;
        let before = termios::tcgetattr(&own).ok()?;
        let mut single = before.clone();
        single.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        single.special_codes[SpecialCodeIndex::VMIN] = 1;
        single.special_codes[SpecialCodeIndex::VTIME] = 0;
        termios::tcsetattr(&own, OptionalActions::Now, &single).ok()?;
        Some(Self { terminal: Watched::new(own), before })
    }

    /// Waits for the next key: its first byte.
    ///
    /// # Errors
    /// [`Kind::Disconnected`] if the terminal has gone; those of the operating system.
    pub async fn next(&self, lane: &mut Lane) -> Result<u8> {
        loop {
            self.terminal.readable(lane).await?;
            // The terminal may be shared with others, who must not find it non-blocking; a byte is there now.
            let mut bytes = [0];
            match rustix::io::read(self.terminal.as_fd(), &mut bytes) {
                Ok(0) => return Err(Error::new(Kind::Disconnected, "the terminal has gone")),
                Ok(_) => return Ok(bytes[0]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(Error::os(errno.raw_os_error(), "read a key")),
            }
        }
    }
}

impl Keys {
    /// Leaves the terminal as it was. Also done by dropping.
    pub fn give_back(&self) {
        if is_in_foreground(&self.terminal) {
            let _ = termios::tcsetattr(self.terminal.as_fd(), OptionalActions::Now, &self.before);
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn is_in_foreground(terminal: impl AsFd) -> bool {
    termios::tcgetpgrp(terminal).is_ok_and(|group| group == rustix::process::getpgrp())
}
