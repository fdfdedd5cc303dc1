//! Chains of backing files: names, overrides, lengths, loops.

use drystone_base::Kind;
use drystone_blockdev::open::LAYERS_MAX;
use drystone_blockdev::request::{BackingChoice, OpenRequest};
use drystone_blockdev::settings::Settings;
use drystone_core::control::Task;

use crate::host::{
    Folder, Image, LEN, json, on_control, open, open_files, overlay, read_only, request, tool,
};

/// Bytes of a cluster of the images that are made here.
const CLUSTER: u64 = 65536;

/// `top` on `middle` on raw `base`, each with a cluster of its own.
async fn three_layers(task: &mut Task<'_>, folder: &Folder) {
    folder.raw("base", &[b'b'; 3 * 65536]);
    overlay(task, &folder.path("middle"), Some(("base", "raw"))).await;
    overlay(task, &folder.path("top"), Some(("middle", "qcow2"))).await;
    for (name, at) in [("middle", 1), ("top", 2)] {
        let image = open(task, &request(folder.path(name))).await.unwrap();
        image.write(task, at * CLUSTER, &name.as_bytes()[..1]).await.unwrap();
        image.close(task).await;
    }
}

/// The first byte of each of the first three clusters.
async fn clusters(task: &mut Task<'_>, image: &Image) -> String {
    let mut text = String::new();
    for n in 0..3 {
        text.push(char::from(image.read(task, n * CLUSTER, 1).await[0]));
    }
    text
}

/// The first bytes.
async fn bytes(task: &mut Task<'_>, image: &Image) -> String {
    String::from_utf8(image.read(task, 0, 4).await).unwrap()
}

#[test]
fn every_layer_shows_through_the_ones_above() {
    on_control(async |task| {
        let folder = Folder::new();
        three_layers(task, &folder).await;
        let image = open(task, &request(folder.path("top"))).await.unwrap();
        assert_eq!(clusters(task, &image).await, "bmt");
        assert_eq!(image.formats(), ["qcow2", "qcow2", "raw"]);
        let paths: Vec<_> = image.layers.iter().map(|layer| layer.path.clone().unwrap()).collect();
        assert_eq!(paths, [folder.path("top"), folder.path("middle"), folder.path("base")]);
        let nodes = task.gs().with(|graph| graph.nodes());
        let writable: Vec<_> =
            nodes.iter().filter(|node| !node.read_only).map(|node| node.format_name).collect();
        assert_eq!(writable, ["file", "qcow2"], "only the top can be written");
        assert_eq!(image.layers[0].backing.as_ref().unwrap().name, "middle");
        assert_eq!(image.layers[0].backing_path(), Some(folder.path("middle")));
        assert_eq!(image.layers[2].backing_path(), None);
        image.close(task).await;
        assert!(open_files(&folder).is_empty());
        assert!(task.gs().with(|graph| graph.nodes()).is_empty());
    });
}

#[test]
fn a_user_can_put_something_else_behind_an_image() {
    on_control(async |task| {
        let folder = Folder::new();
        three_layers(task, &folder).await;
        let other = folder.raw("other", &[b'o'; 3 * 65536]);
        let choose = |backing| OpenRequest { backing, ..request(folder.path("top")) };
        let image = open(task, &choose(BackingChoice::None)).await.unwrap();
        assert_eq!(clusters(task, &image).await, "\0\0t");
        assert_eq!(image.layers.len(), 1);
        assert_eq!(image.layers[0].backing.as_ref().unwrap().name, "middle", "it is told all the same");
        image.close(task).await;

        let named = BackingChoice::Name { name: other.clone().into(), format: Some("raw".into()) };
        let image = open(task, &choose(named)).await.unwrap();
        assert_eq!(clusters(task, &image).await, "oot");
        image.close(task).await;

        let below = OpenRequest { owned: true, node_name: Some("below".into()), ..read_only(&other) };
        let below = open(task, &below).await.unwrap();
        let image = open(task, &choose(BackingChoice::Node(below.top))).await.unwrap();
        assert_eq!(clusters(task, &image).await, "oot");
        let parents = task.gs().with(|graph| graph.parents_of(below.top));
        assert_eq!(parents.len(), 2);
    });
}

#[test]
fn a_backing_file_that_is_missing_is_told_with_the_image_that_names_it() {
    on_control(async |task| {
        let folder = Folder::new();
        three_layers(task, &folder).await;
        std::fs::remove_file(folder.path("base")).unwrap();
        let error = open(task, &request(folder.path("top"))).await.unwrap_err();
        assert_eq!((error.kind(), error.path()), (Kind::NotFound, Some(&*folder.path("middle"))));
        let report = error.report();
        let base = folder.path("base").display().to_string();
        assert!(report.contains("cannot open its backing file") && report.contains(&base), "{report}");
        assert!(open_files(&folder).is_empty(), "what had been opened is closed");
        assert!(task.gs().with(|graph| graph.nodes()).is_empty());
    });
}

#[test]
fn names_are_relative_to_the_folder_of_the_image_that_has_them() {
    on_control(async |task| {
        let folder = Folder::new();
        std::fs::create_dir(folder.path("sub")).unwrap();
        std::fs::create_dir(folder.path("links")).unwrap();
        folder.raw("sub/base", b"data");
        overlay(task, &folder.path("top"), Some(("sub/middle", "qcow2"))).await;
        overlay(task, &folder.path("sub/middle"), Some(("base", "raw"))).await;
        let image = open(task, &request(folder.path("top"))).await.unwrap();
        assert_eq!(bytes(task, &image).await, "data");
        image.close(task).await;

        // As a name is written, not as links lead: the same as the C tools do.
        std::os::unix::fs::symlink(folder.path("sub/middle"), folder.path("links/middle")).unwrap();
        let error = open(task, &request(folder.path("links/middle"))).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        folder.raw("links/base", b"link");
        let image = open(task, &request(folder.path("links/middle"))).await.unwrap();
        assert_eq!(bytes(task, &image).await, "link");
    });
}

#[test]
fn a_long_chain_is_opened_and_read() {
    on_control(async |task| {
        let folder = Folder::in_memory();
        folder.raw("0", b"deep");
        for n in 1..=300_u32 {
            let format = if n == 1 { "raw" } else { "qcow2" };
            overlay(task, &folder.path(&n.to_string()), Some((&(n - 1).to_string(), format))).await;
        }
        let image = open(task, &request(folder.path("300"))).await.unwrap();
        assert_eq!(image.layers.len(), 301);
        assert_eq!(bytes(task, &image).await, "deep");
        image.close(task).await;
        assert!(open_files(&folder).is_empty());
    });
}

#[test]
fn a_chain_that_is_too_long_is_refused() {
    on_control(async |task| {
        let folder = Folder::in_memory();
        let pid = std::process::id().to_string();
        let more = tool("prlimit", &["--pid", &pid, "--nofile=4096"]);
        if !more.is_some_and(|output| output.status.success()) {
            return eprintln!("skipped: so many files cannot be open");
        }
        for n in 0..=LAYERS_MAX {
            let path = folder.path(&n.to_string());
            overlay(task, &path, Some((&(n + 1).to_string(), "qcow2"))).await;
        }
        let error = open(task, &read_only(folder.path("0"))).await.unwrap_err();
        assert_eq!(error.kind(), Kind::TooLarge, "{}", error.report());
        assert!(open_files(&folder).is_empty());
    });
}

#[test]
fn a_chain_that_comes_back_to_itself_is_refused() {
    on_control(async |task| {
        let folder = Folder::new();
        overlay(task, &folder.path("a"), Some(("b", "qcow2"))).await;
        overlay(task, &folder.path("b"), Some(("a", "qcow2"))).await;
        overlay(task, &folder.path("self"), Some(("./self", "qcow2"))).await;
        overlay(task, &folder.path("link"), Some(("alias", "qcow2"))).await;
        std::os::unix::fs::symlink("link", folder.path("alias")).unwrap();
        overlay(task, &folder.path("hard"), Some(("hard2", "qcow2"))).await;
        std::fs::hard_link(folder.path("hard"), folder.path("hard2")).unwrap();
        for name in ["a", "b", "self", "link", "hard"] {
            for request in [request(folder.path(name)), read_only(folder.path(name))] {
                let error = open(task, &request).await.unwrap_err();
                assert_eq!(error.kind(), Kind::InvalidImage, "{}", error.report());
                assert!(error.report().contains("loop"), "{}", error.report());
            }
        }
        assert!(open_files(&folder).is_empty());
    });
}

#[test]
fn two_windows_of_one_file_are_two_images() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.raw("base", b"data");
        let file = format!(r#""file": {{"driver": "file", "filename": "{}"}}"#, path.display());
        let raw = |offset| format!(r#"{{"driver": "raw", "offset": {offset}, "size": 512, {file}}}"#);
        let image = open(task, &json(&raw(512))).await.unwrap();
        image.write(task, 0, b"more").await.unwrap();
        image.close(task).await;
        let top = folder.path("chain");
        overlay(task, &top, Some((&format!("json:{}", raw(512)), "raw"))).await;
        let image = open(task, &request(&top)).await.unwrap();
        assert_eq!(bytes(task, &image).await, "more");
    });
}

#[test]
fn an_image_inside_an_image_is_opened_and_not_without_end() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.raw("base", b"data");
        let nest = |depth: usize| {
            let file = format!(r#"{{"driver": "file", "filename": "{}"}}"#, path.display());
            (0..depth).fold(file, |file, _| format!(r#"{{"driver": "raw", "offset": 1, "file": {file}}}"#))
        };
        let image = open(task, &json(&nest(3))).await.unwrap();
        assert_eq!(image.read(task, 0, 2).await, b"a\0");
        assert_eq!(image.layers.len(), 1);
        image.close(task).await;
        assert_eq!(open(task, &json(&nest(12))).await.unwrap_err().kind(), Kind::TooLarge);
        assert_eq!(open(task, &json(&nest(200))).await.unwrap_err().kind(), Kind::InvalidInput);
    });
}

#[test]
fn a_file_that_cannot_be_written_is_read_if_the_user_agrees() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.raw("disk", b"data");
        let set = |flag: &str| tool("chattr", &[flag, path.to_str().unwrap()]);
        if !set("+i").is_some_and(|output| output.status.success()) {
            return eprintln!("skipped: no file can be made immutable here");
        }
        let said = OpenRequest { format: Some("raw".into()), ..request(&path) };
        let refused = open(task, &said).await.unwrap_err();
        let settings = Settings { auto_read_only: true, ..Settings::default() };
        let opened = open(task, &OpenRequest { settings, ..said }).await;
        set("-i");
        assert_eq!((refused.kind(), refused.path()), (Kind::PermissionDenied, Some(&*path)));
        let image = opened.unwrap();
        assert_eq!(image.warnings.len(), 1);
        assert_eq!(bytes(task, &image).await, "data");
        assert_eq!(image.write(task, 0, b"x").await.unwrap_err().kind(), Kind::ReadOnly);
    });
}

#[test]
fn a_shorter_backing_file_reads_as_zeroes_behind_its_end() {
    on_control(async |task| {
        let folder = Folder::new();
        std::fs::write(folder.path("base"), [7; 1000]).unwrap();
        overlay(task, &folder.path("top"), Some(("base", "raw"))).await;
        let image = open(task, &request(folder.path("top"))).await.unwrap();
        assert_eq!(image.read(task, 998, 4).await, [7, 7, 0, 0]);
        assert_eq!(image.read(task, LEN - 4, 4).await, [0; 4]);
    });
}
