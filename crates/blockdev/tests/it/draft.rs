//! Commands on the graph: nodes come and go, overlays take the place of nodes.

use std::path::Path;

use drystone_base::{Kind, Result};
use drystone_blockdev::backing::change_backing_file;
use drystone_blockdev::draft::{Draft, OverlayMode, SnapshotSync, change};
use drystone_blockdev::open::Opener;
use drystone_blockdev::options::Options;
use drystone_blockdev::query::node::{NodeReport, nodes};
use drystone_blockdev::resize::resize;
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Plan, RootSpec, Task};
use drystone_core::driver::WriteFlags;
use drystone_core::graph::permission::{Grant, Perm};

use crate::host::{Folder, LEN, on_control, open_files, overlay};
use crate::locks::locked_by;

pub(crate) fn options(text: &str) -> Options {
    Options::from_json(text).unwrap()
}

/// `blockdev-add`.
pub(crate) async fn add(task: &mut Task<'_>, text: &str) -> Result<()> {
    let options = options(text);
    change(task, &Opener::trusting(), async |draft, task| draft.add(task, options).await).await.map(drop)
}

/// `blockdev-del`.
pub(crate) async fn del(task: &mut Task<'_>, name: &str) -> Result<()> {
    change(task, &Opener::trusting(), async |draft, task| draft.del(task, name)).await
}

/// `blockdev-reopen`.
pub(crate) async fn reopen(task: &mut Task<'_>, texts: &[&str]) -> Result<()> {
    let wanted = texts.iter().map(|text| options(text)).collect();
    change(task, &Opener::trusting(), async |draft, task| draft.reopen(task, wanted)).await
}

/// `blockdev-snapshot`.
pub(crate) async fn snapshot(task: &mut Task<'_>, node: &str, overlay: &str) -> Result<()> {
    change(task, &Opener::trusting(), async |draft, task| draft.snapshot(task, node, overlay)).await
}

pub(crate) fn sync(node: &str, file: &Path, name: &str) -> SnapshotSync {
    SnapshotSync {
        node: node.to_owned(),
        file: file.as_os_str().to_owned(),
        node_name: Some(name.to_owned()),
        format: None,
        mode: OverlayMode::AbsolutePaths,
    }
}

/// `blockdev-snapshot-sync`.
pub(crate) async fn snapshot_sync(task: &mut Task<'_>, wanted: SnapshotSync) -> Result<()> {
    change(task, &Opener::trusting(), async |draft, task| draft.snapshot_sync(task, wanted).await)
        .await
        .map(drop)
}

pub(crate) fn report(task: &Task<'_>, name: &str) -> NodeReport {
    let found = task.gs().with(|graph| nodes(graph, true)).into_iter().find(|node| node.name == name);
    found.unwrap_or_else(|| panic!("there is no node '{name}'"))
}

pub(crate) fn names(task: &Task<'_>) -> Vec<String> {
    task.gs().with(|graph| graph.nodes().into_iter().map(|node| node.name).collect())
}

/// An export that writes.
pub(crate) async fn export(task: &mut Task<'_>, node: &str) -> Result<Backend<ReadWrite>> {
    let mut plan = Plan::new();
    let grant = Grant { perm: Grant::WRITER.perm, shared: Perm::ALL.without(Perm::RESIZE) };
    let spec = RootSpec { name: "export".to_owned(), grant, stays: false };
    let id = task.gs().find(node)?;
    let user = plan.attach_root(task.gs(), id, spec);
    task.apply(plan).await?;
    Ok(user)
}

/// Somebody who reads.
pub(crate) async fn attach_reader(task: &mut Task<'_>, node: &str) -> Backend<ReadWrite> {
    let mut plan = Plan::new();
    let grant = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::ALL };
    let id = task.gs().find(node).unwrap();
    let user = plan.attach_root(task.gs(), id, RootSpec { name: "reader".to_owned(), grant, stays: false });
    task.apply(plan).await.unwrap();
    user
}

pub(crate) async fn detach(task: &mut Task<'_>, user: &Backend<ReadWrite>) {
    let mut plan = Plan::new();
    plan.detach_root(user.id());
    task.apply(plan).await.unwrap();
}

pub(crate) async fn write(
    task: &mut Task<'_>,
    user: &Backend<ReadWrite>,
    at: u64,
    bytes: &[u8],
) -> Result<()> {
    let mut ticket = task.enter(user).await;
    let at = drystone_base::GuestOffset::new(at);
    ticket.write(at, Buf::copy_of(bytes), WriteFlags::default()).await.0
}

pub(crate) async fn read(task: &mut Task<'_>, user: &Backend<ReadWrite>, at: u64, len: usize) -> Vec<u8> {
    let mut ticket = task.enter(user).await;
    let (result, buf) = ticket.read(drystone_base::GuestOffset::new(at), Buf::zeroed(len)).await;
    result.unwrap();
    buf.as_slice().to_vec()
}

#[test]
fn a_node_comes_by_its_options_and_goes_with_its_locks() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.path("disk");
        overlay(task, &path, None).await;
        let name = path.display();
        add(
            task,
            &format!(
                r#"{{"driver":"qcow2","node-name":"disk","file":{{"driver":"file","filename":"{name}"}}}}"#
            ),
        )
        .await
        .unwrap();
        assert_eq!(names(task).len(), 2);
        assert!(!locked_by("self", &path).is_empty());
        del(task, "disk").await.unwrap();
        assert!(locked_by("self", &path).is_empty());
        assert!(open_files(&folder).is_empty());
        assert!(names(task).is_empty());
    });
}

#[test]
fn a_node_in_use_stays_and_its_user_is_named() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.raw("disk", b"");
        let name = path.display();
        add(task, &format!(r#"{{"driver":"file","node-name":"f","filename":"{name}"}}"#)).await.unwrap();
        add(task, r#"{"driver":"raw","node-name":"disk","file":"f"}"#).await.unwrap();
        let error = del(task, "f").await.unwrap_err();
        assert_eq!((error.kind(), error.node()), (Kind::InUse, Some("f")));
        assert!(error.report().contains("'disk'"), "{}", error.report());
        let user = export(task, "disk").await.unwrap();
        let error = del(task, "disk").await.unwrap_err();
        assert!(error.report().contains("'export'"), "{}", error.report());
        detach(task, &user).await;
        del(task, "disk").await.unwrap();
        del(task, "f").await.unwrap();
        assert_eq!(del(task, "f").await.unwrap_err().kind(), Kind::NotFound);
    });
}

#[test]
fn a_node_needs_a_name_and_a_driver() {
    on_control(async |task| {
        for (text, option) in [
            (r#"{"driver":"null-co"}"#, "node-name"),
            (r#"{"node-name":"n"}"#, "driver"),
            (r#"{"driver":"null-co","node-name":"1n"}"#, "node-name"),
            (r#"{"driver":"null-co","node-name":"n","active":false}"#, "active"),
            (r#"{"driver":"null-co","node-name":"n","detect-zeroes":"unmap"}"#, "detect-zeroes"),
            (r#"{"driver":"file","node-name":"n","filename":"x","pr-manager":"y"}"#, "pr-manager"),
        ] {
            assert_eq!(add(task, text).await.unwrap_err().option(), Some(option), "{text}");
        }
    });
}

#[test]
fn an_overlay_takes_the_place_of_a_node() {
    on_control(async |task| {
        let folder = Folder::new();
        let (base, top) = (folder.raw("base", b"old"), folder.path("top"));
        let text = format!(
            r#"{{"driver":"raw","node-name":"disk","file":{{"driver":"file","filename":"{}"}}}}"#,
            base.display()
        );
        add(task, &text).await.unwrap();
        let user = export(task, "disk").await.unwrap();
        snapshot_sync(task, sync("disk", &top, "top")).await.unwrap();
        write(task, &user, 0, b"new").await.unwrap();
        assert_eq!(read(task, &user, 0, 4).await, b"new\0");
        assert_eq!(&std::fs::read(&base).unwrap()[..3], b"old");
        let (disk, top) = (report(task, "disk"), report(task, "top"));
        assert!(disk.read_only, "nobody writes to what is behind");
        assert_eq!(top.backing_file.as_deref(), base.to_str());
        assert_eq!(
            (top.backing_file_depth, top.image.filename.as_str()),
            (1, folder.path("top").to_str().unwrap())
        );
        assert_eq!(top.image.full_backing_filename.as_deref(), base.to_str());
        assert_eq!(top.image.backing.as_ref().unwrap().format, "raw");
        let error = snapshot_sync(task, sync("disk", &folder.path("other"), "other")).await.unwrap_err();
        assert_eq!((error.kind(), error.node()), (Kind::InUse, Some("disk")));
        assert!(!folder.path("other").exists());
    });
}

#[test]
fn a_transaction_of_snapshots_is_one_change_and_sees_its_own_nodes() {
    on_control(async |task| {
        let folder = Folder::new();
        let base = folder.raw("base", b"old");
        let text = format!(r#"{{"driver":"file","node-name":"disk","filename":"{}"}}"#, base.display());
        add(task, &text).await.unwrap();
        let user = export(task, "disk").await.unwrap();
        let opener = Opener::trusting();
        let (one, two) = (sync("disk", &folder.path("1"), "one"), sync("one", &folder.path("2"), "two"));
        change(task, &opener, async |draft, task| {
            draft.snapshot_sync(task, one).await?;
            draft.snapshot_sync(task, two).await
        })
        .await
        .unwrap();
        write(task, &user, 0, b"new").await.unwrap();
        assert_eq!(report(task, "two").backing_file_depth, 2);
        assert!(report(task, "one").read_only);
        assert_eq!(&std::fs::read(&base).unwrap()[..3], b"old");
        // The second one fails: nothing of the first one is left.
        let before = names(task);
        let mut draft = Draft::new(&opener);
        draft.snapshot_sync(task, sync("two", &folder.path("3"), "three")).await.unwrap();
        assert!(draft.snapshot_sync(task, sync("none", &folder.path("4"), "four")).await.is_err());
        draft.abort(task).await;
        assert_eq!(names(task), before);
        assert!(!folder.path("3").exists());
        assert!(locked_by("self", &folder.path("2")).len() > 2);
    });
}

#[test]
fn an_overlay_that_is_there_is_put_on_a_node_if_it_is_free() {
    on_control(async |task| {
        let folder = Folder::new();
        let base = folder.raw("base", b"old");
        let text = format!(r#"{{"driver":"file","node-name":"disk","filename":"{}"}}"#, base.display());
        add(task, &text).await.unwrap();
        for (file, name, backing) in [("a", "a", None), ("b", "b", Some(("base", "raw")))] {
            overlay(task, &folder.path(file), backing).await;
            let file = folder.path(file);
            let backing = if backing.is_some() { r#""disk""# } else { "null" };
            let text = format!(
                r#"{{"driver":"qcow2","node-name":"{name}","backing":{backing},"file":{{"driver":"file","filename":"{}"}}}}"#,
                file.display()
            );
            add(task, &text).await.unwrap();
        }
        let fault = async |task: &mut Task<'_>, node: &str, overlay: &str| {
            snapshot(task, node, overlay).await.unwrap_err()
        };
        assert_eq!(fault(task, "disk", "a").await.kind(), Kind::InUse, "b stands on it");
        assert_eq!(fault(task, "a", "b").await.node(), Some("b"), "it has a backing image");
        assert_eq!(fault(task, "a", "disk").await.kind(), Kind::Unsupported, "it can have none");
        assert_eq!(fault(task, "a", "none").await.kind(), Kind::NotFound);
        assert!(fault(task, "a", "a").await.report().contains("cycle"));
        del(task, "b").await.unwrap();
        let user = export(task, "disk").await.unwrap();
        snapshot(task, "disk", "a").await.unwrap();
        write(task, &user, 0, b"new").await.unwrap();
        assert_eq!(&std::fs::read(&base).unwrap()[..3], b"old");
        assert!(report(task, "disk").read_only);
        let json = report(task, "a").image.filename;
        assert!(json.starts_with("json:{") && json.contains(r#""backing":{"#), "{json}");
    });
}

#[test]
fn a_disk_is_resized_unless_somebody_minds() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.path("disk");
        overlay(task, &path, None).await;
        let text = format!(
            r#"{{"driver":"qcow2","node-name":"disk","file":{{"driver":"file","filename":"{}"}}}}"#,
            path.display()
        );
        add(task, &text).await.unwrap();
        resize(task, "disk", 2 * LEN).await.unwrap();
        assert_eq!(report(task, "disk").image.virtual_size, 2 * LEN);
        let user = export(task, "disk").await.unwrap();
        let error = resize(task, "disk", 3 * LEN).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InUse);
        assert!(error.report().contains("'export'"), "{}", error.report());
        detach(task, &user).await;
        resize(task, "disk", 3 * LEN).await.unwrap();
        assert_eq!(resize(task, "none", LEN).await.unwrap_err().kind(), Kind::NotFound);
    });
}

#[test]
fn a_header_names_another_backing_file_and_the_graph_stays() {
    on_control(async |task| {
        let folder = Folder::new();
        folder.raw("base", b"base");
        overlay(task, &folder.path("middle"), Some(("base", "raw"))).await;
        overlay(task, &folder.path("top"), Some(("middle", "qcow2"))).await;
        let text = |name: &str, backing: &str| {
            let path = folder.path(name);
            let path = path.display();
            format!(
                r#"{{"driver":"qcow2","node-name":"{name}","backing":{backing},"file":{{"driver":"file","filename":"{path}"}}}}"#
            )
        };
        add(
            task,
            &format!(
                r#"{{"driver":"file","node-name":"base","filename":"{}"}}"#,
                folder.path("base").display()
            ),
        )
        .await
        .unwrap();
        add(task, &text("middle", r#""base""#)).await.unwrap();
        add(task, &text("top", r#""middle""#)).await.unwrap();
        reopen(task, &[&text("middle", r#""base","read-only":true"#)]).await.unwrap();
        let user = export(task, "top").await.unwrap();
        let locks = locked_by("self", &folder.path("middle"));
        let change = async |task: &mut Task<'_>, top: &str, image: &str, name: &str| {
            change_backing_file(task, top, image, name.as_ref()).await
        };
        change(task, "top", "middle", "other").await.unwrap();
        let middle = report(task, "middle");
        assert!(middle.read_only);
        let image = &middle.image;
        assert_eq!(image.backing_filename.as_deref(), Some("other"));
        assert_eq!(image.full_backing_filename.as_deref(), folder.path("other").to_str());
        assert_eq!(image.backing_format.as_deref(), Some("raw"));
        assert_eq!(middle.backing_file.as_deref(), folder.path("base").to_str());
        assert_eq!(locked_by("self", &folder.path("middle")), locks);
        assert_eq!(read(task, &user, 0, 4).await, b"base");
        change(task, "top", "top", "").await.unwrap();
        assert_eq!(report(task, "top").image.backing_filename, None);
        for (top, image) in [("top", "base"), ("middle", "middle"), ("top", "none"), ("none", "top")] {
            assert!(change(task, top, image, "x").await.is_err(), "{top} {image}");
        }
        detach(task, &user).await;
    });
}

/// The filter of a job comes and goes; an image that named its format could not be opened any more.
#[test]
fn a_header_names_the_format_of_the_image_behind_a_filter() {
    on_control(async |task| {
        let folder = Folder::new();
        folder.raw("base", b"base");
        overlay(task, &folder.path("middle"), Some(("base", "raw"))).await;
        overlay(task, &folder.path("top"), Some(("middle", "qcow2"))).await;
        let (middle, top) = (folder.path("middle"), folder.path("top"));
        let (middle, top) = (middle.display(), top.display());
        for node in [
            format!(
                r#"{{"driver":"qcow2","node-name":"middle","file":{{"driver":"file","filename":"{middle}"}}}}"#
            ),
            r#"{"driver":"copy-on-read","node-name":"filter","file":"middle"}"#.to_owned(),
            format!(
                r#"{{"driver":"qcow2","node-name":"top","backing":"filter","file":{{"driver":"file","filename":"{top}"}}}}"#
            ),
        ] {
            add(task, &node).await.unwrap();
        }
        change_backing_file(task, "top", "top", "other".as_ref()).await.unwrap();
        let image = report(task, "top").image;
        assert_eq!(image.backing_filename.as_deref(), Some("other"));
        assert_eq!(image.backing_format.as_deref(), Some("qcow2"));
    });
}

#[test]
fn a_filter_keeps_what_is_read_from_below() {
    on_control(async |task| {
        let folder = Folder::new();
        let base = folder.raw("base", b"base");
        overlay(task, &folder.path("top"), Some(("base", "raw"))).await;
        let file = folder.path("top");
        let top = format!(
            r#"{{"driver":"qcow2","node-name":"top","file":{{"driver":"file","filename":"{}"}}}}"#,
            file.display()
        );
        add(task, &top).await.unwrap();
        let error =
            add(task, r#"{"driver":"copy-on-read","node-name":"cor","file":"top","bottom":"none"}"#).await;
        assert_eq!(error.unwrap_err().option(), Some("bottom"));
        add(task, r#"{"driver":"copy-on-read","node-name":"cor","file":"top","bottom":"top"}"#)
            .await
            .unwrap();
        del(task, "cor").await.unwrap();
        add(task, r#"{"driver":"copy-on-read","node-name":"cor","file":"top"}"#).await.unwrap();
        let error = reopen(task, &[r#"{"driver":"copy-on-read","node-name":"cor","file":"top"}"#]).await;
        assert_eq!(error.unwrap_err().kind(), Kind::Unsupported);
        let user = export(task, "cor").await.unwrap();
        assert_eq!(read(task, &user, 0, 4).await, b"base");
        detach(task, &user).await;
        del(task, "cor").await.unwrap();
        reopen(task, &[&top.replacen(r#""file""#, r#""backing":null,"file""#, 1)]).await.unwrap();
        let user = export(task, "top").await.unwrap();
        assert_eq!(read(task, &user, 0, 4).await, b"base", "it was copied from {}", base.display());
        detach(task, &user).await;
    });
}

#[test]
fn a_new_overlay_is_named_by_its_file_alone_and_stays() {
    on_control(async |task| {
        let folder = Folder::new();
        let base = folder.raw("base", b"old");
        let text = format!(
            r#"{{"driver":"raw","node-name":"disk","read-only":true,"file":{{"driver":"file","filename":"{}"}}}}"#,
            base.display()
        );
        add(task, &text).await.unwrap();
        let disk = task.gs().find("disk").unwrap();
        let put = async |task: &mut Task<'_>, below, file: &Path| {
            let opener = Opener::trusting();
            change(task, &opener, async |draft, task| draft.put_new_overlay(task, below, file).await).await
        };
        let before = names(task);
        std::os::unix::fs::symlink("nowhere", folder.path("link")).unwrap();
        for (file, kind) in [
            (base.clone(), Kind::AlreadyExists),
            (folder.path("link"), Kind::AlreadyExists),
            ("relative".into(), Kind::InvalidInput),
            (folder.path("no/folder"), Kind::NotFound),
        ] {
            assert_eq!(put(task, disk, &file).await.unwrap_err().kind(), kind, "{}", file.display());
        }
        assert_eq!(names(task), before);
        assert_eq!(&std::fs::read(&base).unwrap()[..3], b"old");
        let one = put(task, disk, &folder.path("one")).await.unwrap();
        std::fs::create_dir(folder.path("sub")).unwrap();
        let two = put(task, one, &folder.path("sub/two")).await.unwrap();
        let name = |node| task.gs().with(|graph| graph.node(node)).unwrap().name;
        let (one, two) = (name(one), report(task, &name(two)));
        assert_eq!(report(task, &one).backing_file.as_deref(), base.to_str());
        let recorded = |name: &str| report(task, name).image.backing_filename;
        assert_eq!(recorded(&one).as_deref(), Some("base"));
        assert_eq!(recorded(&two.name).as_deref(), folder.path("one").to_str());
        assert!(!two.read_only && report(task, &one).read_only, "the top is written, whatever is below");
        let user = export(task, &two.name).await.unwrap();
        write(task, &user, 0, b"new").await.unwrap();
        assert_eq!(read(task, &user, 0, 4).await, b"new\0");
    });
}

#[test]
fn a_new_overlay_that_is_given_up_is_gone_and_a_window_gets_none() {
    on_control(async |task| {
        let folder = Folder::new();
        let base = folder.raw("base", b"old");
        let file = format!(r#""file":{{"driver":"file","filename":"{}"}}"#, base.display());
        add(task, &format!(r#"{{"driver":"raw","node-name":"window","offset":512,{file}}}"#)).await.unwrap();
        let before = names(task);
        let new = folder.path("new");
        let mut draft = Draft::new(&Opener::trusting());
        let window = draft.find(task, "window").unwrap();
        let error = draft.put_new_overlay(task, window, &new).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        let disk = draft.add(task, options(&format!(r#"{{"driver":"raw","node-name":"disk",{file}}}"#)));
        let disk = disk.await.unwrap();
        draft.put_new_overlay(task, disk, &new).await.unwrap();
        assert!(new.exists());
        draft.abort(task).await;
        assert!(!new.exists());
        assert_eq!(names(task), before);
    });
}
