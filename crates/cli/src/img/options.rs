//! What `info` and `check` have in common: which image, in which format, how to print.

use std::ffi::{OsStr, OsString};

use drystone_base::{Error, Kind, Result};

use super::Failure;
use super::spec::Spec;
use crate::args::UsageError;
use crate::args::getopt::{Flag, Getopt};
use crate::tool::object::Secrets;

pub(super) const HELP: Flag = Flag::switch(Some('h'), "help");
pub(super) const FORMAT: Flag = Flag::value(Some('f'), "format");
pub(super) const IMAGE_OPTS: Flag = Flag::switch(None, "image-opts");
pub(super) const FORCE_SHARE: Flag = Flag::switch(Some('U'), "force-share");
pub(super) const OBJECT: Flag = Flag::value(None, "object");
pub(super) const OUTPUT: Flag = Flag::value(None, "output");

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Output {
    /// For people.
    #[default]
    Human,
    /// For programs.
    Json,
}

/// What was said about the image.
#[derive(Debug, Default)]
pub(super) struct Common {
    /// How to print.
    pub(super) output: Output,
    /// Look at it whoever else writes to it.
    pub(super) force_share: bool,
    /// The image as it was named.
    pub(super) name: OsString,
    format: Option<String>,
    is_options: bool,
    objects: Secrets,
}

impl Common {
    /// The image.
    ///
    /// # Errors
    /// A name or options without a meaning.
    pub(super) fn spec(&self) -> Result<Spec> {
        let spec = if self.is_options {
            Spec::of_list(text(&self.name)?)
        } else {
            Spec::of_name(&self.name, self.format.as_deref())
        };
        spec.map_err(|error| error.at_path(&self.name))
    }
}

/// Reads the arguments of `command`; `extra` is given the options that are only its own. `None`: help is asked for.
pub(super) fn parse(
    command: &'static str,
    flags: &'static [Flag],
    args: Vec<OsString>,
    mut extra: impl FnMut(&str, &OsStr) -> Result<(), Failure>,
) -> Result<Option<Common>, Failure> {
    let usage = |error| Failure::Usage { command, error };
    let mut getopt = Getopt::new(flags, args);
    let mut common = Common::default();
    while let Some((name, value)) = getopt.next_option().map_err(usage)? {
        match name {
            "help" => return Ok(None),
            "format" => common.format = Some(text(&value)?.to_owned()),
            "image-opts" => common.is_options = true,
            "force-share" => common.force_share = true,
            "object" => common.objects.define(&value)?,
            "output" => common.output = parse_output(&value).map_err(usage)?,
            _ => extra(name, &value)?,
        }
    }
    common.name = match <[OsString; 1]>::try_from(getopt.into_free()) {
        Ok([name]) => name,
        Err(free) => {
            let text = format!("one image is expected, {} are given", free.len());
            return Err(usage(UsageError::Other(text)));
        }
    };
    if common.is_options && common.format.is_some() {
        return Err(Error::new(Kind::InvalidInput, "--image-opts and --format exclude each other").into());
    }
    Ok(Some(common))
}

/// An argument that must be text.
pub(super) fn text(value: &OsStr) -> Result<&str> {
    value.to_str().ok_or_else(|| {
        Error::new(Kind::InvalidInput, format!("the argument '{}' is no valid text", value.display()))
    })
}

pub(super) fn parse_output(value: &OsStr) -> Result<Output, UsageError> {
    match value.to_str() {
        Some("human") => Ok(Output::Human),
        Some("json") => Ok(Output::Json),
        _ => {
            let text = format!("--output is 'human' or 'json', not '{}'", value.display());
            Err(UsageError::Other(text))
        }
    }
}
