//! A file that somebody made, opened as a qcow2 image on a simulated disk.
//!
//! ```text
//!   input: | script: 24 bytes, 3 for each request | file |
//!   file ──► check ──► repair, on its own ──► check
//!   file ──► read, twice, read-only ──► the requests of the script, writable ──► check
//! ```
//! Demanded of every file: each step ends, in bounded steps and memory; a reader writes nothing; once damage was
//! found, nothing is written but the mark of it. Of one that the check finds no fault in: no request meets damage, what
//! is read is what was written, and the check finds no fault afterwards.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use drystone_base::{HostOffset, Kind, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::graph::node::ChildKey;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::Role;
use drystone_format::qcow2::Header;
use drystone_format::qcow2::check::{Outcome, Source, check};
use drystone_format::qcow2::driver::Qcow2;
use drystone_format::qcow2::driver::caches::CacheOptions;
use drystone_format::qcow2::driver::open::Qcow2Options;
use drystone_format::qcow2::driver::passes::PassDiscard;
use drystone_format::qcow2::feature::IncompatibleBit;
use drystone_format::qcow2::header::Version;
use drystone_testkit::client::{BackendClient, Target};
use drystone_testkit::disk::{Image, OpKind, SimDisk};
use drystone_testkit::graph::{SimDriver, SimGraph, insert_with_user};
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::Sim;

use super::repair;
use crate::input::Input;
use crate::request::{self, disk, sim, windows};

/// Bytes of an input in front of the file.
pub const SCRIPT_BYTES: usize = 24;

/// An opened image and its one user.
pub struct OpenImage {
    /// The user.
    pub backend: Backend<ReadWrite>,
}

impl OpenImage {
    /// Opens the image on `disk`; caches are of the least size, so that small images fill them.
    ///
    /// # Errors
    /// Those of the driver and of the graph.
    pub fn open(graph: &SimGraph<'_>, disk: &SimDisk, read_only: bool) -> Result<Self> {
        let disk = disk.clone();
        let options = Qcow2Options {
            read_only,
            pass_discard: PassDiscard::ALL,
            discard_keeps: false,
            guards_inactive: true,
            caches: CacheOptions::of_bytes(0),
        };
        graph.call(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let file = opening.add(NewNode { owned: false, ..SimDriver::node("file", &disk) })?;
            let opened = Qcow2::open(opening.visit(file).await?.io(), options).await?;
            let image = opening.add(NewNode {
                name: Some("image".to_owned()),
                driver: Box::new(opened.driver),
                facts: opened.facts,
                children: vec![(ChildKey::File, Role::IMAGE, file)],
                owned: false,
                force_share: false,
            })?;
            if !read_only {
                return Ok(Self {
                    backend: insert_with_user(task, opening, image, "guest".to_owned()).await?,
                });
            }
            let mut plan = Plan::new();
            plan.insert(opening);
            let grant = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::ALL };
            let spec = RootSpec { name: "reader".to_owned(), grant, stays: false };
            let backend = plan.attach_root(task.gs(), image, spec);
            task.apply(plan).await?;
            Ok(Self { backend })
        })
    }

    /// Takes the user away; everything is stored and closed.
    ///
    /// # Errors
    /// Those of storing.
    pub fn close(self, graph: &SimGraph<'_>) -> Result<()> {
        let root = self.backend.id();
        graph.call(async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.detach_root(root);
            task.apply(plan).await
        })
    }
}

/// What the driver opens, checks and uses.
pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let script = input.bytes(SCRIPT_BYTES);
    let image = Image::from_bytes(input.rest());
    let is_consistent =
        checked(&image).is_some_and(|outcome| (outcome.corruptions, outcome.check_errors) == (0, 0));
    repair::run(&image);
    let contents = read_only(&image);
    let model = contents.filter(|_| is_consistent);
    writable(&image, script, model);
}

fn header(image: &Image) -> Option<Header> {
    let area = Header::area_len_bytes(&image.bytes(0..512)).ok()?;
    Header::parse(&image.bytes(0..image.len().min(area as u64))).ok()
}

/// What the consistency check says, if it comes to an end.
pub(super) fn checked(image: &Image) -> Option<Outcome> {
    struct File<'i>(&'i Image);
    impl Source for File<'_> {
        fn len_bytes(&self) -> u64 {
            self.0.len()
        }

        async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
            assert!(at.get() + len_bytes as u64 <= self.0.len(), "a read past the end");
            Ok(self.0.bytes(at.get()..at.get() + len_bytes as u64))
        }
    }
    let header = header(image)?;
    let file = File(image);
    let mut checking = pin!(check(&file, &header, |_| {}));
    match checking.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome.ok(),
        Poll::Pending => panic!("a check that reads from memory waits"),
    }
}

/// What is in the windows, if all of it can be read; twice the same, and nothing is written.
fn read_only(image: &Image) -> Option<Image> {
    let (sim, disk) = (sim(), disk(image));
    let graph = SimGraph::start(&sim);
    let opened = OpenImage::open(&graph, &disk, true).ok()?;
    let (reader, len) = (opened.backend.clone(), header(image)?.len_guest());
    let read = sim.block_on(&sim.io(1), async {
        let mut client = BackendClient::new(&reader, &sim.io(1));
        let mut contents = Some(Image::new(len));
        for window in windows(len) {
            let (once, again) = (client.read(window).await, client.read(window).await);
            assert_eq!(once.as_ref().ok(), again.as_ref().ok(), "what is read changes");
            match (once, &mut contents) {
                (Ok(bytes), Some(contents)) => contents.write(window.start().get(), &bytes),
                _ => contents = None,
            }
        }
        contents
    });
    drop(reader);
    let _ = opened.close(&graph);
    assert!(disk.trace().iter().all(|op| matches!(op.kind, OpKind::Read | OpKind::Flush)), "a reader writes");
    read.unwrap()
}

/// Uses the image; `contents` are those of one that is consistent.
fn writable(image: &Image, script: &[u8], contents: Option<Image>) {
    let (sim, disk) = (sim(), disk(image));
    let graph = SimGraph::start(&sim);
    let Ok(opened) = OpenImage::open(&graph, &disk, false) else { return };
    let is_consistent = contents.is_some();
    let model = contents.map(|contents| Rc::new(RefCell::new(ByteModel::of(&contents))));
    let user = opened.backend.clone();
    let errors = request::run(&sim, &user, header(image).unwrap().len_guest(), script, model.as_ref());
    let is_damaged = errors.iter().any(|error| error.kind() == Kind::Corrupt);
    if is_consistent {
        assert!(!is_damaged, "damage in an image that was found consistent: {errors:?}");
    }
    if is_damaged {
        demand_stopped(&sim, &disk, &user);
    }
    drop(user);
    let closed = opened.close(&graph);
    if is_consistent {
        assert!(closed.is_ok(), "{closed:?}");
        let after = checked(&disk.image());
        assert!(
            after.is_some_and(|outcome| (outcome.corruptions, outcome.check_errors) == (0, 0)),
            "a consistent image was damaged: {after:?}"
        );
    }
}

/// The image says that it is damaged, and nothing is written to it any more.
fn demand_stopped(sim: &Sim, disk: &SimDisk, user: &Backend<ReadWrite>) {
    let before = disk.image();
    let header = header(&before).unwrap();
    let is_marked = header.incompatible().has(IncompatibleBit::Corrupt);
    assert!(is_marked || header.version() == Version::V2, "the image is damaged and does not say so");
    let written = sim.block_on(&sim.io(1), async {
        let mut client = BackendClient::new(user, &sim.io(1));
        let written = client.write(0, &[0xd7; 512], true).await;
        let _ = client.flush().await;
        written
    });
    assert!(written.unwrap().is_err(), "a damaged image was written");
    assert!(disk.image() == before, "a damaged image was changed");
}
