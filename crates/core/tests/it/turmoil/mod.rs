//! Everything at once: three I/O threads with several lanes each, while control tasks change the disks under them.
//!
//! ```text
//!   lanes, visitors (I/O threads)  --reads, writes, zeroes, flushes, resizes-->  disk a --.
//!                                                              -->  disk b --+--> golden
//!   control tasks: snapshots, filters in and out, read-only and back, quiet sections that nest and overlap, users that
//!   come and go, plans that are refused, fail while they stage, store or settle, or are given up half way
//! ```
//! Every read is checked against a byte model, and every driver checks that nobody meets it while it is quiet, after it was
//! closed, or writes to a layer that was frozen by a snapshot (`audit`). At the end nothing waits, nothing is staged,
//! nothing is closed, and every disk holds what its model says. A failing run prints its seed.

mod audit;
mod disk;

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use drystone_base::rng::Rng;
use drystone_base::{Error, GuestOffset, GuestRange, Kind};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Control, Opening, Plan, Task};
use drystone_core::runtime::{LocalFuture, LocalRef};
use drystone_testkit::client::{BackendClient, Load, SharedModel, Watched};
use drystone_testkit::disk::{DiskOptions, Image, SimDisk};
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::SimOptions;

use self::audit::Audit;
use self::disk::{Shared, TurmoilDisk, add_device};
use crate::fixture::BLOCK;
use crate::world::{SHARING_READER, SHARING_WRITER, World, attach, detach, insert};

const THREADS: u16 = 3;
const LANES: u16 = 2;
/// Few blocks, so that requests meet.
const LEN: u64 = 6 * BLOCK;
const REQUESTS_MIN: u64 = 4;
const REQUESTS_MAX: u64 = 20;
const CHANGES: u64 = 7;
const NAMES: [&str; 2] = ["a", "b"];

/// How many tasks are at work. Clones count the same.
#[derive(Clone, Default)]
struct AtWork(Arc<AtomicU64>);

/// One of them.
struct Working(AtWork);

impl AtWork {
    fn begin(&self) -> Working {
        self.0.fetch_add(1, Ordering::SeqCst);
        Working(self.clone())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the clients of one disk need.
#[derive(Clone)]
struct Client {
    control: Control,
    main: Backend<ReadWrite>,
    shared: Shared,
    model: SharedModel,
    at_work: AtWork,
}

impl Client {
    /// Requests on one lane while the control task is at work.
    async fn run_lane(self, local: LocalRef, mut rng: Rng) {
        let mut client = Watched::new(BackendClient::new(&self.main, &local), &self.model);
        for number in 0..REQUESTS_MAX {
            if number >= REQUESTS_MIN && self.shared.is_over.load(Ordering::SeqCst) {
                return;
            }
            let shared = &self.shared;
            self.one(&mut client, &mut rng, |error| {
                let is_toggled = shared.is_toggled.load(Ordering::SeqCst);
                assert!(is_toggled && error.kind() == Kind::ReadOnly, "a request failed: {}", error.report());
            })
            .await;
            if rng.one_in(4) {
                local.sleep_until(local.now_ns() + rng.below(1_000_000)).await;
            }
        }
    }

    async fn one(&self, client: &mut Watched<BackendClient>, rng: &mut Rng, on_error: impl FnMut(Error)) {
        let len = self.model.borrow().len();
        Load::new(1, len).run(client, rng, on_error).await;
    }

    /// Makes the disk longer, a few times.
    async fn run_resizes(self, local: LocalRef, mut rng: Rng) {
        let mut client = Watched::new(BackendClient::new(&self.main, &local), &self.model);
        for _ in 0..2 {
            local.sleep_until(local.now_ns() + rng.below(3_000_000)).await;
            if self.shared.try_take() {
                let len = self.model.borrow().len() + BLOCK;
                client.resize(len).await.unwrap();
                self.shared.give_back();
            }
        }
    }

    /// A second user comes, makes requests, and is taken out while it does.
    async fn run_visitor(self, local: LocalRef, mut rng: Rng) {
        local.sleep_until(local.now_ns() + rng.below(2_000_000)).await;
        let shared = self.shared.clone();
        let came = self.control.call(async move |task: &mut Task<'_>| {
            if !shared.try_take() {
                return None;
            }
            let head = *shared.head.lock().unwrap();
            let backend = attach::<ReadWrite>(task, head, "visitor", SHARING_WRITER).await;
            shared.give_back();
            // Drivers may fail to prepare for it.
            backend.ok()
        });
        let Some(backend) = came.await.unwrap() else { return };
        let leaving = backend.clone();
        let (pause_ns, working) = (rng.below(2_000_000), self.at_work.begin());
        self.control.spawn(async move |task: &mut Task<'_>| {
            let _working = working;
            let until_ns = task.local().now_ns() + pause_ns;
            task.sleep_until(until_ns).await;
            leave(task, &leaving).await;
        });
        let mut client = Watched::new(BackendClient::new(&backend, &local), &self.model);
        let is_out = std::cell::Cell::new(false);
        while !is_out.get() {
            self.one(&mut client, &mut rng, |error| {
                assert_eq!(error.kind(), Kind::NotFound, "a visitor's request failed: {}", error.report());
                is_out.set(true);
            })
            .await;
            local.sleep_until(local.now_ns() + rng.below(500_000)).await;
        }
    }
}

/// Takes a user out, however often drivers fail at that.
async fn leave(task: &mut Task<'_>, user: &Backend<ReadWrite>) {
    while detach(task, user).await.is_err() {
        let until_ns = task.local().now_ns() + 10_000;
        task.sleep_until(until_ns).await;
    }
}

/// Readers come to whatever the users of a disk stand on, and go.
async fn readers(task: &mut Task<'_>, shared: &Shared, rng: &mut Rng) {
    for _ in 0..4 {
        let head = *shared.head.lock().unwrap();
        // A filter may have left the graph meanwhile, and drivers may fail.
        if let Ok(reader) = attach::<ReadWrite>(task, head, "reader", SHARING_READER).await {
            let until_ns = task.local().now_ns() + rng.below(1_000_000);
            task.sleep_until(until_ns).await;
            leave(task, &reader).await;
        }
    }
}

fn image(seed: u64) -> Image {
    let mut bytes = vec![0; usize::try_from(LEN).unwrap()];
    Rng::new(seed).fill(&mut bytes);
    Image::from_bytes(&bytes)
}

/// One run.
fn play(seed: u64) {
    let world =
        World::with(SimOptions { io_threads: THREADS, steps_max: 100_000, ..SimOptions::seeded(seed) });
    let mut rng = world.sim.rng();
    let audit = Audit::default();
    let golden = SimDisk::new(image(seed), DiskOptions::seeded(seed));
    let (own, first) = (audit.clone(), rng.next_u64());
    let disks = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let golden = (add_device(&mut opening, &own, "golden", golden).unwrap(), "golden".to_owned());
        insert(task, opening).await.unwrap();
        let mut disks = Vec::new();
        for (name, seed) in NAMES.iter().zip(first..) {
            disks.push(TurmoilDisk::make(task, name, &own, golden.clone(), seed).await);
        }
        disks
    });
    let at_work = AtWork::default();
    let clients: Vec<Client> =
        disks.into_iter().map(|disk| start_disk(&world, disk, &audit, &at_work, &mut rng)).collect();
    world.sim.run_until(|| at_work.0.load(Ordering::SeqCst) == 0).unwrap();
    clients.iter().for_each(|client| check_contents(&world, client));
    drop(clients);
    check_balance(&world, &audit);
    world.end();
    audit.assert_balanced();
}

/// Lets everybody loose on a disk.
fn start_disk(
    world: &World,
    mut disk: TurmoilDisk,
    audit: &Audit,
    at_work: &AtWork,
    rng: &mut Rng,
) -> Client {
    let client = Client {
        control: world.control.clone(),
        main: disk.main.clone(),
        shared: disk.shared.clone(),
        model: Rc::new(RefCell::new(ByteModel::of(&image(world.sim.seed())))),
        at_work: at_work.clone(),
    };
    start_clients(world, &client, rng);
    let (shared, mut own) = (disk.shared.clone(), Rng::new(rng.next_u64()));
    let working = at_work.begin();
    world.control.spawn(async move |task: &mut Task<'_>| {
        let _working = working;
        readers(task, &shared, &mut own).await;
    });
    let (audit, working) = (audit.clone(), at_work.begin());
    world.control.spawn(async move |task: &mut Task<'_>| {
        let _working = working;
        disk.run(task, CHANGES).await;
        assert!(disk.names().iter().all(|name| !audit.is_closed(name)), "closed, and in the graph");
    });
    client
}

fn start_clients(world: &World, client: &Client, rng: &mut Rng) {
    let mut start =
        |thread: u16, name: &str, work: &dyn Fn(Client, LocalRef, Rng) -> LocalFuture<'static, ()>| {
            let (local, working) = (world.sim.io(thread), client.at_work.begin());
            let work = work(client.clone(), local.clone(), Rng::new(rng.next_u64()));
            world.sim.spawn(&local, name, async move {
                let _working = working;
                work.await;
            });
        };
    for thread in 1..=THREADS {
        for _ in 0..LANES {
            start(thread, "a lane", &|client, local, rng| Box::pin(client.run_lane(local, rng)));
        }
    }
    start(1, "resizes", &|client, local, rng| Box::pin(client.run_resizes(local, rng)));
    start(2, "a visitor", &|client, local, rng| Box::pin(client.run_visitor(local, rng)));
}

fn check_contents(world: &World, client: &Client) {
    let local = world.sim.io(1);
    let mut reader = Watched::new(BackendClient::new(&client.main, &local), &client.model);
    let whole = GuestRange::new(GuestOffset::ZERO, client.model.borrow().len());
    world.sim.block_on(&local, reader.read(whole)).unwrap().unwrap();
}

/// No gate is closed, nobody is quiet, nobody waits; and everything can be drained and taken out.
fn check_balance(world: &World, audit: &Audit) {
    let audit = audit.clone();
    world.on_control(async move |task: &mut Task<'_>| {
        let (nodes, roots) = task.gs().with(|graph| (graph.nodes(), graph.roots()));
        assert!(nodes.iter().all(|node| node.quiet == 0 && !audit.is_closed(&node.name)), "{nodes:?}");
        assert!(roots.iter().all(|root| !root.closed && root.name.starts_with("owner")), "{roots:?}");
        // One line is that of this very call.
        let report = task.gs().waits().report();
        assert_eq!(report.lines().count(), 1, "{report}");
        drop(task.drain_all().await);
        let mut plan = Plan::new();
        roots.iter().for_each(|root| plan.detach_root(root.id));
        task.apply(plan).await.unwrap();
        let names: Vec<String> = nodes.into_iter().map(|node| node.name).collect();
        // Users first: an owned node leaves when it has none.
        for name in names.iter().rev() {
            let Ok(id) = task.gs().find(name) else { continue };
            let mut plan = Plan::new();
            plan.remove(id);
            let _in_use = task.apply(plan).await;
        }
    });
}

fn play_all(seeds: Range<u64>) {
    seeds.for_each(play);
}

#[test]
fn disks_hold_what_was_written_whatever_happens_to_the_graph_1() {
    play_all(0..250);
}

#[test]
fn disks_hold_what_was_written_whatever_happens_to_the_graph_2() {
    play_all(250..500);
}

#[test]
fn disks_hold_what_was_written_whatever_happens_to_the_graph_3() {
    play_all(500..750);
}

#[test]
fn disks_hold_what_was_written_whatever_happens_to_the_graph_4() {
    play_all(750..1000);
}

#[test]
fn disks_hold_what_was_written_whatever_happens_to_the_graph_5() {
    play_all(1000..1250);
}

#[test]
fn disks_hold_what_was_written_whatever_happens_to_the_graph_6() {
    play_all(1250..1500);
}

#[test]
fn disks_hold_what_was_written_whatever_happens_to_the_graph_7() {
    play_all(1500..1750);
}

#[test]
fn disks_hold_what_was_written_whatever_happens_to_the_graph_8() {
    play_all(1750..2000);
}
