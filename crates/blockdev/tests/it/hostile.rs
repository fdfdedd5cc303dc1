//! What images may make us open.

use drystone_base::Kind;
use drystone_blockdev::policy::BackingPolicy;
use drystone_core::control::Task;

use crate::host::{Folder, on_control, open, open_files, open_with, overlay, read_only, request, tool_says};

/// What becomes of an image that names `backing`.
async fn verdict(
    task: &mut Task<'_>,
    folder: &Folder,
    policy: &BackingPolicy,
    backing: (&str, &str),
) -> Kind {
    overlay(task, &folder.path("jail/top"), Some(backing)).await;
    match open_with(policy.clone(), task, &request(folder.path("jail/top"))).await {
        Err(error) => {
            assert!(open_files(folder).is_empty());
            error.kind()
        }
        Ok(image) => {
            image.close(task).await;
            panic!("{backing:?} was opened")
        }
    }
}

#[test]
fn an_image_reaches_nothing_outside_of_its_folder() {
    on_control(async |task| {
        let folder = Folder::new();
        std::fs::create_dir_all(folder.path("jail/sub")).unwrap();
        std::fs::create_dir(folder.path("jailer")).unwrap();
        let secret = folder.raw("secret", b"secret");
        folder.raw("jailer/secret", b"secret");
        folder.raw("jail/sub/base", b"base");
        std::os::unix::fs::symlink(&secret, folder.path("jail/link")).unwrap();
        std::os::unix::fs::symlink("..", folder.path("jail/sub/up")).unwrap();
        std::os::unix::fs::symlink("/", folder.path("jail/root")).unwrap();
        let policy = BackingPolicy::OnlyBelow(folder.path("jail"));
        let absolute = secret.display().to_string();
        let json = format!(r#"json:{{"driver": "raw", "file.filename": "{absolute}"}}"#);
        let in_json = format!(
            r#"json:{{"driver": "qcow2", "file.filename": "{}/jail/sub/x", "backing": {{"driver": "raw", "file.filename": "{absolute}"}}}}"#,
            folder.path("").display()
        );
        overlay(task, &folder.path("jail/sub/x"), None).await;
        for name in [
            absolute.as_str(),
            "../secret",
            "link",
            "sub/up/../secret",
            "../jailer/secret",
            &format!("root{absolute}"),
            &format!("file:{absolute}"),
            &json,
            &in_json,
            "/dev/null",
            "/proc/self/fd/0",
        ] {
            // The format in the header counts, not the driver in the name.
            let format = if name == in_json { "qcow2" } else { "raw" };
            let verdict = verdict(task, &folder, &policy, (name, format)).await;
            assert_eq!(verdict, Kind::PermissionDenied, "{name}");
        }
        for (name, format) in [("sub/base", "raw"), ("sub/up/sub/base", "raw"), ("../jail/sub/base", "raw")] {
            overlay(task, &folder.path("jail/top"), Some((name, format))).await;
            let image = open_with(policy.clone(), task, &request(folder.path("jail/top"))).await.unwrap();
            assert_eq!(image.read(task, 0, 4).await, b"base", "{name}");
            image.close(task).await;
        }
    });
}

#[test]
fn the_folder_may_itself_be_a_link() {
    on_control(async |task| {
        let folder = Folder::new();
        std::fs::create_dir(folder.path("jail")).unwrap();
        folder.raw("jail/base", b"base");
        std::os::unix::fs::symlink("jail", folder.path("alias")).unwrap();
        overlay(task, &folder.path("jail/top"), Some(("base", "raw"))).await;
        for name in ["jail", "alias"] {
            let policy = BackingPolicy::OnlyBelow(folder.path(name));
            let image = open_with(policy, task, &request(folder.path("jail/top"))).await.unwrap();
            assert_eq!(image.read(task, 0, 4).await, b"base");
            image.close(task).await;
        }
        let gone = BackingPolicy::OnlyBelow(folder.path("gone"));
        assert_eq!(verdict(task, &folder, &gone, ("base", "raw")).await, Kind::NotFound);
    });
}

#[test]
fn with_all_names_denied_only_images_without_any_are_opened() {
    on_control(async |task| {
        let folder = Folder::new();
        std::fs::create_dir(folder.path("jail")).unwrap();
        folder.raw("jail/base", b"base");
        assert_eq!(
            verdict(task, &folder, &BackingPolicy::Deny, ("base", "raw")).await,
            Kind::PermissionDenied
        );
        overlay(task, &folder.path("alone"), None).await;
        open_with(BackingPolicy::Deny, task, &request(folder.path("alone"))).await.unwrap();
        // What a user names is no business of the policy.
        let file = folder.path("jail/base").display().to_string();
        let top = folder.path("jail/top").display().to_string();
        let chain = format!(
            r#"json:{{"driver": "qcow2", "file.filename": "{top}", "backing": {{"driver": "raw", "file.filename": "{file}"}}}}"#
        );
        open_with(BackingPolicy::Deny, task, &request(chain)).await.unwrap();
    });
}

#[test]
fn only_files_are_named_under_a_policy() {
    on_control(async |task| {
        let folder = Folder::new();
        std::fs::create_dir(folder.path("jail")).unwrap();
        let policy = BackingPolicy::OnlyBelow(folder.path("jail"));
        for driver in ["null-co", "null-aio", "memory"] {
            let name = format!(r#"json:{{"driver": "raw", "file": {{"driver": "{driver}", "size": 512}}}}"#);
            assert_eq!(
                verdict(task, &folder, &policy, (&name, "raw")).await,
                Kind::PermissionDenied,
                "{driver}"
            );
        }
    });
}

#[test]
fn an_image_does_not_decide_how_the_graph_is_used() {
    on_control(async |task| {
        let folder = Folder::new();
        std::fs::create_dir(folder.path("jail")).unwrap();
        let base = folder.raw("base", b"base").display().to_string();
        let node = r#"json:{"driver": "raw", "file": "somebody's node"}"#;
        assert_eq!(
            verdict(task, &folder, &BackingPolicy::Allow, (node, "raw")).await,
            Kind::PermissionDenied
        );
        let name = format!(
            r#"json:{{"driver": "raw", "node-name": "mine", "read-only": false, "file": {{"driver": "file", "node-name": "mine2", "read-only": "off", "filename": "{base}"}}}}"#
        );
        overlay(task, &folder.path("top"), Some((&name, "raw"))).await;
        let image = open(task, &request(folder.path("top"))).await.unwrap();
        let nodes = task.gs().with(|graph| graph.nodes());
        assert!(nodes.iter().all(|node| node.name.starts_with('#')), "{nodes:?}");
        let below: Vec<bool> =
            nodes.iter().filter(|node| node.len == crate::host::LEN).map(|node| node.read_only).collect();
        assert_eq!(below.iter().filter(|read_only| !**read_only).count(), 1, "the overlay alone");
        image.close(task).await;
    });
}

#[test]
fn one_file_cannot_pose_as_a_thousand_images() {
    on_control(async |task| {
        let folder = Folder::new();
        std::fs::create_dir(folder.path("jail")).unwrap();
        // Every 64 KiB another header, whose backing file is the next window; the tables of all of them overlap.
        let path = folder.path("jail/many");
        let mut bytes = Vec::new();
        for n in 1..=32_u64 {
            let next = format!(
                r#"json:{{"driver": "qcow2", "file": {{"driver": "raw", "offset": {}, "file.filename": "{}"}}}}"#,
                n * 65536,
                path.display()
            );
            let one = folder.path("one");
            overlay(task, &one, Some((&next, "qcow2"))).await;
            let mut header = std::fs::read(&one).unwrap();
            header.truncate(65536);
            bytes.extend(header);
        }
        bytes.resize(64 * 65536, 0);
        std::fs::write(&path, bytes).unwrap();
        for policy in [BackingPolicy::Allow, BackingPolicy::OnlyBelow(folder.path("jail"))] {
            let error = open_with(policy, task, &read_only(&path)).await.unwrap_err();
            assert_eq!(error.kind(), Kind::TooLarge, "{}", error.report());
        }
        assert!(open_files(&folder).is_empty());
    });
}

#[test]
fn an_image_does_not_set_the_size_of_caches() {
    on_control(async |task| {
        let folder = Folder::new();
        std::fs::create_dir(folder.path("jail")).unwrap();
        overlay(task, &folder.path("base"), None).await;
        let base = folder.path("base").display().to_string();
        let name = format!(r#"json:{{"driver": "qcow2", "l2-cache-size": "1E", "file.filename": "{base}"}}"#);
        let allow = BackingPolicy::Allow;
        assert_eq!(verdict(task, &folder, &allow, (&name, "qcow2")).await, Kind::PermissionDenied);
        let own =
            r#"{"driver": "qcow2", "l2-cache-size": "64k", "file.filename": "BASE"}"#.replace("BASE", &base);
        open(task, &crate::host::json(&own)).await.unwrap();
    });
}

#[test]
fn names_that_make_no_sense_are_errors() {
    on_control(async |task| {
        let folder = Folder::new();
        std::fs::create_dir(folder.path("jail")).unwrap();
        let deep = format!("json:{{\"{}x\": 1}}", "a.".repeat(450));
        for (name, kind) in [
            ("json:{", Kind::InvalidInput),
            ("json:[]", Kind::InvalidInput),
            ("json:{}", Kind::InvalidInput),
            (deep.as_str(), Kind::InvalidInput),
            (r#"json:{"driver": "raw"}"#, Kind::InvalidInput),
            (r#"json:{"driver": "raw", "file": null}"#, Kind::InvalidInput),
            (r#"json:{"driver": "raw", "file": {}}"#, Kind::InvalidInput),
            (r#"json:{"driver": "raw", "file.filename": ""}"#, Kind::InvalidInput),
            // The format in the header counts, not the driver in the name.
            (r#"json:{"driver": "nothing", "file.filename": "x"}"#, Kind::NotFound),
            (r#"json:{"file.driver": "nothing", "file.filename": "x"}"#, Kind::InvalidInput),
            (r#"json:{"driver": "raw", "file.filename": "one\u0000two"}"#, Kind::InvalidInput),
            (r#"json:{"driver": "raw", "size": 1, "size": 2, "file.filename": "x"}"#, Kind::InvalidInput),
            ("ssh://host/export", Kind::Unsupported),
            ("file:", Kind::InvalidInput),
            ("a/../../../../../../../../../no/such/file", Kind::NotFound),
            ("/", Kind::InvalidInput),
            (".", Kind::InvalidInput),
        ] {
            assert_eq!(verdict(task, &folder, &BackingPolicy::Allow, (name, "raw")).await, kind, "{name}");
        }
    });
}

#[test]
fn hostile_images_of_the_c_tool_are_refused_the_same() {
    on_control(async |task| {
        let folder = Folder::new();
        let base = folder.raw("secret", b"secret");
        let top = folder.path("top");
        let made = tool_says(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                base.to_str().unwrap(),
                top.to_str().unwrap(),
            ],
        );
        if made.is_none() {
            return;
        }
        let image = open(task, &read_only(&top)).await.unwrap();
        assert_eq!(image.read(task, 0, 6).await, b"secret");
        image.close(task).await;
        std::fs::create_dir(folder.path("jail")).unwrap();
        let jail = BackingPolicy::OnlyBelow(folder.path("jail"));
        let error = open_with(jail, task, &read_only(&top)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::PermissionDenied);
        assert!(error.report().contains("is not below"), "{}", error.report());
    });
}
