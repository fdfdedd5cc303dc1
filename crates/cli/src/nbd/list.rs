//! `--list`: what another server offers, laid out as release 10.0 of the C tool does it.

use std::fmt::Write as _;

use drystone_base::Result;
use drystone_nbd::client::{ExportFacts, ListedExport};
use drystone_nbd::uri::Address;
use drystone_nbd::{Style, TransmissionFlags};
use drystone_protocol::nbd;
use drystone_sys::Network;

use super::options::Place;
use crate::tool::{self, Load, Start};

/// The flags by their names there, lowest bit first.
const FLAGS: [(u16, &str); 12] = [
    (1, "readonly"),
    (2, "flush"),
    (3, "fua"),
    (4, "rotational"),
    (5, "trim"),
    (6, "zeroes"),
    (7, "df"),
    (8, "multi"),
    (9, "resize"),
    (10, "cache"),
    (11, "fast-zero"),
    (12, "block-status-payload"),
];

/// What the server at `place` offers, as text.
///
/// # Errors
/// Those of connecting, and of a server that does not say.
pub(super) fn list(name: &'static str, place: Place) -> Result<String> {
    let address = match place {
        Place::Tcp(host, port) => Address::Tcp { host, port },
        Place::Unix(socket) => Address::Unix { socket },
        Place::Activated => unreachable!("a list excludes a socket that was passed"),
    };
    let start = Start { name, load: Load::Small };
    let exports = tool::run(start, async |tool| nbd::list(&mut tool.lane(), &Network::os(), &address).await)?;
    let mut text = format!("exports available: {}\n", exports.len());
    for (entry, facts) in &exports {
        describe(&mut text, entry, facts);
    }
    Ok(text)
}

/// Writing to memory does not fail.
fn describe(text: &mut String, entry: &ListedExport, facts: &ExportFacts) {
    let _ = writeln!(text, " export: '{}'", entry.name);
    let description = if entry.description.is_empty() { &facts.description } else { &entry.description };
    if !description.is_empty() {
        let _ = writeln!(text, "  description: {description}");
    }
    let _ = writeln!(text, "  size:  {}", facts.len_bytes);
    if facts.flags.has(TransmissionFlags::HAS_FLAGS) {
        let bits = facts.flags.to_wire();
        let _ = write!(text, "  flags: {bits:#x} (");
        for (_, name) in FLAGS.iter().filter(|(bit, _)| bits & (1 << bit) != 0) {
            let _ = write!(text, " {name}");
        }
        text.push_str(" )\n");
    }
    if facts.says_block {
        let block = facts.block;
        let sizes = [("min", block.min_bytes), ("opt", block.preferred_bytes), ("max", block.max_bytes)];
        for (which, bytes) in sizes {
            let _ = writeln!(text, "  {which} block: {bytes}");
        }
    }
    let bits = if facts.style == Style::Extended { 64 } else { 32 };
    let _ = writeln!(text, "  transaction size: {bits}-bit");
    if !facts.contexts.is_empty() {
        let _ = writeln!(text, "  available meta contexts: {}", facts.contexts.len());
        for (_, context) in &facts.contexts {
            let _ = writeln!(text, "   {context}");
        }
    }
}
