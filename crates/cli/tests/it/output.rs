//! Standard output and standard error that are closed, full, or read by nobody.

use std::path::Path;

use crate::common::serve::{Serve, drystone};
use crate::common::{Ran, Scratch, run, words};

/// Runs a shell command in which `D` is our program.
fn shell(script: &str, dir: &Path) -> Ran {
    let script = script.replace('D', drystone().to_str().unwrap());
    run(Path::new("sh"), &["-c".to_owned(), script], dir)
}

fn image(scratch: &Scratch) {
    assert_eq!(run(&drystone(), &words("img create -q -f qcow2 disk 1M"), scratch.path()).status, 0);
}

#[test]
fn commands_end_well_when_nobody_reads_what_they_print() {
    let scratch = Scratch::new("output");
    let dir = scratch.path();
    image(&scratch);
    for line in [
        "graph disk",
        "graph --json disk",
        "img info disk",
        "img check disk",
        "img create -f raw x 1k",
        "img create -f qcow2 -o help",
        "img --help",
        "--help",
        "serve --help",
        "--version",
    ] {
        for output in [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"] {
            let ran = shell(&format!("D {line} {output}"), dir);
            assert_eq!(ran.status, 0, "{line} {output}: {}", ran.stderr);
        }
        // The reader goes before the writer begins.
        let script = format!("{{ while [ -e busy ]; do :; done; D {line}; echo $? >status; }} | rm busy");
        std::fs::write(dir.join("busy"), b"").unwrap();
        assert_eq!(shell(&script, dir).stderr, "", "{line}");
        assert_eq!(std::fs::read_to_string(dir.join("status")).unwrap(), "0\n", "{line}");
    }
    for line in
        ["graph nothere", "img info nothere", "img check nothere", "bogus", "img bogus", "serve nothere"]
    {
        let statuses = [">/dev/null", ">&-", "2>&-", ">&- 2>&-", "2>/dev/full"]
            .map(|output| shell(&format!("D {line} {output}"), dir).status);
        assert!(
            [1, 2].contains(&statuses[0]) && statuses.iter().all(|status| *status == statuses[0]),
            "{line}: {statuses:?}"
        );
    }
}

#[test]
fn a_full_disk_is_told() {
    let scratch = Scratch::new("output");
    image(&scratch);
    for line in ["graph disk", "graph --dot disk"] {
        let ran = shell(&format!("D {line} >/dev/full"), scratch.path());
        assert!(ran.status == 1 && ran.stderr.contains("standard output"), "{line}: {}", ran.stderr);
    }
}

#[test]
fn what_is_printed_never_goes_into_an_image() {
    let scratch = Scratch::new("output");
    let dir = scratch.path();
    image(&scratch);
    let mut command = std::process::Command::new("sh");
    // The first file that is opened would get the number of standard error or input.
    command.args(["-c", "exec <&- 2>&-; exec \"$0\" \"$@\""]).arg(drystone());
    let server = Serve::start_under(command, dir, &["disk"]).unwrap();
    let ran = run(&drystone(), &words("snapshot nbd.sock.ctl new"), dir);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    server.connect("").write(0, b"x").unwrap();
    server.stop_cleanly();
    for image in ["disk", "new"] {
        let ran = run(&drystone(), &words(&format!("img check {image}")), dir);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    }
}
