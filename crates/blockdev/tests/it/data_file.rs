//! Images whose data is in a file of its own: who names it, what it may be, and what a reopen does.

use std::path::Path;

use drystone_base::Kind;
use drystone_blockdev::create::CreateRequest;
use drystone_blockdev::options::Options;
use drystone_blockdev::policy::BackingPolicy;
use drystone_core::control::Task;

use crate::draft::{add, del, options, reopen, report};
use crate::host::{
    Folder, Image, create, json, new_image, on_control, open, open_files, open_with, read_only, request,
    tool_says,
};

fn data(name: &Path, more: &str) -> Options {
    options(&format!(r#"{{"data_file":"{}"{more}}}"#, name.display()))
}

/// An image at `image` with its data at `data`.
async fn make(task: &Task<'_>, image: &Path, name: &Path, more: &str) {
    create(task, CreateRequest { options: data(name, more), ..new_image(image, "qcow2") }).await.unwrap();
}

async fn written(task: &mut Task<'_>, image: Image) {
    image.write(task, 300_000, b"data").await.unwrap();
    assert_eq!(image.read(task, 300_000, 4).await, b"data");
    image.close(task).await;
}

#[test]
fn data_goes_to_the_file_that_the_image_names() {
    on_control(async |task| {
        let folder = Folder::new();
        let (image, data) = (folder.path("image"), folder.path("data"));
        for raw in ["", r#","data_file_raw":true"#] {
            make(task, &image, &data, raw).await;
            let opened = open(task, &request(&image)).await.unwrap();
            written(task, opened).await;
            assert_eq!(std::fs::read(&data).unwrap()[300_000..300_004], *b"data");
            let check = tool_says("qemu-img", &["check", image.to_str().unwrap()]);
            assert!(check.is_none_or(|said| said.contains("No errors")));
            let args =
                ["compare", "-f", "raw", "-F", "qcow2", data.to_str().unwrap(), image.to_str().unwrap()];
            tool_says("qemu-img", &args);
            assert!(open_files(&folder).is_empty());
        }
    });
}

#[test]
fn what_is_said_of_the_data_file_comes_before_its_name() {
    on_control(async |task| {
        let folder = Folder::new();
        let (image, data, moved) = (folder.path("image"), folder.path("data"), folder.path("moved"));
        make(task, &image, &data, "").await;
        std::fs::rename(&data, &moved).unwrap();
        let missing = open(task, &request(&image)).await.unwrap_err();
        assert!(missing.kind() == Kind::NotFound && missing.report().contains("data file"), "{missing:?}");
        let said = format!(
            r#"{{"driver":"qcow2","file.filename":"{}","data-file.filename":"{}"}}"#,
            image.display(),
            moved.display()
        );
        let opened = open(task, &json(&said)).await.unwrap();
        written(task, opened).await;
        assert_eq!(std::fs::read(&moved).unwrap()[300_000..300_004], *b"data");
        // An image without one has no use for it.
        create(task, new_image(folder.path("plain"), "qcow2")).await.unwrap();
        let plain = said.replace(image.to_str().unwrap(), folder.path("plain").to_str().unwrap());
        let refused = open(task, &json(&plain)).await.unwrap_err();
        assert_eq!((refused.kind(), refused.option()), (Kind::InvalidInput, Some("data-file")));
        assert!(open_files(&folder).is_empty());
    });
}

#[test]
fn an_image_names_no_data_file_outside_of_its_folder() {
    on_control(async |task| {
        let folder = Folder::new();
        std::fs::create_dir(folder.path("jail")).unwrap();
        let image = folder.path("jail/image");
        let secret = folder.raw("secret", b"secret");
        let json = format!(r#"json:{{"driver":"file","filename":"{}"}}"#, secret.display());
        for (name, policy, expected) in [
            (secret.as_path(), BackingPolicy::OnlyBelow(folder.path("jail")), Kind::PermissionDenied),
            (&folder.path("jail/data"), BackingPolicy::Deny, Kind::PermissionDenied),
            // Options are no path.
            (Path::new(&json), BackingPolicy::Allow, Kind::NotFound),
        ] {
            make(task, &image, &folder.path("jail/data"), "").await;
            rename(&image, name);
            for opening in [request(&image), read_only(&image)] {
                let error = open_with(policy.clone(), task, &opening).await.unwrap_err();
                assert_eq!(error.kind(), expected, "{}: {}", name.display(), error.report());
            }
        }
        make(task, &image, &folder.path("jail/data"), "").await;
        let inside = open_with(BackingPolicy::OnlyBelow(folder.path("jail")), task, &request(&image)).await;
        written(task, inside.unwrap()).await;
        assert!(std::fs::read(&secret).unwrap().starts_with(b"secret"));
    });
}

/// Makes the image name another data file; its header has room.
fn rename(image: &Path, name: &Path) {
    use std::os::unix::ffi::OsStrExt;
    let mut bytes = std::fs::read(image).unwrap();
    let at = bytes.windows(4).position(|word| word == b"DATA").unwrap();
    let name = name.as_os_str().as_bytes();
    bytes[at + 4..at + 8].copy_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
    let end = at + 8 + name.len().next_multiple_of(8);
    bytes[at + 8..end + 8].fill(0);
    bytes[at + 8..at + 8 + name.len()].copy_from_slice(name);
    std::fs::write(image, bytes).unwrap();
}

#[test]
fn the_image_and_its_data_have_a_file_each() {
    on_control(async |task| {
        let folder = Folder::new();
        let image = folder.path("image");
        let same = CreateRequest { options: data(&image, ""), ..new_image(&image, "qcow2") };
        assert_eq!(create(task, same).await.unwrap_err().kind(), Kind::InvalidInput);
        make(task, &image, &folder.path("data"), "").await;
        rename(&image, &image);
        assert_eq!(open(task, &request(&image)).await.unwrap_err().kind(), Kind::InUse);
    });
}

#[test]
fn a_reopen_keeps_the_data_file_and_changes_its_mode() {
    on_control(async |task| {
        let folder = Folder::new();
        make(task, &folder.path("image"), &folder.path("data"), "").await;
        let text = format!(
            r#"{{"driver":"qcow2","node-name":"top","file":{{"driver":"file","filename":"{}"}},"data-file":{{"driver":"file","node-name":"data","filename":"{}"}}}}"#,
            folder.path("image").display(),
            folder.path("data").display()
        );
        add(task, &text).await.unwrap();
        let with = |more: &str| format!("{},{more}}}", text.strip_suffix('}').unwrap());
        reopen(task, &[&with(r#""read-only":true"#)]).await.unwrap();
        assert!(report(task, "data").read_only);
        reopen(task, &[&text]).await.unwrap();
        assert!(!report(task, "data").read_only);
        let by_name = text.split(r#","data-file""#).next().unwrap().to_owned() + r#","data-file":"data"}"#;
        reopen(task, &[&by_name]).await.unwrap();
        let other = folder.raw("other", b"");
        add(task, &format!(r#"{{"driver":"file","node-name":"other","filename":"{}"}}"#, other.display()))
            .await
            .unwrap();
        let refused = reopen(task, &[&by_name.replace(r#":"data"}"#, r#":"other"}"#)]).await.unwrap_err();
        assert_eq!((refused.kind(), refused.option()), (Kind::InvalidInput, Some("data-file")));
        del(task, "top").await.unwrap();
    });
}
