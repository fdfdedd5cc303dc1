//! Images that somebody made to harm whoever opens them: every command ends soon, in little memory, with an error at
//! worst. A process that needs more than a second of a processor or 256 MiB is killed here by the kernel.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use drystone_base::rng::Rng;

use crate::common::serve::{Serve, drystone};
use crate::common::{Ran, Scratch, run, words};
use crate::golden::{each_image, stored_image};

/// Seconds of processor time, and KiB of memory that is the process's own.
const LIMITS: &str = "ulimit -t 1 && ulimit -d 262144 && exec \"$0\" \"$@\"";

/// Our program within the limits.
fn limited(line: &str, dir: &Path) -> Ran {
    let mut args = vec!["-c".to_owned(), LIMITS.to_owned(), drystone().to_str().unwrap().to_owned()];
    args.extend(words(line));
    run(Path::new("sh"), &args, dir)
}

/// Ends as a command ends that has said why.
fn assert_ends_well(line: &str, ran: &Ran, statuses: &[i32]) {
    assert!(statuses.contains(&ran.status), "{line}: {}: {}", ran.status, ran.stderr);
    assert!(ran.status == 0 || !ran.stderr.is_empty(), "{line}: failed without a word");
}

fn look_at(image: &str, dir: &Path) {
    for (command, statuses) in [
        ("img info", &[0, 1][..]),
        ("img info -f qcow2 --output=json", &[0, 1]),
        ("img check", &[0, 1, 2, 3, 63]),
        ("graph", &[0, 1]),
    ] {
        let line = format!("{command} {image}");
        assert_ends_well(&line, &limited(&line, dir), statuses);
    }
}

/// Serves an image, reads and writes here and there, whatever comes of it.
fn serve(image: &str, dir: &Path) {
    let mut command = Command::new("sh");
    command.args([OsString::from("-c"), LIMITS.into(), drystone().into()]);
    let ended = match Serve::start_under(command, dir, &[image, "--threads", "1"]) {
        Ok(server) => {
            let mut client = server.connect("");
            let last = client.len.saturating_sub(4096);
            for at in [0, last / 2, last] {
                let _ = client.read(at, 4096);
                let _ = client.write(at, &[1; 4096]);
                let _ = client.trim(at, 4096);
            }
            let _ = client.flush();
            server.stop()
        }
        Err(ended) => ended,
    };
    assert!([0, 1].contains(&ended.status), "serve {image}: {}: {}", ended.status, ended.stderr);
}

/// A share of the images whose description by the C tool is recorded.
fn recorded(share: usize) {
    let scratch = Scratch::new("hostile");
    let mut count = 0;
    each_image("hostile", &scratch, |image, dir| {
        count += 1;
        if count % 4 == share {
            serve(image, dir);
            assert_ends_well(image, &limited(&format!("graph {image}"), dir), &[0, 1]);
        }
    });
    assert!(count > 100, "{count} images");
}

#[test]
fn hostile_images_are_served_or_refused_first_part() {
    recorded(0);
}

#[test]
fn hostile_images_are_served_or_refused_second_part() {
    recorded(1);
}

#[test]
fn hostile_images_are_served_or_refused_third_part() {
    recorded(2);
}

#[test]
fn hostile_images_are_served_or_refused_fourth_part() {
    recorded(3);
}

#[test]
fn hostile_bits_and_ends_anywhere_are_looked_at() {
    let scratch = Scratch::new("hostile");
    let dir = scratch.path();
    for name in ["c512", "c4k-r2-lazy", "snapshots", "bitmaps"] {
        stored_image(name, &dir.join("whole"));
        let whole = fs::read(dir.join("whole")).unwrap();
        for seed in 0..12 {
            let mut rng = Rng::new(seed);
            let mut bytes = whole.clone();
            // Headers and tables are in front.
            let front = if rng.one_in(2) { 512 } else { bytes.len() };
            for _ in 0..=rng.below(3) {
                bytes[rng.index(front)] ^= 1 << rng.below(8);
            }
            if rng.one_in(3) {
                bytes.truncate(rng.index(whole.len()));
            }
            fs::write(dir.join("image"), bytes).unwrap();
            look_at("image", dir);
            serve("image", dir);
        }
    }
}

#[test]
fn hostile_chains_end() {
    let scratch = Scratch::new("hostile");
    let dir = scratch.path();
    let make = |line: &str| assert_eq!(limited(line, dir).status, 0, "{line}");
    make("img create -q -u -f qcow2 -b loop2 -F qcow2 loop1 1M");
    make("img create -q -u -f qcow2 -b ./loop1 -F qcow2 loop2 1M");
    make("img create -q -u -f qcow2 -b ./self -F qcow2 self 1M");
    make("img create -q -u -f qcow2 -b /dev/zero -F raw device 1M");
    make("img create -q -u -f qcow2 -b /dev/tty -F qcow2 terminal 1M");
    make("img create -q -u -f qcow2 -b . -F raw folder 1M");
    let mkfifo = Command::new("mkfifo").arg(dir.join("fifo")).status().unwrap();
    assert!(mkfifo.success());
    make("img create -q -u -f qcow2 -b fifo -F raw waits 1M");
    let deep = format!("json:{}1{}", "{\"a\":".repeat(20_000), "}".repeat(20_000));
    for image in
        ["loop1", "loop2", "self", "device", "terminal", "folder", "waits", "fifo", "/dev/zero", &deep]
    {
        for command in ["img info --backing-chain", "img check", "graph"] {
            let line = format!("{command} '{image}'");
            let ran = limited(&line, dir);
            let statuses = if command == "img check" { &[1, 63][..] } else { &[1] };
            assert_ends_well(&line[..line.len().min(80)], &ran, statuses);
        }
        serve(image, dir);
    }
}

#[test]
fn hostile_data_files_are_named_and_not_opened() {
    let scratch = Scratch::new("hostile");
    let dir = scratch.path();
    // Whoever opens it waits for a writer that does not come.
    assert!(Command::new("mkfifo").arg(dir.join("fifo")).status().unwrap().success());
    for name in ["fifo", r#"json:{"driver":"file","filename":"fifo"}"#] {
        stored_image("c64k", &dir.join("image"));
        let file = File::options().write(true).open(dir.join("image")).unwrap();
        // The feature, and the extension in front of all others.
        file.write_all_at(&[4], 79).unwrap();
        let mut extension =
            [b"DATA", &u32::try_from(name.len()).unwrap().to_be_bytes()[..], name.as_bytes()].concat();
        extension.resize(extension.len().next_multiple_of(8) + 8, 0);
        file.write_all_at(&extension, 112).unwrap();
        let args: Vec<String> =
            ["20", drystone().to_str().unwrap(), "img", "info", "image"].map(str::to_owned).into();
        let ran = run(Path::new("timeout"), &args, dir);
        assert_ends_well("img info", &ran, &[0, 1]);
        look_at("image", dir);
        serve("image", dir);
    }
}

#[test]
fn hostile_lengths_of_files_cost_nothing() {
    let scratch = Scratch::new("hostile");
    let dir = scratch.path();
    for (name, len) in [("c64k", 1 << 43), ("c512", 1 << 39), ("c512", 1 << 40), ("c512", 1 << 43)] {
        stored_image(name, &dir.join("sparse"));
        let file = File::options().write(true).open(dir.join("sparse")).unwrap();
        file.set_len(len).unwrap();
        look_at("sparse", dir);
        serve("sparse", dir);
        // As many snapshots as there can be, somewhere in nothing.
        file.write_all_at(&65536_u32.to_be_bytes(), 60).unwrap();
        file.write_all_at(&(1_u64 << 38).to_be_bytes(), 64).unwrap();
        look_at("sparse", dir);
        serve("sparse", dir);
        fs::remove_file(dir.join("sparse")).unwrap();
    }
}
