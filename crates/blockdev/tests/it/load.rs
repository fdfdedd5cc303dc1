//! Nodes reopened, snapshotted and given other children while I/O threads use them: every answer fits a model.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use drystone_base::rng::Rng;
use drystone_base::{Error, GuestOffset, GuestRange, Kind};
use drystone_blockdev::draft::change;
use drystone_blockdev::open::Opener;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{ControlThread, Task};
use drystone_core::runtime::{LocalRef, yield_now};
use drystone_sys::{EngineKind, ThreadHandle, Threads};
use drystone_testkit::client::{BackendClient, Load, Mix, Watched};
use drystone_testkit::disk::Image;
use drystone_testkit::model::ByteModel;

use crate::draft::{add, attach_reader, del, detach, export, names, reopen, report, sync, write};
use crate::host::{Folder, LEN, overlay, tool_says};

/// I/O threads beside the control thread.
const THREADS: u16 = 3;
/// Clients of a disk on each thread, every one with a part of the disk of its own.
const CLIENTS: u64 = 2;
/// How often a graph is changed under load.
const ROUNDS: usize = 30;

/// Clients that go on until they are told to stop.
#[derive(Clone, Default)]
struct Crowd {
    stops: Arc<AtomicBool>,
    running: Arc<AtomicU32>,
    requests: Arc<AtomicU32>,
}

impl Crowd {
    /// Lets the clients of all threads use a disk that shows `contents`.
    fn start(&self, threads: &[ThreadHandle], user: &Backend<ReadWrite>, contents: &[u8], mix: Mix) {
        let part = LEN / (u64::from(THREADS) * CLIENTS);
        let mut number = 0;
        for thread in threads.iter().skip(1) {
            for _ in 0..CLIENTS {
                let (crowd, user, contents, at) =
                    (self.clone(), user.clone(), contents.to_vec(), number * part);
                self.running.fetch_add(1, Ordering::SeqCst);
                thread
                    .spawn(
                        move |local| async move { crowd.run(local, user, &contents, (at, part), mix).await },
                    )
                    .unwrap();
                number += 1;
            }
        }
    }

    async fn run(
        &self,
        local: LocalRef,
        user: Backend<ReadWrite>,
        contents: &[u8],
        part: (u64, u64),
        mix: Mix,
    ) {
        let model = Rc::new(RefCell::new(ByteModel::of(&Image::from_bytes(contents))));
        let mut client = Watched::new(BackendClient::new(&user, &local), &model);
        let range = GuestRange::new(GuestOffset::new(part.0), part.1);
        let load = Load { mix, range, ..Load::new(1, LEN) };
        let mut rng = Rng::new(part.0 + 1);
        while !self.stops.load(Ordering::SeqCst) {
            load.run(&mut client, &mut rng, |error| panic!("a request failed: {}", error.report())).await;
            self.requests.fetch_add(1, Ordering::SeqCst);
        }
        client.read(range).await.unwrap();
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    /// Waits until the clients have made some more requests.
    async fn go_on(&self) {
        let before = self.requests.load(Ordering::SeqCst);
        while self.requests.load(Ordering::SeqCst) < before + 20 && self.running.load(Ordering::SeqCst) > 0 {
            yield_now().await;
        }
    }

    async fn stop(&self) {
        self.stops.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) > 0 {
            yield_now().await;
        }
    }
}

/// Runs `test` as a control task of a graph with I/O threads.
fn with_threads(test: impl AsyncFnOnce(&mut Task<'_>, Vec<ThreadHandle>) + Send + 'static) {
    let mut threads = Threads::start(1 + THREADS, EngineKind::Pool).unwrap();
    let handles = threads.handles().to_vec();
    let done = threads.run_here(async move |local| {
        let (thread, control) = ControlThread::new(local.clone(), 1 + THREADS);
        local.spawn(Box::pin(thread.run()));
        control.call(async move |task: &mut Task<'_>| test(task, handles).await).await
    });
    done.unwrap();
}

fn qcow2(folder: &Folder, name: &str, more: &str) -> String {
    let path = folder.path(name);
    let path = path.display();
    format!(
        r#"{{"driver":"qcow2","node-name":"{name}",{more},"file":{{"driver":"file","filename":"{path}"}}}}"#
    )
}

/// A disk of random bytes.
fn noise(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(LEN).unwrap()];
    Rng::new(seed).fill(&mut bytes);
    bytes
}

async fn add_raw(task: &mut Task<'_>, folder: &Folder, name: &str, bytes: &[u8]) {
    let path = folder.path(name);
    std::fs::write(&path, bytes).unwrap();
    let path = path.display();
    let file = format!(r#"{{"driver":"file","filename":"{path}"}}"#);
    add(task, &format!(r#"{{"driver":"raw","node-name":"{name}","file":{file}}}"#)).await.unwrap();
}

fn demand_sound(folder: &Folder, name: &str) {
    tool_says("qemu-img", &["check", "-q", "-f", "qcow2", folder.path(name).to_str().unwrap()]);
}

#[test]
fn a_disk_is_reopened_in_every_way_under_load() {
    with_threads(async |task, threads| {
        let folder = Folder::new();
        let bytes = noise(1);
        add_raw(task, &folder, "base", &bytes).await;
        add_raw(task, &folder, "copy", &bytes).await;
        overlay(task, &folder.path("disk"), None).await;
        add(task, &qcow2(&folder, "disk", r#""backing":"base""#)).await.unwrap();
        let user = export(task, "disk").await.unwrap();
        let crowd = Crowd::default();
        crowd.start(&threads, &user, &bytes, Mix::ALL);
        let ways = [
            r#""backing":"copy""#,
            r#""backing":"copy","cache":{"direct":true}"#,
            r#""backing":"base","discard":"unmap","detect-zeroes":"unmap""#,
            r#""backing":"base","cache":{"no-flush":true},"l2-cache-size":8192"#,
            r#""backing":"base""#,
        ];
        for round in 0..ROUNDS {
            let way = qcow2(&folder, "disk", ways[round % ways.len()]);
            reopen(task, &[&way]).await.unwrap_or_else(|error| panic!("{way}: {}", error.report()));
            let refused = qcow2(&folder, "disk", r#""backing":"copy","read-only":true"#);
            assert!(reopen(task, &[&refused]).await.is_err(), "it is written");
            crowd.go_on().await;
        }
        crowd.stop().await;
        detach(task, &user).await;
        del(task, "disk").await.unwrap();
        demand_sound(&folder, "disk");
    });
}

#[test]
fn a_disk_gets_a_child_that_another_thread_uses() {
    with_threads(async |task, threads| {
        let folder = Folder::new();
        let (bytes, other) = (noise(1), noise(2));
        add_raw(task, &folder, "shared", &bytes).await;
        for name in ["a", "b"] {
            overlay(task, &folder.path(name), None).await;
            add(task, &qcow2(&folder, name, r#""backing":null"#)).await.unwrap();
        }
        let users = [export(task, "a").await.unwrap(), export(task, "b").await.unwrap()];
        // All of them is allocated: whatever is behind does not show.
        for user in &users {
            write(task, user, 0, &other).await.unwrap();
        }
        let reader = attach_reader(task, "shared").await;
        let crowd = Crowd::default();
        const READS: Mix = Mix { reads: 1, writes: 0, zeroes: 0, discards: 0, flushes: 0 };
        const WRITES: Mix = Mix { reads: 3, writes: 3, zeroes: 0, discards: 0, flushes: 1 };
        crowd.start(&threads, &reader, &bytes, READS);
        for user in &users {
            crowd.start(&threads, user, &other, WRITES);
        }
        for round in 0..ROUNDS {
            let (gains, direct) = (round % 2 == 0, round % 3 == 0);
            let backing = if gains { r#""backing":"shared""# } else { r#""backing":null"# };
            let cache = format!(r#""backing":null,"cache":{{"direct":{direct}}}"#);
            let both = [qcow2(&folder, "a", backing), qcow2(&folder, "b", &cache)];
            reopen(task, &[&both[0], &both[1]]).await.unwrap();
            assert_eq!(report(task, "a").backing_file_depth, usize::from(gains));
            crowd.go_on().await;
        }
        crowd.stop().await;
        for user in users.iter().chain([&reader]) {
            detach(task, user).await;
        }
        for name in ["a", "b"] {
            del(task, name).await.unwrap();
            demand_sound(&folder, name);
        }
    });
}

#[test]
fn two_disks_are_snapshotted_together_under_load() {
    with_threads(async |task, threads| {
        let folder = Folder::new();
        let bytes = noise(3);
        let mut tops = ["a".to_owned(), "b".to_owned()];
        let crowd = Crowd::default();
        let (mut users, opener) = (Vec::new(), Opener::trusting());
        for name in &tops {
            add_raw(task, &folder, name, &bytes).await;
            let user = export(task, name).await.unwrap();
            crowd.start(&threads, &user, &bytes, Mix::ALL);
            users.push(user);
        }
        for round in 0..ROUNDS / 3 {
            let wanted = tops.clone().map(|top| {
                let name = format!("{}-{round}", &top[..1]);
                sync(&top, &folder.path(&name), &name)
            });
            tops = wanted.clone().map(|wanted| wanted.node_name.unwrap());
            let fails = round % 3 == 2;
            let done = change(task, &opener, async |draft, task| {
                for wanted in wanted {
                    draft.snapshot_sync(task, wanted).await?;
                }
                if fails { Err(Error::new(Kind::Cancelled, "abort")) } else { Ok(()) }
            });
            assert_eq!(done.await.is_err(), fails);
            if fails {
                tops = tops.map(|top| format!("{}-{}", &top[..1], round - 1));
            }
            crowd.go_on().await;
        }
        crowd.stop().await;
        for user in &users {
            detach(task, user).await;
        }
        assert_eq!(names(task).len(), 4, "overlays go with their users");
        demand_sound(&folder, "a-0");
    });
}
