//! Commands that change images and the graph, cut at every boundary: new images, snapshots, other names of backing files,
//! other modes and options, other lengths, copy-on-read; with a guest at work, and all disks without power at the same
//! moment.
//!
//! | disk | holds |
//! |---|---|
//! | 0, 1, ... | `layer0`, `layer1`, ...: a chain, lowest first |
//! | behind the chain | the file of an overlay that is to come |
//!
//! Whatever survived: images are whole; a new image is there as a whole or not at all, and what was in its file before is
//! whole or gone; as soon as the overlay is an image, the chain with it shows what the guest has written, and without it
//! before. Then the same is done once more.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_base::{Error, HostOffset, Result};
use drystone_blockdev::backing::change_backing_file;
use drystone_blockdev::formats::BackingName;
use drystone_blockdev::open::Opener;
use drystone_blockdev::options::Options;
use drystone_blockdev::resize::resize;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Plan, RootSpec, Task};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_format::qcow2::Header;
use drystone_format::qcow2::check::{Class, Finding, Source, check};
use drystone_protocol::file::create::{Before, store};
use drystone_testkit::client::{BackendClient, Load, Mix, SharedModel, Watched};
use drystone_testkit::crash::{CrashPoints, Subject};
use drystone_testkit::disk::{DiskOptions, Image, SimDisk};
use drystone_testkit::graph::{SimDriver, SimGraph};
use drystone_testkit::model::{ByteModel, DiscardRule, Ending};
use drystone_testkit::sim::Sim;

use crate::draft::{add, del, reopen, snapshot};

const LEN: u64 = 64 << 10;
/// What overlays call their backing file at first.
const BASE: &str = "base.img";

// Images at rest.

/// What a new image consists of, stored on `disk`.
async fn make(task: &Task<'_>, disk: &SimDisk, len: u64, names_base: bool) -> Result<()> {
    let backing = BackingName { name: BASE.into(), format: Some("qcow2".to_owned()) };
    let mut options = Options::from_json(r#"{"cluster_size":4096}"#).unwrap();
    let opener = Opener::trusting();
    let format = opener.formats.find("qcow2")?;
    let contents = format.contents(len, names_base.then_some(&backing), &mut options)?;
    store(task.local_ref(), disk, contents, Before { has_old: true, len: disk.len() }).await
}

fn header(image: &Image) -> Option<Header> {
    let area = Header::area_len_bytes(&image.bytes(0..512)).ok()?;
    Header::parse(&image.bytes(0..area as u64)).ok()
}

fn name_of(image: &Image) -> Option<String> {
    let header = header(image)?;
    Some(String::from_utf8(header.backing_name()?.to_vec()).unwrap())
}

/// An image, for the check.
struct Bytes<'i>(&'i Image);

impl Source for Bytes<'_> {
    fn len_bytes(&self) -> u64 {
        self.0.len()
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        Ok(self.0.bytes(at.get()..at.get() + len_bytes as u64))
    }
}

/// Fails if the check finds more than leaks.
fn demand_consistent(image: &Image) {
    let mut findings = Vec::new();
    let note = |found: &Finding| {
        if found.class() != Class::Leak {
            findings.push(found.to_string());
        }
    };
    let sim = Sim::seeded(0);
    let header = header(image).expect("an image");
    let outcome = sim.block_on(&sim.io(1), check(&Bytes(image), &header, note)).unwrap().unwrap();
    assert_eq!((outcome.corruptions, outcome.check_errors), (0, 0), "{findings:#?}");
}

fn are_disturbed(disks: &[SimDisk]) -> bool {
    disks.iter().any(|disk| disk.power().is_off())
}

/// Only a power cut lets anything fail.
fn expect<T>(disks: &[SimDisk], result: Result<T>) -> Option<T> {
    result.map_err(|error| assert!(are_disturbed(disks), "{}", error.report())).ok()
}

// Images in use.

/// A graph of images on disks and what a guest may see in it.
struct Scene<'s> {
    sim: &'s Sim,
    graph: SimGraph<'s>,
    disks: Vec<SimDisk>,
    model: SharedModel,
}

impl<'s> Scene<'s> {
    fn new(sim: &'s Sim, disks: &[SimDisk], model: &ByteModel) -> Self {
        let model = Rc::new(RefCell::new(model.clone()));
        Self { sim, graph: SimGraph::start(sim), disks: disks.to_vec(), model }
    }

    fn call<T, F>(&self, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) -> Result<T> + Send + 'static,
    {
        let result = self.graph.call(work);
        expect(&self.disks, result)
    }

    /// The first `count` images as a chain, the last to be written.
    fn open(&self, count: usize) -> Option<()> {
        let disks = self.disks.clone();
        self.call(async move |task| {
            for (n, disk) in disks.iter().take(count).enumerate() {
                add_file(task, n, disk).await?;
                let below = n.checked_sub(1).map_or("null".to_owned(), |below| format!("\"layer{below}\""));
                add_layer(task, n, &format!(r#""backing":{below},"read-only":{}"#, n + 1 < count)).await?;
            }
            Ok(())
        })
    }

    fn export(&self, node: &str) -> Option<Backend<ReadWrite>> {
        let node = node.to_owned();
        self.call(async move |task| {
            let mut plan = Plan::new();
            let id = task.gs().find(&node)?;
            // Others may change the length.
            let grant = Grant { perm: Grant::WRITER.perm, shared: Perm::ALL };
            let spec = RootSpec { name: "guest".to_owned(), grant, stays: false };
            let user = plan.attach_root(task.gs(), id, spec);
            task.apply(plan).await?;
            Ok(user)
        })
    }

    /// Clients that make random requests; how many are still at it.
    fn guest(&self, user: &Backend<ReadWrite>, mix: Mix, requests: u64) -> Rc<Cell<u32>> {
        let running = Rc::new(Cell::new(2));
        for thread in [1, 2] {
            let local = self.sim.io(thread);
            let mut client = Watched::new(BackendClient::new(user, &local), &self.model);
            let mut rng = Rng::new(self.sim.seed() ^ u64::from(thread));
            let load = Load { mix, discard: DiscardRule::OldOrZero, ..Load::new(requests, LEN) };
            let (running, disks) = (Rc::clone(&running), self.disks.clone());
            self.sim.spawn(&local, "guest", async move {
                let on_error = |error: Error| assert!(are_disturbed(&disks), "{}", error.report());
                load.run(&mut client, &mut rng, on_error).await;
                running.set(running.get() - 1);
            });
        }
        running
    }

    fn wait(&self, running: &Rc<Cell<u32>>) {
        self.sim.run_until(|| running.get() == 0).unwrap();
    }

    /// Takes the user and the named nodes away, everything is stored.
    fn close(&self, user: &Backend<ReadWrite>, nodes: &[&str]) -> Option<()> {
        let (user, nodes): (_, Vec<String>) = (user.clone(), nodes.iter().map(ToString::to_string).collect());
        self.storing(async move |task| {
            detach(task, &user).await?;
            for node in nodes {
                del(task, &node).await?;
            }
            Ok(())
        })
    }

    /// Does something that stores everything.
    fn storing<T, F>(&self, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) -> Result<T> + Send + 'static,
    {
        let flush = self.model.borrow_mut().begin_flush();
        let done = self.call(work)?;
        self.model.borrow_mut().end_flush(flush);
        Some(done)
    }

    fn read_all(&self, user: &Backend<ReadWrite>) {
        let mut client = Watched::new(BackendClient::new(user, &self.sim.io(1)), &self.model);
        let whole = drystone_testkit::notation::range(&format!("0..{}", self.model.borrow().len()));
        self.sim.block_on(&self.sim.io(1), client.read(whole)).unwrap().unwrap();
    }

    /// What is known if the power goes off now.
    fn known(self) -> ByteModel {
        let mut model = self.model.borrow().clone();
        self.graph.finish();
        model.crash();
        model
    }
}

async fn detach(task: &mut Task<'_>, user: &Backend<ReadWrite>) -> Result<()> {
    let mut plan = Plan::new();
    plan.detach_root(user.id());
    task.apply(plan).await
}

async fn add_file(task: &mut Task<'_>, n: usize, disk: &SimDisk) -> Result<()> {
    let mut opening = Opening::new(task);
    opening.add(SimDriver::node(&format!("file{n}"), disk))?;
    let mut plan = Plan::new();
    plan.insert(opening);
    task.apply(plan).await
}

async fn add_layer(task: &mut Task<'_>, n: usize, more: &str) -> Result<()> {
    add(task, &layer(n, more)).await
}

fn layer(n: usize, more: &str) -> String {
    let caches = r#""l2-cache-size":4096,"refcount-cache-size":16384"#;
    format!(r#"{{"driver":"qcow2","node-name":"layer{n}","file":"file{n}",{caches},{more}}}"#)
}

// What is done.

const WRITES: Mix = Mix { reads: 2, writes: 6, zeroes: 1, discards: 1, flushes: 2 };

/// What is done to a chain, with a guest of the image on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Snapshot,
    Rename,
    Reopen,
    Resize,
    CopyOnRead,
}

struct Commanded {
    deed: Deed,
    chain: Vec<Image>,
    model: ByteModel,
    /// What is in the file of the overlay that is to come.
    old: Option<Image>,
}

#[derive(Debug, Clone)]
struct Known {
    model: ByteModel,
    /// What the image below the top may call its backing file.
    names: Vec<Option<String>>,
}

impl Commanded {
    /// For a chain of `layers` images, each with data of its own.
    fn new(deed: Deed, layers: usize) -> Self {
        let (mut chain, mut model) = (Vec::new(), ByteModel::zeroed(LEN));
        for n in 0..layers {
            let sim = Sim::seeded(n as u64);
            let images = chain.iter().cloned().chain([Image::new(0)]);
            let disks: Vec<SimDisk> =
                images.map(|image| SimDisk::new(image, DiskOptions::seeded(n as u64))).collect();
            let scene = Scene::new(&sim, &disks, &model);
            let file = disks[n].clone();
            scene.call(async move |task| make(task, &file, LEN, n > 0).await).unwrap();
            scene.open(n + 1).unwrap();
            let user = scene.export(&format!("layer{n}")).unwrap();
            let running = scene.guest(&user, Mix { flushes: 0, ..WRITES }, 4);
            scene.wait(&running);
            scene.read_all(&user);
            scene.close(&user, &[&format!("layer{n}")]).unwrap();
            drop(user);
            chain = disks.iter().map(SimDisk::image).collect();
            model = scene.known();
        }
        Self { deed, chain, model, old: None }
    }

    fn images(&self) -> Vec<Image> {
        let overlay = (self.deed == Deed::Snapshot).then(|| self.old.clone().unwrap_or_default());
        self.chain.iter().cloned().chain(overlay).collect()
    }

    fn points(&self, name: &str) -> CrashPoints {
        CrashPoints::of(name, self.images())
    }

    fn look_at(&self, name: &str) {
        self.points(name).look_at(self);
    }

    /// How many images are a chain: also the overlay's, once it is one.
    fn depth(&self, disks: &[SimDisk]) -> usize {
        let Some(file) = disks.get(self.chain.len()) else { return self.chain.len() };
        let image = file.image();
        match header(&image) {
            None => self.chain.len(),
            Some(header) if header.backing_name().is_some() => self.chain.len() + 1,
            Some(_) => {
                assert!(Some(&image) == self.old.as_ref(), "what was in the file is neither whole nor gone");
                self.chain.len()
            }
        }
    }

    fn work(&self, sim: &Sim, disks: &[SimDisk], known: Known) -> Known {
        let scene = Scene::new(sim, disks, &known.model);
        let names = RefCell::new(known.names);
        let depth = self.depth(disks);
        let _ = self.act(&scene, depth, &names);
        Known { model: scene.known(), names: names.take() }
    }

    fn act(&self, scene: &Scene<'_>, depth: usize, names: &RefCell<Vec<Option<String>>>) -> Option<()> {
        scene.open(depth)?;
        let top = format!("layer{}", depth - 1);
        let mut user_of = top.clone();
        if self.deed == Deed::CopyOnRead {
            let text = format!(r#"{{"driver":"copy-on-read","node-name":"filter","file":"{top}"}}"#);
            scene.call(async move |task| add(task, &text).await)?;
            user_of = "filter".to_owned();
        }
        let user = scene.export(&user_of)?;
        let mix = if self.deed == Deed::CopyOnRead { Mix { reads: 12, ..WRITES } } else { WRITES };
        let running = scene.guest(&user, mix, 5);
        let done = self.command(scene, depth, names);
        scene.wait(&running);
        done?;
        match self.deed {
            Deed::Snapshot => scene.close(&user, &["layer1", "layer0"]),
            Deed::CopyOnRead => scene.close(&user, &["filter", &top]),
            Deed::Reopen => self.to_read_and_back(scene, &user, &top),
            Deed::Rename | Deed::Resize => scene.close(&user, &[&top]),
        }
    }

    /// What goes on beside the guest.
    fn command(&self, scene: &Scene<'_>, depth: usize, names: &RefCell<Vec<Option<String>>>) -> Option<()> {
        match self.deed {
            Deed::Snapshot if depth == self.chain.len() => {
                let file = scene.disks[depth].clone();
                scene.call(async move |task| {
                    make(task, &file, LEN, true).await?;
                    add_file(task, depth, &file).await?;
                    add_layer(task, depth, r#""backing":null"#).await?;
                    snapshot(task, &format!("layer{}", depth - 1), &format!("layer{depth}")).await
                })
            }
            Deed::Rename => {
                for name in ["other.img", "a-much-longer-name-of-an-image.img"] {
                    names.borrow_mut().push(Some(name.to_owned()));
                    let (top, below) = (format!("layer{}", depth - 1), format!("layer{}", depth - 2));
                    scene.call(async move |task| {
                        change_backing_file(task, &top, &below, OsStr::new(name)).await
                    })?;
                    *names.borrow_mut() = vec![Some(name.to_owned())];
                }
                Some(())
            }
            Deed::Reopen => {
                for more in [r#""backing":"layer0","l2-cache-size":1048576"#, r#""backing":"layer0""#] {
                    let more = layer(depth - 1, more).replacen(
                        r#""l2-cache-size":4096,"#,
                        "",
                        usize::from(more.contains("l2")),
                    );
                    scene.call(async move |task| reopen(task, &[&more]).await)?;
                }
                Some(())
            }
            Deed::Resize => {
                let len = scene.model.borrow().len() + (32 << 10);
                let resized = scene.model.borrow_mut().begin_resize(len);
                let top = format!("layer{}", depth - 1);
                let done = scene.call(async move |task| resize(task, &top, len).await);
                let ending = if done.is_some() { Ending::Done } else { Ending::Failed };
                scene.model.borrow_mut().end_write(resized, ending);
                done
            }
            Deed::Snapshot | Deed::CopyOnRead => Some(()),
        }
    }

    /// Takes the user away, lets the image be read only, then written again, with the file read around the page cache.
    fn to_read_and_back(&self, scene: &Scene<'_>, user: &Backend<ReadWrite>, top: &str) -> Option<()> {
        let n = self.chain.len() - 1;
        let user = user.clone();
        scene.storing(async move |task| {
            detach(task, &user).await?;
            reopen(task, &[&layer(n, r#""backing":"layer0","read-only":true"#)]).await?;
            reopen(task, &[&layer(n, r#""backing":"layer0","cache":{"direct":true}"#)]).await
        })?;
        let user = scene.export(top)?;
        let running = scene.guest(&user, WRITES, 3);
        scene.wait(&running);
        scene.close(&user, &[top])
    }
}

impl Subject for Commanded {
    type Known = Known;

    fn change(&self, sim: &Sim, disks: &[SimDisk]) -> Known {
        let names = vec![self.chain.iter().rev().nth(1).and_then(name_of)];
        self.work(sim, disks, Known { model: self.model.clone(), names })
    }

    fn verify(&self, sim: &Sim, disks: &[SimDisk], known: &Known) -> Known {
        let depth = self.depth(disks);
        let found: Vec<Image> = disks.iter().take(depth).map(SimDisk::image).collect();
        found.iter().for_each(demand_consistent);
        let name = self.chain.len().checked_sub(2).and_then(|below| name_of(&found[below]));
        assert!(known.names.contains(&name), "the backing file is called {name:?}, not {:?}", known.names);
        let mut model = known.model.clone();
        if self.deed == Deed::Resize {
            model.found_len(header(&found[depth - 1]).unwrap().len_guest());
        }
        let scene = Scene::new(sim, disks, &model);
        scene.open(depth).unwrap();
        let top = format!("layer{}", depth - 1);
        let user = scene.export(&top).unwrap();
        scene.read_all(&user);
        scene.close(&user, &[&top]).unwrap();
        drop(user);
        let model = scene.model.borrow().clone();
        scene.graph.finish();
        Known { model, names: vec![name] }
    }

    fn go_on(&self, sim: &Sim, disks: &[SimDisk], known: Known) -> Known {
        self.work(sim, disks, known)
    }
}

/// A new image in a file or on a device, over an old one or nothing.
struct Created {
    old: Option<Image>,
}

impl Created {
    fn make(&self, sim: &Sim, disks: &[SimDisk]) -> Vec<&'static str> {
        let graph = SimGraph::start(sim);
        let disk = disks[0].clone();
        let made = graph.call(async move |task: &mut Task<'_>| make(task, &disk, LEN, true).await);
        graph.finish();
        if expect(disks, made).is_some() { vec!["new"] } else { vec!["nothing", "old", "new"] }
    }
}

impl Subject for Created {
    /// What may be there.
    type Known = Vec<&'static str>;

    fn change(&self, sim: &Sim, disks: &[SimDisk]) -> Self::Known {
        self.make(sim, disks)
    }

    fn verify(&self, _: &Sim, disks: &[SimDisk], known: &Self::Known) -> Self::Known {
        let image = disks[0].image();
        let found = match header(&image) {
            None => "nothing",
            Some(_) if Some(&image) == self.old.as_ref() => "old",
            Some(header) => {
                assert_eq!(header.backing_name(), Some(BASE.as_bytes()), "an old image that is not whole");
                demand_consistent(&image);
                "new"
            }
        };
        assert!(known.contains(&found), "{found} is there, not {known:?}");
        vec![found]
    }

    fn go_on(&self, sim: &Sim, disks: &[SimDisk], _: Self::Known) -> Self::Known {
        self.make(sim, disks)
    }
}

/// An image that is not empty.
fn old_image() -> Image {
    Commanded::new(Deed::Snapshot, 1).chain.remove(0)
}

#[test]
fn new_image() {
    let subject = Created { old: None };
    CrashPoints::of("new image", vec![Image::new(0)]).look_at(&subject);
}

#[test]
fn new_image_over_an_old_one() {
    let old = old_image();
    CrashPoints::of("new image over an old one", vec![old.clone()]).look_at(&Created { old: Some(old) });
}

#[test]
fn new_image_on_a_device() {
    let mut old = old_image();
    old.set_len(1 << 20);
    let points = CrashPoints::of("new image on a device", vec![old.clone()]);
    let disks = DiskOptions { can_grow: false, ..points.disks.clone() };
    CrashPoints { disks, ..points }.look_at(&Created { old: Some(old) });
}

#[test]
fn snapshot_beside_a_guest() {
    Commanded::new(Deed::Snapshot, 1).look_at("snapshot beside a guest");
}

#[test]
fn snapshot_into_a_file_with_an_old_image() {
    let old = Some(old_image());
    Commanded { old, ..Commanded::new(Deed::Snapshot, 1) }.look_at("snapshot into a file with an old image");
}

#[test]
fn backing_file_of_a_layer_gets_another_name() {
    Commanded::new(Deed::Rename, 3).look_at("backing file of a layer gets another name");
}

#[test]
fn reopened_with_other_caches_and_modes() {
    Commanded::new(Deed::Reopen, 2).look_at("reopened with other caches and modes");
}

#[test]
fn reopened_on_a_disk_with_large_sectors() {
    let subject = Commanded::new(Deed::Reopen, 2);
    let points = subject.points("reopened on a disk with sectors of 4 KiB");
    let disks = DiskOptions { align_bytes: 4096, sector_bytes: 4096, ..points.disks.clone() };
    CrashPoints { disks, ..points }.look_at(&subject);
}

#[test]
fn resize_beside_a_guest() {
    Commanded::new(Deed::Resize, 2).look_at("resize beside a guest");
}

#[test]
fn copy_on_read_beside_a_guest() {
    Commanded::new(Deed::CopyOnRead, 2).look_at("copy-on-read beside a guest");
}
