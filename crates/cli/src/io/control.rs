//! The commands that are not about bytes: waiting, signals, breakpoints; and zones, which no device here has.

use drystone_base::{Error, Kind};

use super::number::{parse_len, parse_ms};
use super::print::errno_text;
use super::session::{Fault, Session};
use super::table::{Command, Verb};

/// Nanoseconds of a millisecond.
const MS: u64 = 1_000_000;

pub(super) fn abort() -> Result<(), Fault> {
    std::process::abort()
}

pub(super) fn sigraise(words: &[String]) -> Result<(), Fault> {
    let word = words.first().map_or("", String::as_str);
    let number = parse_len(word)?;
    let sent = i32::try_from(number).ok().map(drystone_sys::raise);
    match sent {
        Some(Ok(())) => Ok(()),
        _ => Err(format!("signal argument '{word}' is too large to be a valid signal\n").into()),
    }
}

pub(super) async fn sleep(session: &mut Session<'_>, words: &[String]) -> Result<(), Fault> {
    let ms = parse_ms(words.first().map_or("", String::as_str))?;
    let local = session.tool.local();
    local.sleep_until(local.now_ns().saturating_add(ms.saturating_mul(MS))).await;
    Ok(())
}

/// `break`, `resume`, `remove_break`, `wait_break`.
pub(super) async fn breakpoint(session: &mut Session<'_>, verb: Verb, words: &[String]) -> Result<(), Fault> {
    let tag = words.last().map_or("", String::as_str);
    let error = Error::new(Kind::Unsupported, "no node of the image has breakpoints");
    let _ = session;
    match verb {
        Verb::Break => Err(told("Could not set breakpoint", &error)),
        Verb::Resume => Err(told("Could not resume request", &error)),
        Verb::RemoveBreak => Err(told(&format!("Could not remove breakpoint {tag}"), &error)),
        _ => Err(error.into()),
    }
}

fn told(what: &str, error: &Error) -> Fault {
    Fault::Print(format!("{what}: {}\n", errno_text(error.errno())))
}

/// All commands of zoned devices: what is wrong with their numbers comes first.
pub(super) fn zone(command: &Command, words: &[String]) -> Result<(), Fault> {
    for word in words.iter().take(2) {
        parse_len(word)?;
    }
    Err(Fault::Print(format!("{} failed: Operation not supported\n", command.name.replace('_', " "))))
}
