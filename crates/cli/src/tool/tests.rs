//! The tool's own life: disks opened, used from several threads, closed whatever happens.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use drystone_base::{Error, GuestOffset, Kind};
use drystone_buf::Buf;

use super::image::{CacheMode, ImageArgs};
use super::object::{Secrets, help_in};
use super::*;

const START: Start = Start { name: "qemu-img", load: Load::Small };

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("drystone-tool-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn raw(path: &PathBuf) -> ImageArgs {
    ImageArgs::of(path, Some("raw".to_owned()))
}

#[test]
fn a_disk_is_written_and_read_again() {
    let folder = Folder::new("write");
    let path = folder.file("disk", &[0; 1024]);
    run(START, async |tool| {
        let disk = tool.open_writer(&raw(&path), false).await?;
        assert_eq!((disk.len_bytes, disk.layers.len()), (1024, 1));
        let mut lane = tool.lane();
        let mut ticket = lane.enter(&disk.backend).await;
        ticket.write(GuestOffset::ZERO, Buf::copy_of(&[7; 512]), disk.flags).await.0?;
        drop(ticket);
        tool.close(disk).await?;
        let disk = tool.open_reader(&ImageArgs { cache: CacheMode::UNSAFE, ..raw(&path) }).await?;
        let read = lane.enter(&disk.backend).await.read(GuestOffset::ZERO, Buf::zeroed(1024)).await;
        read.0?;
        assert_eq!(read.1.as_slice()[..512], [7; 512]);
        assert_eq!(read.1.as_slice()[512..], [0; 512]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_failure_comes_back_and_everything_is_closed() {
    let folder = Folder::new("failure");
    let path = folder.file("disk", &[0; 1024]);
    let error = run(START, async |tool| {
        tool.open_writer(&raw(&path), true).await?;
        Err::<(), _>(Error::new(Kind::Io, "that is it"))
    });
    assert!(error.unwrap_err().report().contains("that is it"));
    let missing = run(START, async |tool| tool.open_reader(&raw(&folder.0.join("none"))).await.map(drop));
    let error = missing.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.report().contains("none"), "{}", error.report());
}

/// Says to the test below which panic it is to make, in a process of its own.
const PANIC: &str = "DRYSTONE_TEST_PANIC";

/// A request that nobody will end, a control task without an answer: whoever went on would wait for them, or write to a disk
/// what they have left.
#[test]
fn a_panic_on_any_thread_ends_the_program() {
    let name = "tool::tests::a_panic_on_any_thread_ends_the_program";
    if let Some((place, path)) = std::env::var(PANIC).ok().as_deref().and_then(|said| said.split_once(' ')) {
        crate::defect::end_at_panics();
        let path = PathBuf::from(path);
        let result = run(START, async |tool| {
            let disk = tool.open_writer(&raw(&path), false).await?;
            let backend = disk.backend.clone();
            match place {
                "control" => tool.on_control(async |_| panic!("a defect")).await,
                _ => {
                    let work = move |local| async move {
                        let mut lane = Lane::new(local);
                        let _ticket = lane.enter(&backend).await;
                        panic!("a defect")
                    };
                    tool.io_threads(1)?[0].call(work).await
                }
            }
        });
        panic!("it went on: {:?}", result.map(|()| "done").map_err(|error| error.report()));
    }
    let folder = Folder::new("panic");
    let path = folder.file("disk", &[0; 1024]);
    for place in ["control", "request"] {
        let said = format!("{place} {}", path.display());
        let mut program = std::process::Command::new(std::env::current_exe().unwrap());
        let output = program.args(["--exact", name, "--nocapture"]).env(PANIC, said).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(6), "{place}: {:?}, {said}", output.status);
        assert!(said.contains("a defect") && said.contains("defect of the program"), "{place}: {said}");
        assert!(!said.contains("it went on"), "{place}: {said}");
    }
}

#[test]
fn io_threads_are_started_once() {
    run(START, async |tool| {
        let two = tool.io_threads(2)?;
        let three = tool.io_threads(3)?;
        assert_eq!(two[..], three[..2]);
        assert_eq!(tool.io_threads(1000)?.len(), THREADS_MAX - 1);
        for (index, thread) in three.iter().enumerate() {
            let shard = thread.call(|local| async move { local.shard().index() }).await?;
            assert_eq!(shard, index + 1);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn secrets_are_defined_once_and_nothing_else_is() {
    let mut secrets = Secrets::default();
    let mut fault = |text: &str| secrets.define(text.as_ref()).map_err(|error| error.report()).err();
    assert_eq!(fault("secret,id=a,data=xyz"), None);
    assert_eq!(fault("qom-type=secret,id=b,data=eHl6,format=base64"), None);
    assert_eq!(fault(r#"{"qom-type": "secret", "id": "c", "data": "x"}"#), None);
    for (text, expected) in [
        ("secret,id=a,data=1", "'a' already"),
        ("secret,data=1", "'id'"),
        ("secret,id=z", "'data' or 'file'"),
        ("secret,id=z,data=1,file=2", "either"),
        ("secret,id=z,file=/nonexistent/x", "/nonexistent/x"),
        ("secret,id=z,data=1,foo=2", "foo"),
        ("iothread,id=z", "'iothread'"),
    ] {
        assert!(fault(text).unwrap().contains(expected), "{text}");
    }
}

#[test]
fn whoever_asks_what_can_be_defined_is_told() {
    let asked = |text: &str| {
        let error = Secrets::default().define(text.as_ref()).unwrap_err();
        help_in(&error).unwrap_or_default().to_owned()
    };
    assert!(asked("help").starts_with("List of user creatable objects:\n  authz-list\n"));
    assert_eq!(asked("foo,?"), asked("help"));
    assert_eq!(asked("authz-simple,id=x,help"), "authz-simple options:\n  identity=<string>\n");
    assert_eq!(asked("qom-type=authz-simple,help"), asked("authz-simple,?"));
    assert_eq!(asked("secret,id=help"), "");
}

#[test]
fn cache_modes_have_names() {
    for name in ["none", "off", "writeback", "unsafe", "writethrough", "directsync"] {
        assert!(CacheMode::named(name).is_some());
    }
    assert_eq!(CacheMode::named("foo"), None);
}

#[test]
fn a_disk_that_only_looks_raw_keeps_looking_raw() {
    let folder = Folder::new("probed");
    let path = folder.file("disk", &[0; 4096]);
    run(START, async |tool| {
        let disk = tool.open_writer(&ImageArgs::of(&path, None), false).await?;
        let mut lane = tool.lane();
        let mut write = async |at: u64, bytes: &[u8]| {
            let mut ticket = lane.enter(&disk.backend).await;
            ticket.write(GuestOffset::checked(at).unwrap(), Buf::copy_of(bytes), disk.flags).await.0
        };
        write(0, b"QFI").await?;
        write(1000, &[9; 3000]).await?;
        let error = write(3, b"\xfb\0\0\0\x03").await.unwrap_err();
        assert_eq!(error.kind(), Kind::PermissionDenied);
        write(0, b"QFJ\xfb\0\0\0\x03").await
    })
    .unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[..8], *b"QFJ\xfb\0\0\0\x03");
    assert_eq!((bytes[999], bytes[1000], bytes[3999], bytes[4000]), (0, 9, 9, 0));
}
