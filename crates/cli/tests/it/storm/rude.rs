//! Clients that misbehave: they ask and do not listen, leave in the middle of a word, or come and say nothing.
//!
//! Nobody else may notice. (Writers that hang up in the middle of a write are in `load`.)

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use drystone_base::rng::Rng;

use super::{DISKS, Storm};
use crate::common::nbd::Client;

/// Connections that are left open without a word, at most.
const SILENT_MAX: usize = 8;
/// How many reads nobody listens to the replies of, and their length.
const UNHEARD: (usize, usize) = (64, 256 << 10);
/// Between two of these clients, at most.
const PAUSE_MAX_MS: u64 = 60;

/// Comes and goes until the storm is over.
pub(super) fn be_rude(storm: &Storm) {
    let mut rng = Rng::new(storm.seed * 13 + 5);
    let socket = storm.dir.join("nbd.sock");
    let mut silent = Vec::new();
    while !storm.is_over.load(Ordering::SeqCst) {
        let export = format!("d{}", rng.index(DISKS));
        match rng.below(4) {
            // A stalled reader: the replies fill the socket, and stay there for a while.
            0 => {
                if let Ok(mut client) = Client::connect(&socket, &export) {
                    let _ = client.ask_only(UNHEARD.0, UNHEARD.1);
                    thread::park_timeout(Duration::from_millis(rng.below(8 * PAUSE_MAX_MS)));
                }
            }
            // Leaves in the middle of the handshake.
            1 => {
                let word = b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x20";
                let len = rng.index(word.len());
                let _ = UnixStream::connect(&socket).and_then(|mut stream| stream.write_all(&word[..len]));
            }
            2 => silent.extend(UnixStream::connect(&socket)),
            // Half a command.
            _ => {
                let word = br#"{"execute":"qmp_capabilities"} {"execute":"query-named-block-nodes","argu"#;
                let len = rng.index(word.len());
                let stream = UnixStream::connect(storm.dir.join("qmp3.sock"));
                let _ = stream.and_then(|mut stream| stream.write_all(&word[..len]));
            }
        }
        if silent.len() > SILENT_MAX {
            silent.clear();
        }
        storm.rude.fetch_add(1, Ordering::SeqCst);
        thread::park_timeout(Duration::from_millis(rng.below(PAUSE_MAX_MS)));
    }
}
