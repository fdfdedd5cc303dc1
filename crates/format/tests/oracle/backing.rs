//! Images that name another backing file, read by the C tool.

use std::path::Path;

use drystone_format::qcow2::header::SECTOR_BYTES;

use crate::common::Image;
use crate::tools::{Scratch, run_ok};

/// Makes the image name `name` of `format`, with the writes that a driver would do.
fn rename(path: &Path, name: Option<&str>, format: Option<&str>) {
    let mut bytes = std::fs::read(path).unwrap();
    let header = Image::new(bytes.clone()).header().unwrap();
    let (name, format) = (name.map(str::as_bytes), format.map(str::as_bytes));
    let renamed = header.renamed(&bytes[..SECTOR_BYTES], name, format).unwrap();
    if let Some((at, name)) = &renamed.name {
        let at = usize::try_from(*at).unwrap();
        bytes[at..at + name.len()].copy_from_slice(name);
    }
    bytes[..SECTOR_BYTES].copy_from_slice(&renamed.sector);
    std::fs::write(path, bytes).unwrap();
}

/// What the C tool says of the backing file.
fn said(path: &Path) -> Vec<String> {
    let info = run_ok("qemu-img", "info -U --output=json", path);
    let lines = info.lines().map(|line| line.trim().trim_end_matches(',').to_owned());
    let mut lines: Vec<String> = lines.filter(|line| line.starts_with("\"backing-filename")).collect();
    lines.sort();
    lines
}

#[test]
fn the_c_tool_reads_the_new_name() {
    let scratch = Scratch::new("backing");
    let image = scratch.path("top.qcow2");
    let long = format!("{}.img", "n".repeat(900));
    for create in ["", "-o compat=0.10", "-o cluster_size=4096", "-o data_file_raw=off"] {
        for old in ["-u -b old.img -F raw", ""] {
            for (name, format) in [
                (Some("new.img"), Some("raw")),
                (Some("other.img"), Some("qcow2")),
                (Some(long.as_str()), Some("raw")),
                (Some("json:{\"driver\":\"null-co\"}"), Some("null-co")),
                (None, None),
            ] {
                let _ = std::fs::remove_file(&image);
                let path = image.to_str().unwrap();
                let args = format!("create -q -f qcow2 {create} {old} {path}");
                run_ok("qemu-img", &args, Path::new("1M"));
                rename(&image, name, format);
                let format_line = format.map(|format| format!("\"backing-filename-format\": \"{format}\""));
                let name = name.map(|name| name.replace('"', "\\\""));
                let name_line = name.map(|name| format!("\"backing-filename\": \"{name}\""));
                let expected: Vec<String> = name_line.into_iter().chain(format_line).collect();
                assert_eq!(said(&image), expected, "{args}");
                if expected.is_empty() {
                    run_ok("qemu-img", "check -q", &image);
                }
            }
        }
    }
}
