//! [`Script`]: a whole run as data, and as text that people read and edit.
//!
//! ```text
//!   run seed 17 threads 2
//!   image qcow2 cluster 4K refcount 16 len 64K fill 5        image 0
//!   image qcow2 cluster 512 refcount 16 len 60K on 0         image 1, on image 0
//!   disk 1                                                   disk 0: what image 1 shows
//!   after 0 commit cut 17                                    when all have gone
//!   actor disk 0 thread 1
//!     write 0..4K
//!     snapshot cluster 4K refcount 16
//! ```
//! The seed decides the schedule and what devices do; everything else is in the text. Lines that begin with `#` are notes.
//!
//! Invariant: what is printed parses to the same script.

use std::fmt;
use std::str::FromStr;

use crate::after::After;
use crate::image::{Format, ImageSpec};
use crate::step::{Peer, Step};
use crate::words::{BadWord, Words, unknown};

/// A run as data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Decides the schedule and what devices do.
    pub seed: u64,
    /// How many I/O threads there are.
    pub threads: u16,
    /// The images that are there.
    pub images: Vec<ImageSpec>,
    /// Which of them guests use.
    pub disks: Vec<DiskSpec>,
    /// Who does what.
    pub actors: Vec<Actor>,
    /// What is done when all have gone, if no power cut was in the way.
    pub afters: Vec<After>,
}

/// A disk of guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpec {
    /// The image that shows it. No two disks have the same, and nothing is on it.
    pub image: usize,
    /// Its user may change its length, which keeps jobs away.
    pub resizes: bool,
}

/// Somebody who does one thing after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// To which disk.
    pub disk: usize,
    /// On which I/O thread, counted from 1.
    pub thread: u16,
    /// What.
    pub steps: Vec<Step>,
}

/// Why a text is no script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct BadScript {
    /// The line, counted from 1; 0 if it is about the whole.
    pub line: usize,
    /// What is wrong with it.
    pub fault: BadWord,
}

impl Script {
    /// How many steps all actors have.
    #[must_use]
    pub fn step_count(&self) -> usize {
        self.actors.iter().map(|actor| actor.steps.len()).sum()
    }

    /// Whether somebody comes over NBD.
    pub(crate) fn has_clients(&self) -> bool {
        self.actors.iter().any(|actor| actor.steps.contains(&Step::Peer(Peer::Connect)))
    }

    fn line(&mut self, line: &str) -> Result<(), BadWord> {
        let mut words = Words::of(line);
        match words.maybe() {
            Some("run") => {
                words.expect("seed")?;
                self.seed = words.value("a seed")?;
                words.expect("threads")?;
                self.threads = words.value("a number of threads")?;
            }
            Some("image") => self.images.push(ImageSpec::parse(&mut words)?),
            Some("disk") => {
                let image = words.value("the number of an image")?;
                self.disks.push(DiskSpec { image, resizes: words.is_next("resizes") });
            }
            Some("actor") => {
                words.expect("disk")?;
                let disk = words.value("the number of a disk")?;
                words.expect("thread")?;
                self.actors.push(Actor { disk, thread: words.value("a thread")?, steps: Vec::new() });
            }
            Some("after") => self.afters.push(After::parse(&mut words)?),
            Some(other) => return unknown("line", other),
            None => {}
        }
        words.end()
    }

    /// Whether everything that it names is there.
    fn check(&self) -> Result<(), BadWord> {
        let refuse = |text: String| Err(BadWord(text));
        if !(1..=16).contains(&self.threads) {
            return refuse(format!("{} threads are none or too many", self.threads));
        }
        for (number, image) in self.images.iter().enumerate() {
            let is_raw = image.format == Format::Raw;
            if image.backing.is_some_and(|backing| is_raw || backing >= number) {
                return refuse(format!("image {number} cannot have that image behind it"));
            }
        }
        for (place, DiskSpec { image, .. }) in self.disks.iter().enumerate() {
            let is_below = self.images.iter().any(|above| above.backing == Some(*image));
            let is_twice = self.disks.iter().take(place).any(|known| known.image == *image);
            if *image >= self.images.len() || is_below || is_twice {
                return refuse(format!("image {image} cannot be a disk"));
            }
        }
        let is_strange =
            |actor: &&Actor| actor.disk >= self.disks.len() || !(1..=self.threads).contains(&actor.thread);
        match self.actors.iter().find(is_strange) {
            Some(actor) => refuse(format!("there is no disk {} or thread {}", actor.disk, actor.thread)),
            None => Ok(()),
        }
    }
}

impl FromStr for Script {
    type Err = BadScript;

    fn from_str(text: &str) -> Result<Self, BadScript> {
        let mut script =
            Self { seed: 0, threads: 0, images: vec![], disks: vec![], actors: vec![], afters: vec![] };
        for (number, line) in text.lines().enumerate() {
            let at_line = |fault| BadScript { line: number + 1, fault };
            if line.trim_start().starts_with('#') {
                continue;
            }
            match script.actors.last_mut().filter(|_| line.starts_with("  ")) {
                Some(actor) => actor.steps.push(Step::parse(line).map_err(at_line)?),
                None => script.line(line).map_err(at_line)?,
            }
        }
        script.check().map_err(|fault| BadScript { line: 0, fault })?;
        Ok(script)
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "run seed {} threads {}", self.seed, self.threads)?;
        for image in &self.images {
            writeln!(f, "image {image}")?;
        }
        for disk in &self.disks {
            writeln!(f, "disk {}{}", disk.image, if disk.resizes { " resizes" } else { "" })?;
        }
        for after in &self.afters {
            writeln!(f, "after {after}")?;
        }
        for actor in &self.actors {
            writeln!(f, "actor disk {} thread {}", actor.disk, actor.thread)?;
            for step in &actor.steps {
                writeln!(f, "  {step}")?;
            }
        }
        Ok(())
    }
}
