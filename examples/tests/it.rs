//! The examples, run as their users would.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

use std::path::PathBuf;
use std::process::{Command, Output};

use drystone_format::qcow2::create::CreateOptions;

/// A folder that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("drystone-examples-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// An empty qcow2 image of 4 MiB.
fn empty_image() -> Vec<u8> {
    let layout = CreateOptions::new(4 << 20).layout().unwrap();
    let mut bytes = vec![0; usize::try_from(layout.len_file).unwrap()];
    for (at, piece) in layout.pieces {
        let at = usize::try_from(at.get()).unwrap();
        bytes[at..at + piece.len()].copy_from_slice(&piece);
    }
    bytes
}

#[test]
fn an_embedded_disk_is_written_by_two_threads_and_snapshotted_meanwhile() {
    let folder = Folder::new("embed");
    let (image, layer) = (folder.0.join("image.qcow2"), folder.0.join("layer.qcow2"));
    std::fs::write(&image, empty_image()).unwrap();
    run(Command::new(env!("CARGO_BIN_EXE_embed")).arg(&image).arg(&layer));
    // What was written is in the two of them: 2 MiB, and nowhere else.
    let lens = [&image, &layer].map(|path| std::fs::metadata(path).unwrap().len());
    assert!(lens.iter().sum::<u64>() > 2 << 20, "{lens:?}");
    let name = std::fs::read(&layer).unwrap();
    assert!(name.windows(11).any(|bytes| bytes == b"image.qcow2"), "the layer names what is below it");
}

#[test]
fn a_filter_turns_what_passes_through_it() {
    let printed = run(&mut Command::new(env!("CARGO_BIN_EXE_filter")));
    let expected = "through the filter: \"dry stone\"\n\
                    in the node below:  [9b, 8d, 86, df, 8c, 8b, 90, 91, 9a]\n\
                    bytes that passed:  18\n";
    assert_eq!(printed, expected);
}
