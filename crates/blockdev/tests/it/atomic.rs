//! All or nothing: a failure at any stage of any node of a reopen or a transaction leaves everything as it was.
//!
//! ```text
//!   a-top(trap) ─ a(qcow2) ─ a-file(trap) ─ file       reopened together: read-only or not, direct or not,
//!                     '─ a-back(trap) ─ file           another backing image
//!   b-top(trap) ─ b(qcow2) ─ b-file(trap) ─ file
//! ```

use std::collections::BTreeMap;

use drystone_base::{Kind, Result};
use drystone_blockdev::draft::{Draft, change};
use drystone_blockdev::formats::Formats;
use drystone_blockdev::given::Given;
use drystone_blockdev::open::Opener;
use drystone_blockdev::query::graph::graph;
use drystone_blockdev::query::node::nodes;
use drystone_core::control::Task;

use crate::draft::{detach, export, options, read, sync, write};
use crate::host::{Folder, on_control, overlay};
use crate::locks::locked_by;
use crate::trap::{MOMENTS, Moment, Traps};

/// Everything that a change could change.
#[derive(Debug, PartialEq)]
struct World {
    files: BTreeMap<String, Vec<u8>>,
    locks: BTreeMap<String, Vec<u64>>,
    /// Paths and flags of open files.
    descriptors: Vec<(String, String)>,
    options: Vec<String>,
    nodes: String,
    graph: String,
}

impl World {
    fn of(task: &Task<'_>, folder: &Folder) -> Self {
        let mut files = BTreeMap::new();
        let mut locks = BTreeMap::new();
        for name in folder.names() {
            let path = folder.path(&name);
            locks.insert(name.clone(), locked_by("self", &path));
            files.insert(name, std::fs::read(path).unwrap());
        }
        let (options, nodes, graph) = task.gs().with(|view| {
            let given = view.nodes().into_iter().map(|node| format!("{:?}", Given::of(view, node.id)));
            (given.collect(), format!("{:#?}", nodes(view, true)), format!("{:#?}", graph(view)))
        });
        Self { files, locks, descriptors: descriptors(folder), options, nodes, graph }
    }

    /// Says what differs, without printing whole images.
    fn compare(&self, other: &Self, when: &str) {
        assert_eq!(self.files.keys().collect::<Vec<_>>(), other.files.keys().collect::<Vec<_>>(), "{when}");
        for (name, bytes) in &self.files {
            assert!(other.files[name] == *bytes, "{when}: {name} has other bytes");
        }
        assert_eq!(self.locks, other.locks, "{when}");
        assert_eq!(self.descriptors, other.descriptors, "{when}");
        assert_eq!(self.options, other.options, "{when}");
        assert_eq!(self.nodes, other.nodes, "{when}");
        assert_eq!(self.graph, other.graph, "{when}");
    }
}

fn descriptors(folder: &Folder) -> Vec<(String, String)> {
    let root = folder.path("");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        if target.starts_with(&root) {
            let info = std::path::Path::new("/proc/self/fdinfo").join(entry.file_name());
            let info = std::fs::read_to_string(info).unwrap_or_default();
            let flags = info.lines().find(|line| line.starts_with("flags:")).unwrap_or_default().to_owned();
            found.push((target.display().to_string(), flags));
        }
    }
    found.sort();
    found
}

/// The graph of the picture.
struct Scene {
    folder: Folder,
    opener: Opener,
    traps: Traps,
}

impl Scene {
    async fn new(task: &mut Task<'_>) -> Self {
        let traps = Traps::default();
        let formats = Formats::builtin().with(traps.clone());
        let opener = Opener { formats, ..Opener::trusting() };
        let scene = Self { folder: Folder::new(), opener, traps };
        scene.folder.raw("back", b"back");
        scene.folder.raw("other", b"other");
        for name in ["a", "b"] {
            overlay(task, &scene.folder.path(name), None).await;
        }
        for (name, file) in [("a-file", "a"), ("b-file", "b"), ("a-back", "back"), ("a-other", "other")] {
            scene.add(task, &scene.trap(name, file)).await;
        }
        scene.add(task, &image("a", "a-file", r#""a-back""#, "")).await;
        scene.add(task, &image("b", "b-file", "null", "")).await;
        for name in ["a", "b"] {
            scene
                .add(
                    task,
                    &format!(
                        r#"{{"driver":"trap","tag":"{name}-top","node-name":"{name}-top","file":"{name}"}}"#
                    ),
                )
                .await;
        }
        scene
    }

    async fn add(&self, task: &mut Task<'_>, text: &str) {
        let options = options(text);
        change(task, &self.opener, async |draft, task| draft.add(task, options).await).await.unwrap();
    }

    fn trap(&self, name: &str, file: &str) -> String {
        self.trap_with(name, file, "")
    }

    /// A trap on a file that comes with it.
    fn trap_with(&self, name: &str, file: &str, more: &str) -> String {
        let path = self.folder.path(file);
        let path = path.display();
        format!(
            r#"{{"driver":"trap","tag":"{name}","node-name":"{name}"{more},"file":{{"driver":"file","filename":"{path}"}}}}"#
        )
    }

    /// Runs `act` with each trap closed at each moment, and compares; then without.
    async fn try_all(
        &self,
        task: &mut Task<'_>,
        tags: &[&str],
        mut act: impl AsyncFnMut(&mut Task<'_>) -> Result<()>,
    ) {
        let before = World::of(task, &self.folder);
        let mut closed = 0;
        for tag in tags {
            for moment in MOMENTS {
                self.traps.set(moment, tag);
                let result = act(task).await;
                self.traps.clear();
                let when = format!("{moment:?} of {tag}");
                match result {
                    Err(error) => {
                        assert!(error.report().contains(&format!("'{tag}' closed")), "{}", error.report());
                        before.compare(&World::of(task, &self.folder), &when);
                        closed += 1;
                    }
                    // Only what can be written before and not afterwards is stored.
                    Ok(()) => panic!("{when}: it was never asked"),
                }
            }
        }
        assert_eq!(closed, tags.len() * MOMENTS.len());
        act(task).await.unwrap();
    }
}

fn image(name: &str, file: &str, backing: &str, more: &str) -> String {
    format!(r#"{{"driver":"qcow2","node-name":"{name}","file":"{file}","backing":{backing}{more}}}"#)
}

const RO: &str = r#","read-only":true"#;
const DIRECT: &str = r#","cache":{"direct":true}"#;

#[test]
fn a_reopen_of_many_nodes_happens_as_a_whole_or_not_at_all() {
    on_control(async |task| {
        let scene = Scene::new(task).await;
        let user = export(task, "a-top").await.unwrap();
        write(task, &user, 0, b"guest").await.unwrap();
        task.enter(&user).await.flush().await.unwrap();
        detach(task, &user).await;
        let texts = [
            scene.trap_with("a-file", "a", &format!("{RO}{DIRECT}")),
            image("a", "a-file", r#""a-other""#, RO),
            r#"{"driver":"trap","tag":"a-top","node-name":"a-top","file":"a","read-only":true}"#.to_owned(),
            scene.trap_with("b-file", "b", RO),
            image("b", "b-file", "null", &format!(r#"{RO},"l2-cache-size":65536"#)),
            r#"{"driver":"trap","tag":"b-top","node-name":"b-top","file":"b","read-only":true}"#.to_owned(),
        ];
        let tags = ["a-file", "a-top", "b-file", "b-top"];
        scene
            .try_all(task, &tags, async |task| {
                let wanted = texts.iter().map(|text| options(text)).collect();
                change(task, &scene.opener, async |draft, task| draft.reopen(task, wanted)).await
            })
            .await;
        assert!(descriptors(&scene.folder).iter().all(|(path, flags)| {
            let flags = u32::from_str_radix(flags.trim_start_matches("flags:").trim(), 8).unwrap();
            let is_a = path.ends_with("/a");
            (flags & 0o40_000 != 0) == is_a && (flags & 3 == 0 || !(is_a || path.ends_with("/b")))
        }));
    });
}

#[test]
fn nodes_that_only_lose_or_gain_a_user_can_refuse_a_reopen_too() {
    on_control(async |task| {
        let scene = Scene::new(task).await;
        let user = export(task, "a-top").await.unwrap();
        let before = World::of(task, &scene.folder);
        let text = image("a", "a-file", r#""a-other""#, "");
        let reopen = async |task: &mut Task<'_>| {
            let wanted = vec![options(&text)];
            change(task, &scene.opener, async |draft, task| draft.reopen(task, wanted)).await
        };
        for tag in ["a-back", "a-other", "a-file"] {
            for moment in [Moment::Check, Moment::Stage, Moment::Settle] {
                scene.traps.set(moment, tag);
                let error = reopen(task).await.unwrap_err();
                scene.traps.clear();
                assert!(error.report().contains(&format!("'{tag}' closed")), "{}", error.report());
                before.compare(&World::of(task, &scene.folder), &format!("{moment:?} of {tag}"));
                assert_eq!(read(task, &user, 0, 5).await, b"back\0");
            }
        }
        reopen(task).await.unwrap();
        assert_eq!(read(task, &user, 0, 5).await, b"other");
        assert!(locked_by("self", &scene.folder.path("back")).is_empty());
        detach(task, &user).await;
    });
}

#[test]
fn a_transaction_of_snapshots_happens_as_a_whole_or_not_at_all() {
    on_control(async |task| {
        let scene = Scene::new(task).await;
        let users = [export(task, "a-top").await.unwrap(), export(task, "b-top").await.unwrap()];
        for user in &users {
            write(task, user, 0, b"guest").await.unwrap();
            task.enter(user).await.flush().await.unwrap();
        }
        let tags = ["a-top", "b-top"];
        scene
            .try_all(task, &tags, async |task| {
                change(task, &scene.opener, async |draft, task| {
                    let mut one = sync("a-top", &scene.folder.path("new-a"), "new-a");
                    one.format = Some("qcow2".to_owned());
                    draft.snapshot_sync(task, one).await?;
                    draft.snapshot_sync(task, sync("b-top", &scene.folder.path("new-b"), "new-b")).await?;
                    Ok(())
                })
                .await
            })
            .await;
        for user in &users {
            write(task, user, 0, b"after").await.unwrap();
            assert_eq!(read(task, user, 0, 6).await, b"after\0");
        }
    });
}

#[test]
fn an_aborted_transaction_leaves_nothing() {
    on_control(async |task| {
        let scene = Scene::new(task).await;
        let before = World::of(task, &scene.folder);
        let mut draft = Draft::new(&scene.opener);
        draft.snapshot_sync(task, sync("a-top", &scene.folder.path("new"), "new")).await.unwrap();
        assert!(scene.folder.path("new").exists());
        draft.abort(task).await;
        before.compare(&World::of(task, &scene.folder), "aborted");
        // A name that is taken is found out before a file is made; a folder that is missing, before a node is.
        for (file, name) in [("new", "b"), ("none/new", "new")] {
            let wanted = sync("a-top", &scene.folder.path(file), name);
            let done =
                change(task, &scene.opener, async |draft, task| draft.snapshot_sync(task, wanted).await)
                    .await;
            assert!(matches!(done.unwrap_err().kind(), Kind::AlreadyExists | Kind::NotFound));
            before.compare(&World::of(task, &scene.folder), file);
        }
    });
}

#[test]
fn a_reopen_that_is_allowed_when_it_begins_and_not_when_its_turn_comes_leaves_all_as_it_was() {
    on_control(async |task| {
        let scene = Scene::new(task).await;
        let wanted = vec![
            options(&scene.trap_with("a-file", "a", RO)),
            options(&image("a", "a-file", r#""a-other""#, RO)),
        ];
        let mut draft = Draft::new(&scene.opener);
        draft.reopen(task, wanted).unwrap();
        let checked = std::mem::take(draft.plan()).check(task.gs()).map_err(|(_, error)| error).unwrap();
        // Locks are taken and descriptors opened; then somebody comes who writes.
        let staged = task.stage(checked).await.unwrap();
        assert!(descriptors(&scene.folder).len() > 4);
        let user = export(task, "a-top").await.unwrap();
        assert!(matches!(task.admit(staged).await.map(drop), Err(error) if error.kind() == Kind::ReadOnly));
        let after = World::of(task, &scene.folder);
        detach(task, &user).await;
        // The same as if only the writer had come.
        let user = export(task, "a-top").await.unwrap();
        after.compare(&World::of(task, &scene.folder), "admission");
        assert_eq!(read(task, &user, 0, 4).await, b"back");
        detach(task, &user).await;
        draft.abort(task).await;
    });
}
