//! Locks of a chain, beside the C tools.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use drystone_base::Kind;
use drystone_blockdev::request::OpenRequest;
use drystone_blockdev::settings::Settings;
use drystone_protocol::file::Locking;

use crate::host::{Folder, on_control, open, overlay, read_only, request, tool};

/// The bytes of the file that descriptors of process `pid` ("self" for this one) have locked. (`/proc/locks` would say it for
/// all processes, but is no snapshot: what others lock meanwhile makes it skip lines.)
pub(crate) fn locked_by(pid: &str, path: &Path) -> Vec<u64> {
    let path = std::fs::canonicalize(path).unwrap();
    let process = Path::new("/proc").join(pid);
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(process.join("fd")).unwrap().flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|target| target == path) {
            let info = process.join("fdinfo").join(entry.file_name());
            let info = std::fs::read_to_string(info).unwrap_or_default();
            let locks = info.lines().filter(|line| line.starts_with("lock:") && line.contains("OFDLCK"));
            for line in locks {
                let words: Vec<&str> = line.split_whitespace().rev().collect();
                bytes.extend(words[1].parse::<u64>().unwrap()..=words[0].parse::<u64>().unwrap());
            }
        }
    }
    bytes.sort_unstable();
    bytes
}

/// `qemu-io` with an image open.
struct QemuIo(Child);

impl QemuIo {
    /// `None` without the tool.
    fn hold(args: &[&str], path: &Path) -> Option<Self> {
        let mut child = Command::new("qemu-io")
            .args(args)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .inspect_err(|_| eprintln!("skipped: qemu-io is not installed"))
            .ok()?;
        // An answer means that the image is open.
        child.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
        let mut answer = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "qemu-io did not open the image");
        Some(Self(child))
    }
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn a_chain_locks_the_bytes_that_the_c_tool_locks() {
    on_control(async |task| {
        let folder = Folder::new();
        let (base, middle, top) = (folder.raw("base", b""), folder.path("middle"), folder.path("top"));
        overlay(task, &middle, Some(("base", "raw"))).await;
        overlay(task, &top, Some(("middle", "qcow2"))).await;
        let all = |pid: &str| [&base, &middle, &top].map(|path| locked_by(pid, path));
        for args in [&["-f", "qcow2"][..], &["-r", "-f", "qcow2"]] {
            let Some(holder) = QemuIo::hold(args, &top) else { return };
            let theirs = all(&holder.0.id().to_string());
            assert!(theirs.iter().all(|bytes| !bytes.is_empty()), "{theirs:?}");
            drop(holder);
            let ours = if args.len() == 2 { request(&top) } else { read_only(&top) };
            let image = open(task, &ours).await.unwrap();
            assert_eq!(all("self"), theirs, "{args:?}");
            image.close(task).await;
            assert!(all("self").iter().all(Vec::is_empty));
        }
    });
}

#[test]
fn an_image_in_use_is_refused_and_its_user_named() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.path("disk");
        overlay(task, &path, None).await;
        let Some(holder) = QemuIo::hold(&["-f", "qcow2"], &path) else { return };
        for refused in [request(&path), read_only(&path)] {
            let error = open(task, &refused).await.unwrap_err();
            assert_eq!((error.kind(), error.path()), (Kind::InUse, Some(&*path)));
            let who = format!("process {} (qemu-io)", holder.0.id());
            assert!(error.report().contains(&who), "{}", error.report());
        }
        let settings = Settings { read_only: true, force_share: true, ..Settings::default() };
        let image = open(task, &OpenRequest { settings, ..request(&path) }).await.unwrap();
        image.close(task).await;
        let settings = Settings { locking: Locking::Off, ..Settings::default() };
        open(task, &OpenRequest { settings, ..request(&path) }).await.unwrap();
    });
}

#[test]
fn the_c_tools_are_refused_what_we_have_open() {
    on_control(async |task| {
        let folder = Folder::new();
        folder.raw("base", b"");
        let top = folder.path("top");
        overlay(task, &top, Some(("base", "raw"))).await;
        let image = open(task, &request(&top)).await.unwrap();
        let refused = |args: &[&str], path: &Path| {
            let args = [args, &[path.to_str().unwrap()]].concat();
            tool(args[0], &args[1..]).is_none_or(|output| {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                !output.status.success() && text.contains("lock")
            })
        };
        assert!(refused(&["qemu-img", "info"], &top));
        assert!(refused(&["qemu-io", "-f", "qcow2", "-c", "read 0 512"], &top));
        assert!(!refused(&["qemu-img", "info", "-U"], &top) || tool("qemu-img", &["--version"]).is_none());
        image.close(task).await;
    });
}

#[test]
fn sharing_by_force_is_for_readers() {
    on_control(async |task| {
        let folder = Folder::new();
        overlay(task, &folder.path("disk"), None).await;
        let settings = Settings { force_share: true, ..Settings::default() };
        let error = open(task, &OpenRequest { settings, ..request(folder.path("disk")) }).await.unwrap_err();
        assert_eq!((error.kind(), error.option()), (Kind::InvalidInput, Some("force-share")));
    });
}

#[test]
fn the_same_writable_image_twice_is_refused() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.path("disk");
        overlay(task, &path, None).await;
        let first = open(task, &request(&path)).await.unwrap();
        let error = open(task, &request(&path)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InUse);
        assert!(error.report().contains("this process"), "{}", error.report());
        first.close(task).await;
        open(task, &request(&path)).await.unwrap();
    });
}
