//! The entry of `blkdebug`, a filter: it is no format of files and is opened only by its name.

use std::any::Any;
use std::path::Path;

use drystone_base::{Error, Kind, Result};
use drystone_core::driver::NodeFacts;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::{ParentState, Role};
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use drystone_filter::blkdebug::config::{FILE_BYTES_MAX, parse_sections};
use drystone_filter::blkdebug::rules::{InjectError, Kinds, Rule, SetState};
use drystone_filter::blkdebug::{BlkDebug, BlkDebugOptions, FORMAT_NAME, Limits, image_grant};

use super::{Backing, Configured, DataFile, Format, OpenedImage};
use crate::options::Options;
use crate::settings::Settings;

/// `blkdebug`.
pub(super) struct BlkDebugFilter;

struct ConfiguredFilter(BlkDebugOptions);

/// What sectors are counted in.
const SECTOR_BYTES: u64 = 512;
/// The errno of a rule that names none.
const EIO: u64 = 5;

impl Format for BlkDebugFilter {
    fn name(&self) -> &'static str {
        FORMAT_NAME
    }

    fn probe(&self, _start: &[u8]) -> u8 {
        0
    }

    fn configure(&self, options: &mut Options, _settings: Settings) -> Result<Box<dyn Configured>> {
        let mut rules = match options.take_text("config")? {
            Some(file) => load_rules(Path::new(&file))?,
            None => Vec::new(),
        };
        for (index, item) in options.take_list("inject-error")?.into_iter().enumerate() {
            rules.push(inject_error(item).map_err(|error| error.in_option(format!("inject-error.{index}")))?);
        }
        for (index, item) in options.take_list("set-state")?.into_iter().enumerate() {
            rules.push(set_state(item).map_err(|error| error.in_option(format!("set-state.{index}")))?);
        }
        let mut limit = |key| options.take_number(key).map(Option::unwrap_or_default);
        let limits = Limits {
            align: limit("align")?,
            max_transfer: limit("max-transfer")?,
            opt_write_zero: limit("opt-write-zero")?,
            max_write_zero: limit("max-write-zero")?,
            opt_discard: limit("opt-discard")?,
            max_discard: limit("max-discard")?,
        };
        limits.check()?;
        let (take, unshare) = (perms(options, "take-child-perms")?, perms(options, "unshare-child-perms")?);
        Ok(Box::new(ConfiguredFilter(BlkDebugOptions { rules, limits, take, unshare })))
    }
}

impl Configured for ConfiguredFilter {
    fn file_role(&self) -> Role {
        Role::FILTER_CHILD
    }

    fn file_grant(&self, parent: ParentState) -> Grant {
        image_grant(&self.0, parent)
    }

    /// Nothing can change: the rules go on as they are.
    fn into_reopen(self: Box<Self>) -> Option<Box<dyn Any + Send + Sync>> {
        Some(Box::new(()))
    }

    fn open<'a>(&'a self, file: Io<'a>, read_only: bool) -> LocalFuture<'a, Result<OpenedImage>> {
        Box::pin(async move {
            let facts = NodeFacts { len: file.len(), request_alignment: 1, read_only };
            let driver = Box::new(BlkDebug::new(self.0.clone()));
            Ok(OpenedImage { driver, facts, backing: Backing::Impossible, data_file: DataFile::Same })
        })
    }
}

/// The rules of a file.
fn load_rules(path: &Path) -> Result<Vec<Rule>> {
    let named = |error: Error| error.at_path(path);
    let bytes = drystone_sys::load_file(path, FILE_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|cause| {
        named(Error::new(Kind::InvalidInput, "the rules are no valid text").because(cause))
    })?;
    parse_rules(&text).map_err(named)
}

/// The rules in the text of a file.
///
/// # Errors
/// [`Kind::InvalidInput`] naming the line, or the option.
pub fn parse_rules(text: &str) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for section in parse_sections(text)? {
        let mut options = Options::default();
        for (key, value) in section.options {
            options.set(&key, value)?;
        }
        let rule = if section.name == "inject-error" { inject_error(options) } else { set_state(options) };
        rules.push(rule?);
    }
    Ok(rules)
}

fn inject_error(mut options: Options) -> Result<Rule> {
    let event = event(&mut options)?;
    let state = options.take_number("state")?.unwrap_or(0);
    let kinds = options.take_choice("iotype", &Kinds::NAMES)?.unwrap_or(Kinds::DEFAULT);
    let errno = options.take_number("errno")?.unwrap_or(EIO);
    let errno = i32::try_from(errno)
        .map_err(|_| Error::new(Kind::InvalidInput, format!("{errno} is no errno")).in_option("errno"))?;
    let sector = match options.clone().take_text("sector") {
        // All of them, as the C tool writes it.
        Ok(Some(text)) if text == "-1" => {
            options = options.without(&["sector"]);
            None
        }
        _ => options.take_number("sector")?,
    };
    let too_far =
        || Error::new(Kind::OutOfRange, "it lies past the largest possible disk").in_option("sector");
    let offset = sector.map(|sector| sector.checked_mul(SECTOR_BYTES).ok_or_else(too_far)).transpose()?;
    let once = options.take_switch("once")?.unwrap_or(false);
    // There is one way to fail.
    options.take_switch("immediately")?;
    options.finish("blkdebug")?;
    Ok(Rule::InjectError(InjectError { event, state, kinds, errno, offset, once }))
}

fn set_state(mut options: Options) -> Result<Rule> {
    let event = event(&mut options)?;
    let state = options.take_number("state")?.unwrap_or(0);
    let new_state = options.take_number("new_state")?.unwrap_or(0);
    options.finish("blkdebug")?;
    Ok(Rule::SetState(SetState { event, state, new_state }))
}

fn event(options: &mut Options) -> Result<Event> {
    let missing = || Error::new(Kind::InvalidInput, "it is missing").in_option("event");
    let name = options.take_text("event")?.ok_or_else(missing)?;
    Event::named(&name).ok_or_else(|| {
        Error::new(Kind::InvalidInput, format!("there is no event '{name}'")).in_option("event")
    })
}

/// A list of permissions.
fn perms(options: &mut Options, key: &str) -> Result<Perm> {
    let names = [
        ("consistent-read", Perm::CONSISTENT_READ),
        ("write", Perm::WRITE),
        ("write-unchanged", Perm::WRITE_UNCHANGED),
        ("resize", Perm::RESIZE),
    ];
    let mut all = Perm::NONE;
    for text in options.take_texts(key)? {
        let Some((_, perm)) = names.iter().find(|(name, _)| *name == text) else {
            let text = format!("there is no permission '{text}'");
            return Err(Error::new(Kind::InvalidInput, text).in_option(key));
        };
        all = all.with(*perm);
    }
    Ok(all)
}
