//! Nodes that get other options while they are in the graph.

use std::path::Path;

use drystone_base::Kind;
use drystone_core::control::Task;
use drystone_core::graph::policy::DetectZeroes;
use drystone_sys::path::canonical;

use crate::draft::{add, del, detach, export, names, options, read, reopen, report, write};
use crate::host::{Folder, on_control, open_files, overlay};
use crate::locks::locked_by;

/// `text` with `$` for the folder.
fn in_folder(folder: &Folder, text: &str) -> String {
    text.replace('$', folder.path("").to_str().unwrap().trim_end_matches('/'))
}

async fn add_in(task: &mut Task<'_>, folder: &Folder, text: &str) {
    add(task, &in_folder(folder, text)).await.unwrap();
}

async fn accept(task: &mut Task<'_>, folder: &Folder, texts: &[&str]) {
    let texts: Vec<String> = texts.iter().map(|text| in_folder(folder, text)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    reopen(task, &texts).await.unwrap_or_else(|error| panic!("{texts:?}: {}", error.report()));
}

async fn refuse(
    task: &mut Task<'_>,
    folder: &Folder,
    texts: &[&str],
) -> (Kind, Option<String>, Option<String>) {
    let texts: Vec<String> = texts.iter().map(|text| in_folder(folder, text)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let error = reopen(task, &texts).await.expect_err(texts[0]);
    (error.kind(), error.node().map(str::to_owned), error.option().map(str::to_owned))
}

/// The flags of the descriptor of a file that is open once.
fn flags(path: &Path) -> u32 {
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|target| target == path) {
            let info = Path::new("/proc/self/fdinfo").join(entry.file_name());
            let info = std::fs::read_to_string(info).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            return u32::from_str_radix(flags.trim(), 8).unwrap();
        }
    }
    panic!("{} is not open", path.display())
}

const O_ACCMODE: u32 = 3;
const O_RDWR: u32 = 2;
const O_DIRECT: u32 = 0o40_000;

const TOP: &str =
    r#"{"driver":"qcow2","node-name":"top","backing":null,"file":{"driver":"file","filename":"$/top"}}"#;

fn with(text: &str, more: &str) -> String {
    format!("{},{more}}}", text.strip_suffix('}').unwrap())
}

#[test]
fn children_that_were_opened_with_a_node_are_reopened_with_it() {
    on_control(async |task| {
        let folder = Folder::new();
        overlay(task, &folder.path("top"), None).await;
        add_in(task, &folder, TOP).await;
        let path = canonical(task.local(), folder.path("top")).await.unwrap();
        assert_eq!(flags(&path) & (O_ACCMODE | O_DIRECT), O_RDWR);
        accept(task, &folder, &[&with(TOP, r#""read-only":true"#)]).await;
        assert!(report(task, "top").read_only);
        assert_eq!(flags(&path) & O_ACCMODE, 0);
        accept(task, &folder, &[TOP]).await;
        assert!(!report(task, "top").read_only);
        assert_eq!(flags(&path) & O_ACCMODE, O_RDWR);
        accept(task, &folder, &[&with(TOP, r#""cache":{"direct":true,"no-flush":true}"#)]).await;
        assert_eq!(flags(&path) & (O_ACCMODE | O_DIRECT), O_RDWR | O_DIRECT);
        let top = report(task, "top");
        assert!(top.cache_direct && top.cache_no_flush);
        // What is not said again is as it is by default.
        accept(task, &folder, &[TOP]).await;
        assert_eq!(flags(&path) & O_DIRECT, 0);
        assert!(!report(task, "top").cache_direct);
        // The child's own word counts more than the parent's.
        let own = TOP.replace(r#""$/top""#, r#""$/top","cache":{"direct":true}"#);
        accept(task, &folder, &[&own]).await;
        assert_eq!(flags(&path) & O_DIRECT, O_DIRECT);
        // Kept, when the parent does not say otherwise.
        let file = names(task)[0].clone();
        let kept = TOP.replace(r#"{"driver":"file","filename":"$/top"}"#, &format!("\"{file}\""));
        accept(task, &folder, &[&kept]).await;
        assert_eq!(flags(&path) & O_DIRECT, O_DIRECT);
        assert_eq!(open_files(&folder).len(), 1);
    });
}

#[test]
fn what_a_reopen_cannot_change_is_named() {
    on_control(async |task| {
        let folder = Folder::new();
        overlay(task, &folder.path("top"), None).await;
        folder.raw("raw", b"");
        add_in(task, &folder, TOP).await;
        add_in(task, &folder, r#"{"driver":"file","node-name":"f","filename":"$/raw"}"#).await;
        add_in(task, &folder, r#"{"driver":"raw","node-name":"r","file":"f"}"#).await;
        add_in(task, &folder, r#"{"driver":"null-co","node-name":"n","size":1024}"#).await;
        for (text, node, option) in [
            (r#"{"driver":"qcow2","node-name":"top","backing":null}"#, "top", "file"),
            (r#"{"driver":"raw","node-name":"top","file":"f"}"#, "top", "driver"),
            (r#"{"driver":"qcow2","node-name":"top","file":"f","backing":"none"}"#, "none", "backing"),
            (r#"{"driver":"qcow2","node-name":"top","file":"none","backing":null}"#, "none", "file"),
            (r#"{"driver":"file","node-name":"f"}"#, "f", "filename"),
            (r#"{"driver":"file","node-name":"f","filename":"./raw"}"#, "f", "filename"),
            (r#"{"driver":"file","node-name":"f","filename":"$/raw","locking":"auto"}"#, "f", "locking"),
            (r#"{"driver":"file","node-name":"f","filename":"$/raw","aio":"threads"}"#, "f", "aio"),
            (r#"{"driver":"host_device","node-name":"f","filename":"$/raw"}"#, "f", "driver"),
            (
                r#"{"driver":"file","node-name":"f","filename":"$/raw","force-share":true}"#,
                "f",
                "force-share",
            ),
            (r#"{"driver":"file","node-name":"f","filename":"$/raw","pr-manager":"x"}"#, "f", "pr-manager"),
            (r#"{"driver":"file","node-name":"f","filename":"$/raw","bogus":1}"#, "f", "bogus"),
            (r#"{"driver":"null-co","node-name":"n"}"#, "n", "size"),
            (r#"{"driver":"null-co","node-name":"n","size":2048}"#, "n", "size"),
            (r#"{"driver":"raw","node-name":"r","file":"f","backing":"n"}"#, "r", "backing"),
            (r#"{"driver":"raw","node-name":"r","file":{"driver":"file","filename":"$/raw"}}"#, "r", "file"),
            (r#"{"driver":"raw","node-name":"r","file":"f","detect-zeroes":"unmap"}"#, "r", "detect-zeroes"),
        ] {
            let (_, found, named) = refuse(task, &folder, &[text]).await;
            assert_eq!((found.as_deref(), named.as_deref()), (Some(node), Some(option)), "{text}");
        }
        let (kind, node, _) =
            refuse(task, &folder, &[r#"{"driver":"raw","node-name":"none","file":"f"}"#]).await;
        assert_eq!((kind, node.as_deref()), (Kind::NotFound, Some("none")));
        let twice = r#"{"driver":"raw","node-name":"r","file":"f"}"#;
        assert_eq!(refuse(task, &folder, &[twice, twice]).await.0, Kind::InvalidInput);
        for same in [
            r#"{"driver":"raw","node-name":"r","file":"f"}"#,
            r#"{"driver":"file","node-name":"f","filename":"$/raw"}"#,
            r#"{"driver":"null-co","node-name":"n","size":1024,"read-only":true}"#,
            r#"{"driver":"null-co","node-name":"n","size":1024}"#,
            TOP,
        ] {
            accept(task, &folder, &[same]).await;
        }
    });
}

#[test]
fn a_writer_keeps_its_node_writable_and_nodes_change_together() {
    on_control(async |task| {
        let folder = Folder::new();
        overlay(task, &folder.path("top"), None).await;
        const FILE: &str = r#"{"driver":"file","node-name":"f","filename":"$/top"}"#;
        const IMAGE: &str = r#"{"driver":"qcow2","node-name":"top","backing":null,"file":"f"}"#;
        add_in(task, &folder, FILE).await;
        add_in(task, &folder, IMAGE).await;
        let read_only = |text| with(text, r#""read-only":true"#);
        assert_eq!(refuse(task, &folder, &[&read_only(FILE)]).await.0, Kind::ReadOnly);
        accept(task, &folder, &[&read_only(FILE), &read_only(IMAGE)]).await;
        assert_eq!(flags(&folder.path("top")) & O_ACCMODE, 0);
        assert_eq!(refuse(task, &folder, &[IMAGE]).await.0, Kind::ReadOnly);
        assert!(report(task, "top").read_only);
        accept(task, &folder, &[IMAGE, FILE]).await;
        let user = export(task, "top").await.unwrap();
        assert_eq!(refuse(task, &folder, &[&read_only(IMAGE)]).await.0, Kind::ReadOnly);
        write(task, &user, 0, b"written").await.unwrap();
        // Direct I/O begins under the writer, whose permissions stay as they are.
        accept(task, &folder, &[&with(FILE, r#""cache":{"direct":true}"#)]).await;
        assert_eq!(flags(&folder.path("top")) & O_DIRECT, O_DIRECT);
        write(task, &user, 3, b"again").await.unwrap();
        assert_eq!(read(task, &user, 0, 9).await, b"wriagain\0");
        detach(task, &user).await;
    });
}

#[test]
fn a_backing_image_is_replaced_and_free_at_once() {
    on_control(async |task| {
        let folder = Folder::new();
        folder.raw("base", b"base");
        folder.raw("other", b"other");
        overlay(task, &folder.path("top"), Some(("base", "raw"))).await;
        const IMAGE: &str =
            r#"{"driver":"qcow2","node-name":"top","file":{"driver":"file","filename":"$/top"}}"#;
        add_in(
            task,
            &folder,
            r#"{"driver":"raw","node-name":"base","file":{"driver":"file","filename":"$/base"}}"#,
        )
        .await;
        add_in(
            task,
            &folder,
            r#"{"driver":"raw","node-name":"other","file":{"driver":"file","filename":"$/other"}}"#,
        )
        .await;
        add_in(task, &folder, &with(IMAGE, r#""backing":"base""#)).await;
        let user = export(task, "top").await.unwrap();
        assert_eq!(read(task, &user, 0, 5).await, b"base\0");
        assert_eq!(refuse(task, &folder, &[IMAGE]).await.2.as_deref(), Some("backing"));
        assert!(!locked_by("self", &folder.path("base")).is_empty());
        accept(task, &folder, &[&with(IMAGE, r#""backing":"other""#)]).await;
        assert_eq!(read(task, &user, 0, 5).await, b"other");
        assert!(locked_by("self", &folder.path("base")).is_empty(), "nobody uses it");
        let writer = export(task, "base").await.unwrap();
        write(task, &writer, 0, b"elsewhere").await.unwrap();
        detach(task, &writer).await;
        accept(task, &folder, &[&with(IMAGE, r#""backing":null"#)]).await;
        assert_eq!(read(task, &user, 0, 5).await, [0; 5]);
        assert!(refuse(task, &folder, &[&with(IMAGE, r#""backing":"top""#)]).await.0 == Kind::InvalidInput);
        detach(task, &user).await;
        for name in ["top", "base", "other"] {
            del(task, name).await.unwrap();
        }
        assert!(names(task).is_empty() && open_files(&folder).is_empty());
    });
}

#[test]
fn a_backing_image_that_came_with_its_overlay_goes_when_it_is_replaced() {
    on_control(async |task| {
        let folder = Folder::new();
        folder.raw("base", b"base");
        overlay(task, &folder.path("top"), Some(("base", "raw"))).await;
        const IMAGE: &str =
            r#"{"driver":"qcow2","node-name":"top","file":{"driver":"file","filename":"$/top"}}"#;
        add_in(task, &folder, IMAGE).await;
        assert_eq!(names(task).len(), 4);
        accept(task, &folder, &[&with(IMAGE, r#""backing":null"#)]).await;
        assert_eq!(names(task).len(), 2);
        assert_eq!(open_files(&folder), [folder.path("top")]);
        let json = report(task, "top").image.filename;
        assert!(json.contains(r#""backing":null"#), "{json}");
    });
}

#[test]
fn a_window_moves_under_its_reader() {
    on_control(async |task| {
        let folder = Folder::new();
        let mut bytes = vec![0; 4096];
        bytes[..3].copy_from_slice(b"one");
        bytes[512..515].copy_from_slice(b"two");
        std::fs::write(folder.path("raw"), &bytes).unwrap();
        const RAW: &str =
            r#"{"driver":"raw","node-name":"r","size":512,"file":{"driver":"file","filename":"$/raw"}}"#;
        add_in(task, &folder, RAW).await;
        let user = export(task, "r").await.unwrap();
        accept(task, &folder, &[&with(RAW, r#""offset":512"#)]).await;
        assert_eq!(read(task, &user, 0, 4).await, b"two\0");
        assert!(reopen(task, &[&in_folder(&folder, &with(RAW, r#""offset":4096"#))]).await.is_err());
        assert_eq!(read(task, &user, 0, 4).await, b"two\0");
        assert!(report(task, "r").image.filename.contains(r#""offset":512"#));
        detach(task, &user).await;
    });
}

#[test]
fn a_disk_is_as_long_as_the_file_that_takes_its_files_place() {
    on_control(async |task| {
        let folder = Folder::new();
        std::fs::write(folder.path("short"), [1; 512]).unwrap();
        std::fs::write(folder.path("long"), [2; 1024]).unwrap();
        add_in(task, &folder, r#"{"driver":"file","node-name":"short","filename":"$/short"}"#).await;
        add_in(task, &folder, r#"{"driver":"file","node-name":"long","filename":"$/long"}"#).await;
        add_in(task, &folder, r#"{"driver":"raw","node-name":"r","file":"short"}"#).await;
        let user = export(task, "r").await.unwrap();
        accept(task, &folder, &[r#"{"driver":"raw","node-name":"r","file":"long"}"#]).await;
        assert_eq!(report(task, "r").image.virtual_size, 1024);
        assert_eq!(read(task, &user, 1020, 4).await, [2; 4]);
        accept(task, &folder, &[r#"{"driver":"raw","node-name":"r","file":"short"}"#]).await;
        assert_eq!(report(task, "r").image.virtual_size, 512);
        detach(task, &user).await;
    });
}

#[test]
fn an_image_is_stored_in_its_file_before_it_gets_another_one() {
    on_control(async |task| {
        let folder = Folder::new();
        const FILE: &str = r#"{"driver":"file","node-name":"f","filename":"$/top"}"#;
        const COPY: &str = r#"{"driver":"file","node-name":"g","filename":"$/copy"}"#;
        let image =
            |file: &str| format!(r#"{{"driver":"qcow2","node-name":"top","backing":null,"file":"{file}"}}"#);
        overlay(task, &folder.path("top"), None).await;
        std::fs::copy(folder.path("top"), folder.path("copy")).unwrap();
        add_in(task, &folder, FILE).await;
        add_in(task, &folder, COPY).await;
        add_in(task, &folder, &image("f")).await;
        let user = export(task, "top").await.unwrap();
        write(task, &user, 0, b"not flushed").await.unwrap();
        accept(task, &folder, &[&image("g")]).await;
        detach(task, &user).await;
        for name in ["top", "f", "g"] {
            del(task, name).await.unwrap();
        }
        add_in(task, &folder, TOP).await;
        let user = export(task, "top").await.unwrap();
        assert_eq!(read(task, &user, 0, 12).await, b"not flushed\0");
        detach(task, &user).await;
    });
}

#[test]
fn zeroes_are_detected_where_a_node_is_told_to() {
    on_control(async |task| {
        let folder = Folder::new();
        overlay(task, &folder.path("top"), None).await;
        add_in(task, &folder, TOP).await;
        let user = export(task, "top").await.unwrap();
        let len = |folder: &Folder| std::fs::metadata(folder.path("top")).unwrap().len();
        let zeroes = vec![0; 65536];
        let before = len(&folder);
        accept(task, &folder, &[&with(TOP, r#""detect-zeroes":"on""#)]).await;
        assert_eq!(report(task, "top").detect_zeroes, DetectZeroes::On);
        write(task, &user, 0, &zeroes).await.unwrap();
        assert!(len(&folder) < before + 3 * 65536, "a table at most");
        let with_table = len(&folder);
        write(task, &user, 65536, &zeroes).await.unwrap();
        assert_eq!(len(&folder), with_table);
        write(task, &user, 65536, b"data").await.unwrap();
        accept(task, &folder, &[TOP]).await;
        let with_data = len(&folder);
        write(task, &user, 3 * 65536, &zeroes).await.unwrap();
        assert!(len(&folder) > with_data);
        assert_eq!(read(task, &user, 65536, 5).await, b"data\0");
        detach(task, &user).await;
    });
}

#[test]
fn options_are_compared_as_users_write_them() {
    let flat = options(r#"{"a": true, "b": {"c": 1, "d": "1"}, "e.f": "on"}"#).flat();
    let expected = [("a", "on"), ("b.c", "1"), ("b.d", "1"), ("e.f", "on")];
    assert_eq!(flat.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>(), expected);
}

#[test]
fn options_of_qcow2_are_checked_together() {
    on_control(async |task| {
        let folder = Folder::new();
        overlay(task, &folder.path("top"), None).await;
        add_in(task, &folder, TOP).await;
        for more in [
            r#""lazy-refcounts":true,"pass-discard-snapshot":false,"pass-discard-other":true,"cache-clean-interval":0"#,
            r#""overlap-check":"none","l2-cache-size":262144,"pass-discard-request":false"#,
            r#""overlap-check":{"template":"all","main-header":false}"#,
            r#""cache-size":1048576"#,
            r#""cache-size":1048576,"l2-cache-size":65536"#,
            r#""refcount-cache-size":1048576,"l2-cache-size":65536,"l2-cache-entry-size":4096"#,
            r#""l2-cache-entry-size":65536,"cache-clean-interval":5"#,
            r#""discard-no-unref":false"#,
            r#""discard-no-unref":true"#,
        ] {
            accept(task, &folder, &[&with(TOP, more)]).await;
        }
        for (more, option) in [
            (r#""overlap-check":"sometimes""#, "overlap-check"),
            (r#""overlap-check":{"bogus":true}"#, "bogus"),
            (r#""cache-size":0,"l2-cache-size":1"#, "cache-size"),
            (r#""cache-size":3,"l2-cache-size":1,"refcount-cache-size":2"#, "cache-size"),
            (r#""cache-size":3,"refcount-cache-size":4"#, "cache-size"),
            (r#""l2-cache-entry-size":5000"#, "l2-cache-entry-size"),
            (r#""l2-cache-entry-size":131072"#, "l2-cache-entry-size"),
            (r#""refcount-cache-size":1125899906842624"#, "refcount-cache-size"),
            (r#""cache-clean-interval":4294967296"#, "cache-clean-interval"),
            (r#""encrypt":{"format":"luks"}"#, "encrypt"),
            (r#""data-file":"x""#, "data-file"),
        ] {
            assert_eq!(refuse(task, &folder, &[&with(TOP, more)]).await.2.as_deref(), Some(option), "{more}");
        }
        accept(task, &folder, &[TOP]).await;
    });
}
