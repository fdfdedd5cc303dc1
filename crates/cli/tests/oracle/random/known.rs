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
pub(super) fn ends(command: &Command, all: &[Command], there: &Ran, here: &Ran) -> bool {
    there.status >= SIGNALLED
        || there.status == TIMED_OUT
        // They find the unit of direct I/O by trial; holes have none.
        || there.stderr.contains("not a multiple of request alignment")
        || SAID.iter().any(|said| here.stderr.contains(said))
        || (has_raw_data(all) && command.0.iter().any(|word| word.starts_with("write -z -n")))
        // "a compressed write where there is something already".
        || (command.0.iter().any(|word| word.starts_with("write -c")) && there.status != here.status)
}

/// As [`ends`], when the files differ after a command that ended alike.
pub(super) fn ends_after(command: &Command, there: &Ran) -> bool {
    // The C tools pass parts of blocks on that direct I/O cannot move; what is discarded is nobody's any more.
    let is_direct = |word: &String| ["none", "directsync", "reopen -c none"].contains(&word.as_str());
    let discards = command.0.iter().any(|word| word.starts_with("discard"));
    if discards && command.0.iter().any(is_direct) {
        return true;
    }
    // What is left of the file that was there.
    there.status != 0 && ["create", "convert", "dd"].contains(&command.name())
}

/// Whether what a command prints may differ. Clusters of a raw data file keep their places when they are discarded or
/// zeroed: their zeroes are in that file, too.
pub(super) fn prints_otherwise(command: &Command, all: &[Command]) -> bool {
    let has_raw_data =
        all.iter().any(|command| command.0.iter().any(|word| word.contains("data_file_raw=on")));
    has_raw_data && ["map", "check", "measure", "compare", "qemu-io"].contains(&command.name())
}
