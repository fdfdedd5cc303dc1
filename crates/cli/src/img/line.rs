//! The arguments that commands which open images have in common, and the images that they name.
//!
//! Invariant: what was said last counts. Not here: what is only one command's own.

use std::ffi::{OsStr, OsString};

use drystone_base::{Error, Kind, Result};

use super::options::{Output, parse_output, text};
use super::{Failure, Start};
use crate::args::UsageError;
use crate::args::getopt::{Flag, Getopt};
use crate::args::number::{NumberError, parse_number, parse_size};
use crate::tool::image::{CacheMode, ImageArgs};
use crate::tool::object::Secrets;

pub(super) const QUIET: Flag = Flag::switch(Some('q'), "quiet");
pub(super) const PROGRESS: Flag = Flag::switch(Some('p'), "progress");

/// What was said.
#[derive(Debug)]
pub(super) struct Line {
    command: &'static str,
    /// `-f`.
    pub(super) format: Option<String>,
    /// `--image-opts`: names are lists of options.
    pub(super) is_options: bool,
    /// `-U`.
    pub(super) force_share: bool,
    /// `-q`.
    pub(super) is_quiet: bool,
    /// `-p`.
    has_progress: bool,
    /// `--output`.
    pub(super) output: Output,
    secrets: Secrets,
    /// What is no option.
    pub(super) free: Vec<OsString>,
}

impl Line {
    /// Reads the arguments of `command`; `extra` is given the options that are only its own. `None`: help is asked for.
    pub(super) fn read(
        command: &'static str,
        flags: &'static [Flag],
        args: Vec<OsString>,
        mut extra: impl FnMut(&'static str, &OsStr) -> Result<(), Failure>,
    ) -> Result<Option<Self>, Failure> {
        let mut line = Self {
            command,
            format: None,
            is_options: false,
            force_share: false,
            is_quiet: false,
            has_progress: false,
            output: Output::Human,
            secrets: Secrets::default(),
            free: Vec::new(),
        };
        let usage = |error| Failure::Usage { command, error };
        let mut getopt = Getopt::new(flags, args);
        while let Some((name, value)) = getopt.next_option().map_err(usage)? {
            match name {
                "help" => return Ok(None),
                "format" | "a-format" => line.format = Some(text(&value)?.to_owned()),
                "image-opts" => line.is_options = true,
                "force-share" => line.force_share = true,
                "object" => line.secrets.define(&value)?,
                "output" => line.output = parse_output(&value).map_err(usage)?,
                "quiet" => line.is_quiet = true,
                "progress" => line.has_progress = true,
                _ => extra(name, &value)?,
            }
        }
        line.free = getopt.into_free();
        Ok(Some(line))
    }

    /// A complaint about how the command was called.
    pub(super) fn usage(&self, text: impl Into<String>) -> Failure {
        Failure::Usage { command: self.command, error: UsageError::Other(text.into()) }
    }

    /// The one image that the command is about.
    pub(super) fn only_image(&self) -> Result<ImageArgs, Failure> {
        match &self.free[..] {
            [name] => Ok(self.image(name)?),
            free => Err(self.usage(format!("one image is expected, {} are given", free.len()))),
        }
    }

    /// An image in the format that `-f` says.
    pub(super) fn image(&self, name: &OsStr) -> Result<ImageArgs> {
        self.image_in(name, self.format.as_ref())
    }

    /// An image in a format that was said or not.
    pub(super) fn image_in(&self, name: &OsStr, format: Option<&String>) -> Result<ImageArgs> {
        if self.is_options && format.is_some() {
            return Err(Error::new(Kind::InvalidInput, "--image-opts and --format exclude each other"));
        }
        let image =
            if self.is_options { ImageArgs::of_options(name) } else { ImageArgs::of(name, format.cloned()) };
        Ok(ImageArgs { force_share: self.force_share, ..image })
    }

    /// Whether the command shows how far it is.
    pub(super) const fn shows_progress(&self) -> bool {
        self.has_progress && !self.is_quiet
    }
}

/// `-t` and `-T`: how the page cache is used.
pub(super) fn cache_mode(option: &str, name: &OsStr) -> Result<CacheMode> {
    name.to_str().and_then(CacheMode::named).ok_or_else(|| {
        let text = format!("there is no cache mode '{}'", name.display());
        Error::new(Kind::InvalidInput, text).in_option(option)
    })
}

/// A size of an option, from `least` to `most`.
pub(super) fn size_between(option: &str, value: &OsStr, (least, most): (u64, u64)) -> Result<u64> {
    let bad = |text: String| Error::new(Kind::InvalidInput, text).in_option(option);
    match value.to_str().map_or(Err(NumberError::Malformed), parse_size) {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Ok(_) | Err(NumberError::Range) => {
            Err(bad(format!("'{}' is not between {least} and {most}", value.display())))
        }
        Err(NumberError::Malformed) => Err(bad(format!("'{}' is no size", value.display()))),
    }
}

/// A count from an option, which has no suffix.
///
/// # Errors
/// [`Kind::InvalidInput`] naming the option and what is expected.
pub(super) fn count_between(option: &str, value: &OsStr, (least, most): (u64, u64)) -> Result<u64> {
    let count = value.to_str().and_then(|text| parse_number(text).ok());
    count.filter(|count| (least..=most).contains(count)).ok_or_else(|| {
        let text = format!("'{}' is no number between {least} and {most}", value.display());
        Error::new(Kind::InvalidInput, text).in_option(option)
    })
}

/// The largest size that a command line can say.
pub(super) const SIZE_MAX: u64 = i64::MAX as u64;

/// How a command starts the tool.
pub(super) const fn start(console: &super::Console, load: crate::tool::Load) -> Start {
    Start { name: console.name, load }
}
