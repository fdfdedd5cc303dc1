//! New images.

use drystone_base::Kind;
use drystone_blockdev::create::CreateRequest;
use drystone_blockdev::formats::BackingName;
use drystone_blockdev::options::Options;

use crate::host::{Folder, LEN, create, new_image, on_control, open, overlay, request, tool_says};

fn with(text: &str) -> Options {
    Options::from_json(text).unwrap()
}

#[test]
fn a_new_raw_image_has_whole_sectors() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.path("disk");
        create(task, CreateRequest { len_bytes: 1000, ..new_image(&path, "raw") }).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [0; 1024]);
        let full = with(r#"{"preallocation": "full"}"#);
        create(task, CreateRequest { options: full, ..new_image(&path, "raw") }).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), LEN);
    });
}

#[test]
fn a_new_qcow2_image_is_one_for_the_c_tool_too() {
    on_control(async |task| {
        let folder = Folder::new();
        folder.raw("base", b"base");
        for options in [
            "{}",
            r#"{"compat": "0.10"}"#,
            r#"{"cluster_size": "4k", "refcount_bits": 1}"#,
            r#"{"cluster_size": 2097152, "compression_type": "zstd", "lazy_refcounts": "on"}"#,
        ] {
            let path = folder.path("disk");
            let backing = Some(BackingName { name: "base".into(), format: Some("raw".into()) });
            let request = CreateRequest { backing, options: with(options), ..new_image(&path, "qcow2") };
            create(task, request).await.unwrap();
            let name = path.to_str().unwrap();
            if let Some(text) = tool_says("qemu-img", &["info", "--output=json", "-f", "qcow2", name]) {
                assert!(text.contains(r#""backing-filename": "base""#), "{text}");
                assert!(text.contains(r#""backing-filename-format": "raw""#), "{text}");
                tool_says("qemu-img", &["check", "-q", "-f", "qcow2", name]).unwrap();
                let read = ["-r", "-f", "qcow2", "-c", "read -P 0x62 0 1", name];
                assert!(!tool_says("qemu-io", &read).unwrap().contains("failed"));
            }
            let image = open(task, &self::request(&path)).await.unwrap();
            image.write(task, 70_000, b"x").await.unwrap();
            assert_eq!(image.read(task, 0, 4).await, b"base");
            image.close(task).await;
            tool_says("qemu-img", &["check", "-q", "-f", "qcow2", name]);
        }
    });
}

#[test]
fn wrong_options_are_told_before_a_file_is_touched() {
    on_control(async |task| {
        let folder = Folder::new();
        let old = folder.path("old");
        std::fs::write(&old, b"old").unwrap();
        let attempts = [
            ("raw", r#"{"bogus": 1}"#, Kind::InvalidInput),
            ("raw", r#"{"preallocation": "metadata"}"#, Kind::InvalidInput),
            ("raw", r#"{"cluster_size": 65536}"#, Kind::InvalidInput),
            ("qcow2", r#"{"cluster_size": 1000}"#, Kind::InvalidInput),
            ("qcow2", r#"{"compat": "2"}"#, Kind::InvalidInput),
            ("qcow2", r#"{"compat": "0.10", "refcount_bits": 1}"#, Kind::InvalidInput),
            ("qcow2", r#"{"preallocation": "full"}"#, Kind::Unsupported),
            ("vmdk", "{}", Kind::Unsupported),
        ];
        for (format, options, kind) in attempts {
            for path in [&old, &folder.path("new")] {
                let request = CreateRequest { options: with(options), ..new_image(path, format) };
                assert_eq!(create(task, request).await.unwrap_err().kind(), kind, "{format} {options}");
            }
        }
        let huge = CreateRequest { len_bytes: u64::MAX, ..new_image(&old, "qcow2") };
        assert_eq!(create(task, huge).await.unwrap_err().kind(), Kind::InvalidInput);
        let backing = Some(BackingName { name: "x".into(), format: None });
        for format in ["raw", "qcow2"] {
            let request = CreateRequest { backing: backing.clone(), ..new_image(&old, format) };
            assert!(create(task, request).await.is_err());
        }
        assert_eq!(std::fs::read(&old).unwrap(), b"old");
        assert_eq!(folder.names(), ["old"]);
    });
}

#[test]
fn an_image_in_use_is_not_made_anew() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.path("disk");
        overlay(task, &path, None).await;
        let image = open(task, &request(&path)).await.unwrap();
        image.write(task, 0, b"data").await.unwrap();
        assert_eq!(create(task, new_image(&path, "raw")).await.unwrap_err().kind(), Kind::InUse);
        assert_eq!(image.read(task, 0, 4).await, b"data");
    });
}

#[test]
fn images_are_made_in_files() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = format!("file:{}", folder.path("disk").display());
        create(task, new_image(&path, "qcow2")).await.unwrap();
        open(task, &request(&path)).await.unwrap();
        for name in ["json:{}", "nbd://host"] {
            assert_eq!(create(task, new_image(name, "raw")).await.unwrap_err().kind(), Kind::Unsupported);
        }
    });
}
