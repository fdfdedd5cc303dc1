//! Formats that nobody named.

use drystone_base::Kind;
use drystone_blockdev::report::Warning;
use drystone_blockdev::request::OpenRequest;
use drystone_blockdev::settings::Settings;

use crate::host::{Folder, on_control, open, overlay, read_only, request};

fn auto(path: &std::path::Path) -> OpenRequest {
    let settings = Settings { auto_read_only: true, ..Settings::default() };
    OpenRequest { settings, ..request(path) }
}

#[test]
fn qcow2_is_recognised_and_written() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.path("disk");
        overlay(task, &path, None).await;
        let image = open(task, &request(&path)).await.unwrap();
        assert_eq!((image.formats(), image.layers[0].is_probed), (vec!["qcow2"], true));
        image.write(task, 0, b"hello").await.unwrap();
        image.close(task).await;
        let image = open(task, &read_only(&path)).await.unwrap();
        assert_eq!(image.read(task, 0, 6).await, b"hello\0");
    });
}

#[test]
fn what_only_looks_raw_is_not_written() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.raw("disk", b"data");
        let error = open(task, &request(&path)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.option(), error.path()),
            (Kind::InvalidInput, Some("format"), Some(&*path))
        );
        let image = open(task, &read_only(&path)).await.unwrap();
        assert_eq!(image.read(task, 0, 5).await, b"data\0");
        assert!(image.warnings.is_empty());
        image.close(task).await;
        let image = open(task, &auto(&path)).await.unwrap();
        assert_eq!(image.warnings, [Warning::ReadOnlyProbedRaw { path: path.clone() }]);
        assert_eq!(image.write(task, 0, b"x").await.unwrap_err().kind(), Kind::ReadOnly);
        image.close(task).await;
        let said = OpenRequest { format: Some("raw".into()), ..request(&path) };
        let image = open(task, &said).await.unwrap();
        image.write(task, 0, b"x").await.unwrap();
    });
}

#[test]
fn what_a_user_says_is_not_probed() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.path("disk");
        overlay(task, &path, None).await;
        let said = OpenRequest { format: Some("raw".into()), ..request(&path) };
        let image = open(task, &said).await.unwrap();
        assert_eq!((image.formats(), image.layers[0].is_probed), (vec!["raw"], false));
        assert_eq!(image.read(task, 0, 4).await, b"QFI\xfb");
        image.close(task).await;
        let raw = folder.raw("raw", b"data");
        let said = OpenRequest { format: Some("qcow2".into()), ..request(&raw) };
        assert_eq!(open(task, &said).await.unwrap_err().kind(), Kind::InvalidImage);
        let unknown = OpenRequest { format: Some("vmdk".into()), ..request(&raw) };
        let error = open(task, &unknown).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.report().contains("known: raw, qcow2"), "{}", error.report());
    });
}

#[test]
fn empty_and_short_files_are_raw() {
    on_control(async |task| {
        let folder = Folder::new();
        for (name, bytes) in [("a", &b""[..]), ("b", b"QFI"), ("c", b"\0QFI\xfb\0\0\0\x02")] {
            let path = folder.path(name);
            std::fs::write(&path, bytes).unwrap();
            let image = open(task, &read_only(&path)).await.unwrap();
            assert_eq!(image.formats(), ["raw"]);
        }
    });
}

#[test]
fn a_format_that_is_not_supported_is_not_taken_for_raw() {
    on_control(async |task| {
        let folder = Folder::new();
        for (name, bytes) in [("vmdk", &b"KDMV"[..]), ("qcow", b"QFI\xfb\0\0\0\x01"), ("vhdx", b"vhdxfile")] {
            let path = folder.raw(name, bytes);
            let error = open(task, &read_only(&path)).await.unwrap_err();
            assert_eq!((error.kind(), error.path()), (Kind::Unsupported, Some(&*path)));
            assert!(error.report().contains(&format!("a {name} image")), "{}", error.report());
            let said = OpenRequest { format: Some("raw".into()), ..read_only(&path) };
            open(task, &said).await.unwrap();
        }
    });
}

#[test]
fn an_image_that_its_format_lets_nobody_write_is_read_if_the_user_agrees() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.path("disk");
        overlay(task, &path, None).await;
        // Specification "Header": incompatible features; bit 1 is the corrupt bit.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[79] |= 2;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(open(task, &request(&path)).await.unwrap_err().kind(), Kind::ReadOnly);
        let image = open(task, &auto(&path)).await.unwrap();
        let [Warning::ReadOnlyImage { path: named, reason }] = &image.warnings[..] else {
            panic!("{:?}", image.warnings)
        };
        assert_eq!(*named, path);
        assert!(reason.contains("corrupt"), "{reason}");
        assert_eq!(image.read(task, 0, 4).await, [0; 4]);
        assert_eq!(image.write(task, 0, b"x").await.unwrap_err().kind(), Kind::ReadOnly);
    });
}

#[test]
fn a_backing_file_without_a_format_is_probed_with_a_warning() {
    on_control(async |task| {
        let folder = Folder::new();
        let base = folder.path("base");
        overlay(task, &base, None).await;
        let top = folder.path("top");
        overlay(task, &top, Some(("base", "raw"))).await;
        // Specification "Header extensions": another number makes the format's name something unknown.
        let mut bytes = std::fs::read(&top).unwrap();
        let at = bytes.windows(4).position(|word| word == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
        bytes[at..at + 4].copy_from_slice(b"none");
        std::fs::write(&top, bytes).unwrap();
        let image = open(task, &request(&top)).await.unwrap();
        assert_eq!(image.formats(), ["qcow2", "qcow2"]);
        assert_eq!(image.warnings, [Warning::ProbedBacking { path: base, format_name: "qcow2" }]);
        assert_eq!(image.layers[0].backing.as_ref().unwrap().format, None);
    });
}

#[test]
fn warnings_say_which_file_they_are_about() {
    let path = std::path::PathBuf::from("/x/disk");
    let warnings = [
        Warning::ReadOnlyFile { path: path.clone() },
        Warning::ReadOnlyProbedRaw { path: path.clone() },
        Warning::ReadOnlyImage { path: path.clone(), reason: "it is damaged".into() },
        Warning::FragileLocks { path: path.clone() },
        Warning::ProbedBacking { path, format_name: "raw" },
    ];
    for warning in warnings {
        assert!(warning.to_string().starts_with("'/x/disk': "), "{warning}");
    }
}
