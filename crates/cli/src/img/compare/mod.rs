//! `img compare`: whether two images show the same.
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | they do |
//! | 1 | they do not, or the command line is not understood |
//! | 2 | an image could not be opened |
//! | 3, 4 | an image did not say how it is allocated; it could not be read |
//!
//! Where one disk is longer, what is behind the end of the other must be zeroes.
//!
//! Not here: the comparing ([`engine`]).

mod engine;

use std::ffi::OsString;

use drystone_base::{Error, Result};

use self::engine::{Difference, Outcome};
use super::line::{self, Line, QUIET, cache_mode};
use super::{Console, Failure, options};
use crate::args::getopt::Flag;
use crate::tool::image::{CacheMode, ImageArgs};
use crate::tool::{self, Load, Tool};

const FLAGS: &[Flag] = &[
    options::HELP,
    Flag::value(Some('f'), "a-format"),
    Flag::value(Some('F'), "b-format"),
    options::IMAGE_OPTS,
    line::PROGRESS,
    QUIET,
    Flag::switch(Some('s'), "strict"),
    Flag::value(Some('T'), "cache"),
    options::FORCE_SHARE,
    options::OBJECT,
];

const HELP: &str = "\
Says whether two images show the same.

  compare [OPTION...] IMAGE1 IMAGE2

  -f, --a-format FORMAT   raw or qcow2, of IMAGE1; without it, the first bytes decide
  -F, --b-format FORMAT   the same of IMAGE2
      --image-opts        both are lists of options: driver=qcow2,file.filename=PATH
  -s, --strict            the images must have the same length and be allocated alike, too
  -T, --cache MODE        none, writeback, writethrough, directsync or unsafe (writeback)
  -U, --force-share       look at images that somebody else writes to
  -p, --progress          show how far it is
  -q, --quiet             print errors only
      --object OBJECT     a secret
  -h, --help              this text

Exit status: 0 the same, 1 different, 2 to 4 an error
";

const DIFFERENT: u8 = 1;
const CANNOT_OPEN: u8 = 2;

/// Before the last of the progress, if that is shown.
const WARNING: &str = "Warning: Image size mismatch!\n";

/// What is compared, and how.
struct Request {
    images: [ImageArgs; 2],
    is_strict: bool,
}

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    match compare(args, console) {
        // Whatever is wrong before the images are read is like an image that cannot be opened.
        Err(Failure::Failed(error)) => Ok(fail(console, &error, CANNOT_OPEN)),
        other => other,
    }
}

fn compare(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let (mut format, mut cache, mut is_strict) = (None, CacheMode::WRITEBACK, false);
    let line = Line::read("compare", FLAGS, args, |name, value| {
        match name {
            "b-format" => format = Some(options::text(value)?.to_owned()),
            "strict" => is_strict = true,
            _ => cache = cache_mode(name, value)?,
        }
        Ok(())
    })?;
    let Some(line) = line else {
        console.print(HELP);
        return Ok(0);
    };
    let [first, second] = &line.free[..] else {
        return Err(line.usage(format!("two images are expected, {} are given", line.free.len())));
    };
    let images = [line.image(first)?, line.image_in(second, format.as_ref())?];
    let images = images.map(|image| ImageArgs { cache, ..image });
    let request = Request { images, is_strict };
    let outcome = tool::run(line::start(console, Load::Heavy), async |tool: &Tool| {
        look(tool, &request, line.shows_progress(), line.is_quiet).await
    });
    if outcome.is_err() && line.shows_progress() {
        console.print("\n");
    }
    let outcome = outcome?;
    let (words, status) = verdict(outcome, is_strict);
    match words {
        Ok(words) if !line.is_quiet => console.print(words),
        Ok(_) => {}
        Err((words, error)) => {
            console.print(if line.is_quiet { String::new() } else { words });
            fail(console, &error, status);
        }
    }
    if line.shows_progress() {
        console.print("\n");
    }
    Ok(status)
}

fn fail(console: &mut Console, error: &Error, status: u8) -> u8 {
    console.complain(&error.report());
    status
}

async fn look(tool: &Tool, request: &Request, shows_progress: bool, is_quiet: bool) -> Result<Outcome> {
    let [first, second] = &request.images;
    let first = tool.open_reader(first).await?;
    let second = tool.open_reader(second).await?;
    if shows_progress {
        tool.progress().show_open();
    }
    let lens = [first.len_bytes, second.len_bytes];
    if request.is_strict && lens[0] != lens[1] {
        return Ok(Outcome { lens, first: None, is_warned: false });
    }
    let outcome = engine::compare(tool, [&first, &second], request.is_strict).await?;
    let is_early = shows_progress && !is_quiet && outcome.warns();
    if is_early {
        crate::console::print(WARNING)?;
    }
    if outcome.first.is_none() {
        tool.progress().set(1, 1);
    }
    Ok(Outcome { is_warned: is_early, ..outcome })
}

/// What is printed, perhaps with what went wrong, and the exit status.
fn verdict(outcome: Outcome, is_strict: bool) -> (Result<String, (String, Error)>, u8) {
    let [first, second] = outcome.lens;
    if is_strict && first != second {
        return (Ok("Strict mode: Image size mismatch!\n".to_owned()), DIFFERENT);
    }
    let warning = if outcome.warns() && !outcome.is_warned { WARNING } else { "" };
    match outcome.first {
        None => (Ok(format!("{warning}Images are identical.\n")), 0),
        Some((at, Difference::Content)) => {
            (Ok(format!("{warning}Content mismatch at offset {at}!\n")), DIFFERENT)
        }
        Some((at, Difference::Allocation)) => {
            (Ok(format!("Strict mode: Offset {at} block status mismatch!\n")), DIFFERENT)
        }
        Some((_, Difference::Failed { error, status })) => (Err((warning.to_owned(), error)), status),
    }
}
