//! Where a sequence ends without a finding: the C tools crash or hang, or docs/differences.md says that we differ.

use super::TIMED_OUT;
use super::author::Command;
use crate::common::Ran;

/// The lowest status of a program that a signal has ended.
const SIGNALLED: i32 = 128;

/// What our tool says, and the difference that it means.
const SAID: &[&str] = &[
    // `create` onto a file that is in the new image's backing chain.
    "backing chain of the new image",
];

/// Whether the tools differ here on purpose.
pub(super) fn ends(command: &Command, there: &Ran, here: &Ran) -> bool {
    there.status >= SIGNALLED
        || there.status == TIMED_OUT
        // They find the unit of direct I/O by trial; holes have none.
        || there.stderr.contains("not a multiple of request alignment")
        // Refused with status 0.
        || there.stderr.contains("Cannot use --target-is-zero when")
        // A bitmap of a disk of no bytes.
        || there.stderr.contains("Lost persistent bitmaps during inactivation")
        || SAID.iter().any(|said| here.stderr.contains(said))
        || (there.status != here.status && command.0.iter().any(|word| word.starts_with("write -z -n")))
        // "a compressed write where there is something already".
        || (command.0.iter().any(|word| word.starts_with("write -c")) && there.status != here.status)
}

/// As [`ends`], when the files differ after a command that ended alike.
pub(super) fn ends_after(command: &Command, there: &Ran, about: &str) -> bool {
    // A chain that comes back to itself; theirs takes what it is for as long as it can.
    if about.contains("the chain of backing files is a loop") {
        return true;
    }
    // The C tools pass parts of blocks on that direct I/O cannot move; what is discarded is nobody's any more.
    let is_direct = |word: &String| ["none", "directsync", "reopen -c none"].contains(&word.as_str());
    let discards = command.0.iter().any(|word| word.starts_with("discard"));
    if discards && command.0.iter().any(is_direct) {
        return true;
    }
    // A request that fails may have been done in part.
    if there.stdout.contains("failed: ") {
        return true;
    }
    // What is left of the file that was there.
    there.status != 0 && ["create", "convert", "dd"].contains(&command.name())
}

/// Clusters of a raw data file keep their places when they are discarded or zeroed: their zeroes are in that file, too.
fn has_raw_data(all: &[Command]) -> bool {
    all.iter().any(|command| command.0.iter().any(|word| word.contains("data_file_raw=on")))
}

/// Zeroes become bytes in version 2, for which theirs gives clusters up if there is no backing file.
fn has_zeroed_v2(all: &[Command]) -> bool {
    let says = |text: &str| all.iter().any(|command| command.0.iter().any(|word| word.contains(text)));
    (says("compat=v2") || says("compat=0.10")) && says("write -z")
}

/// Whether what a command prints may differ.
pub(super) fn prints_otherwise(command: &Command, all: &[Command]) -> bool {
    (has_raw_data(all) || has_zeroed_v2(all))
        && ["map", "check", "measure", "compare", "qemu-io"].contains(&command.name())
}
