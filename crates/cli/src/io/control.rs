//! The commands that are not about bytes: waiting, signals, breakpoints; and zones, which no device here has.

use std::sync::Arc;

use drystone_base::{Error, Kind};
use drystone_core::graph::node::{ChildKey, Node};
use drystone_core::runtime::yield_now;
use drystone_filter::blkdebug::BlkDebug;
use drystone_filter::blkdebug::rules::Halt;

use super::number::{parse_len, parse_ms};
use super::print::{errno_text, print};
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
    let node = debugger(session).await?;
    let none = || Error::new(Kind::Unsupported, "no node of the image has breakpoints");
    let debug = node.as_deref().and_then(Node::driver_as::<BlkDebug>).ok_or_else(none);
    let (what, done) = match verb {
        Verb::Break => {
            let event = words.first().map_or("", String::as_str);
            let set = debug.and_then(|debug| {
                debug.listen(Box::new(tell));
                debug.set_breakpoint(event, tag)
            });
            ("Could not set breakpoint".to_owned(), set)
        }
        Verb::Resume => ("Could not resume request".to_owned(), debug.and_then(|debug| debug.resume(tag))),
        Verb::RemoveBreak => {
            let removed = debug.and_then(|debug| debug.remove_breakpoints(tag));
            (format!("Could not remove breakpoint {tag}"), removed)
        }
        _ => {
            debug?.wait_until_held(tag).await;
            return Ok(());
        }
    };
    // What goes on has a chance to do so before the next command.
    yield_now().await;
    done.map_err(|error| Fault::Print(format!("{what}: {}\n", errno_text(error.errno()))))
}

/// Says what a breakpoint does.
fn tell(halt: Halt, tag: &str) {
    let what = match halt {
        Halt::Suspended => "Suspended",
        Halt::Resuming => "Resuming",
    };
    print(&format!("blkdebug: {what} request '{tag}'\n"));
}

/// The uppermost node with breakpoints below the image, through what stores its data.
async fn debugger(session: &Session<'_>) -> Result<Option<Arc<Node>>, Fault> {
    let top = session.image()?.node;
    let found = session.tool.on_control(async move |task| {
        Ok(task.gs().with(|graph| {
            let mut next = Some(top);
            while let Some(id) = next {
                let node = graph.node_handle(id)?;
                if node.driver_as::<BlkDebug>().is_some() {
                    return Some(node);
                }
                next = graph.child(id, ChildKey::File);
            }
            None
        }))
    });
    Ok(found.await?)
}

/// All commands of zoned devices: what is wrong with their numbers comes first.
pub(super) fn zone(command: &Command, words: &[String]) -> Result<(), Fault> {
    for word in words.iter().take(2) {
        parse_len(word)?;
    }
    Err(Fault::Print(format!("{} failed: Operation not supported\n", command.name.replace('_', " "))))
}
