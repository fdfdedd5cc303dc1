//! `img convert` while somebody is in its way.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Scratch, our_tool, run};

fn args(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// A source of two MiB of data.
fn source(dir: &Path) {
    std::fs::write(dir.join("in.raw"), vec![7; 2 << 20]).unwrap();
}

#[test]
fn an_interrupted_conversion_ends_at_once_and_leaves_a_sound_image() {
    let scratch = Scratch::new("convert");
    let (program, dir) = (our_tool(&scratch, "qemu-img"), scratch.path());
    source(dir);
    for (name, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        // A megabyte an hour: it does not end by itself.
        let mut running = Command::new(&program)
            .args(args("convert -p -r 300 -f raw -O qcow2 in.raw out.qcow2"))
            .current_dir(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Until the second report: something has been copied.
        let mut begun = [0; 20];
        running.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
        let sent = Command::new("kill").args([&format!("-{name}"), &running.id().to_string()]).status();
        assert!(sent.unwrap().success());
        assert_eq!(running.wait().unwrap().code(), Some(status), "{name}");
        if dir.join("out.qcow2").exists() {
            let checked = run(&program, &args("check -q out.qcow2"), dir);
            assert_eq!(checked.status, 0, "{name}: {}", checked.stderr);
        }
    }
}
