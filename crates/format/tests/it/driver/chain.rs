//! A chain of images, opened as a graph on simulated disks.

use drystone_base::{Error, HostOffset, Kind, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::bitmap::NodeBitmaps;
use drystone_core::bitmap::action::BitmapAction;
use drystone_core::control::{NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::driver::BackingFile;
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::Role;
use drystone_core::request::io::Io;
use drystone_format::qcow2::Header;
use drystone_format::qcow2::check::{Class, Finding, Outcome, Source, check};
use drystone_format::qcow2::driver::Qcow2;
use drystone_format::qcow2::driver::caches::CacheOptions;
use drystone_format::qcow2::driver::open::{DataFile, Qcow2Options};
use drystone_format::qcow2::driver::passes::PassDiscard;
use drystone_format::qcow2::header::MAGIC;
use drystone_testkit::disk::{Image, SimDisk};
use drystone_testkit::graph::{SimDriver, SimGraph, insert_with_user};

use crate::common::block_on;

/// An opened chain and its one user, who reads, writes and resizes.
pub(crate) struct Chain {
    pub(crate) top: NodeId,
    pub(crate) backend: Backend<ReadWrite>,
}

const READS: Grant = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::ALL };
const WRITES: Grant = Grant { perm: Grant::WRITER.perm.with(Perm::RESIZE), ..Grant::WRITER };

/// Caches of the least size, so that tests fill them.
pub(crate) const SMALL: Qcow2Options = Qcow2Options {
    read_only: false,
    pass_discard: PassDiscard { request: false, snapshot: false, other: false },
    discard_keeps: false,
    guards_inactive: true,
    caches: CacheOptions::of_bytes(0),
};

impl Chain {
    /// Opens the images on `disks`, the last on top, the others read-only. A data file comes before its image.
    pub(crate) fn open(graph: &SimGraph<'_>, disks: &[SimDisk], options: Qcow2Options) -> Result<Self> {
        let disks = disks.to_vec();
        graph.call(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let mut top = None;
            let mut data = None;
            let count = disks.len();
            for (index, disk) in disks.iter().enumerate() {
                // What is on top is the image, however broken.
                if index + 1 < count && is_data(disk) {
                    data = Some(disk);
                    continue;
                }
                let layer =
                    if index + 1 == count { options } else { Qcow2Options { read_only: true, ..options } };
                let below = Below { backing: top, data: data.take() };
                top = Some(add_image(&mut opening, &format!("layer{index}"), disk, below, layer).await?);
            }
            let Some(top) = top else { panic!("a chain has an image") };
            let backend = insert_with_user(task, opening, top, "guest".to_owned()).await?;
            Ok(Self { top, backend })
        })
    }

    /// Opens an image for a user who reads.
    pub(crate) fn open_to_read(graph: &SimGraph<'_>, disk: &SimDisk, options: Qcow2Options) -> Result<Self> {
        let disk = disk.clone();
        graph.call(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let options = Qcow2Options { read_only: true, ..options };
            let below = Below { backing: None, data: None };
            let top = add_image(&mut opening, "image", &disk, below, options).await?;
            let mut plan = Plan::new();
            plan.insert(opening);
            let spec = RootSpec { name: "reader".to_owned(), grant: READS, stays: false };
            let backend = plan.attach_root(task.gs(), top, spec);
            task.apply(plan).await?;
            Ok(Self { top, backend })
        })
    }

    /// Makes the image on top read-only, or writable again, and its user with it.
    pub(crate) fn set_read_only(&self, graph: &SimGraph<'_>, read_only: bool) -> Result<()> {
        let (top, root) = (self.top, self.backend.id());
        graph.call(async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.set_read_only(top, read_only);
            plan.set_grant(root, if read_only { READS } else { WRITES });
            task.apply(plan).await
        })
    }

    /// Reopens the image on top with other options.
    pub(crate) fn reopen(&self, graph: &SimGraph<'_>, options: Qcow2Options) -> Result<()> {
        let top = self.top;
        graph.call(async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.reopen(top, Box::new(options));
            task.apply(plan).await
        })
    }

    /// Makes the image on top name another backing file, as the job or command does it that changes the chain as well.
    pub(crate) fn rename(&self, graph: &SimGraph<'_>, to: Option<BackingFile>) -> Result<()> {
        self.alone(graph, async move |io| io.node().driver().change_backing_file(io, to.as_ref()).await)
    }

    /// Gives up everything that the image on top has of its own.
    pub(crate) fn empty(&self, graph: &SimGraph<'_>) -> Result<()> {
        self.alone(graph, async move |io| io.node().driver().make_empty(io).await)
    }

    /// Does something to the image on top with nobody else inside.
    pub(crate) fn alone(
        &self,
        graph: &SimGraph<'_>,
        work: impl for<'a> AsyncFnOnce(Io<'a>) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let top = self.top;
        graph.call(async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.set_read_only(top, false);
            let checked = plan.check(task.gs()).map_err(|(_, error)| error)?;
            let staged = task.stage(checked).await?;
            let change = task.admit(staged).await?;
            let private = change.private(top)?;
            let result = work(private.io()).await;
            drop(private);
            change.abort().await;
            result
        })
    }

    /// Does something to a bitmap of the image on top.
    pub(crate) fn bitmap(&self, graph: &SimGraph<'_>, action: BitmapAction) -> Result<()> {
        let top = self.top;
        graph.call(async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.change_bitmap(top, action);
            task.apply(plan).await
        })
    }

    /// Looks at the bitmaps of the image on top.
    pub(crate) fn bitmaps<T: Send + 'static>(
        &self,
        graph: &SimGraph<'_>,
        look: impl FnOnce(&NodeBitmaps) -> T + Send + 'static,
    ) -> T {
        let top = self.top;
        graph.call(async move |task: &mut Task<'_>| {
            task.gs().with(|graph| look(graph.node_handle(top).unwrap().bitmaps()))
        })
    }

    /// Takes the user away, and with it the chain: everything is stored and closed.
    pub(crate) fn close(self, graph: &SimGraph<'_>) -> Result<()> {
        let root = self.backend.id();
        graph.call(async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.detach_root(root);
            task.apply(plan).await
        })
    }
}

/// What an image stands on beside its file.
pub(crate) struct Below<'d> {
    pub(crate) backing: Option<NodeId>,
    pub(crate) data: Option<&'d SimDisk>,
}

/// Whether a disk holds the data of an image, and not an image.
pub(crate) fn is_data(disk: &SimDisk) -> bool {
    disk.image().bytes(0..4) != MAGIC
}

/// Adds the image on `disk`, with its file, to an opening.
pub(crate) async fn add_image(
    opening: &mut Opening,
    name: &str,
    disk: &SimDisk,
    below: Below<'_>,
    options: Qcow2Options,
) -> Result<NodeId> {
    let file = NewNode { owned: false, ..SimDriver::node(&format!("{name}-file"), disk) };
    let file = opening.add(file)?;
    let opened = Qcow2::open(opening.visit(file).await?.io(), options).await?;
    let role = if below.data.is_some() { Role::METADATA.with(Role::PRIMARY) } else { Role::IMAGE };
    if below.data.is_some() != (opened.data_file != DataFile::Same) {
        // Damage says so, or that it has none.
        return Err(Error::new(Kind::InvalidImage, "the image and its data file do not belong together"));
    }
    let mut children = vec![(ChildKey::File, role, file)];
    children.extend(below.backing.map(|id| (ChildKey::Backing, Role::COW, id)));
    if let Some(disk) = below.data {
        let data = NewNode { owned: false, ..SimDriver::node(&format!("{name}-data"), disk) };
        children.push((ChildKey::DataFile, Role::DATA, opening.add(data)?));
    }
    opening.add(NewNode {
        name: Some(name.to_owned()),
        driver: Box::new(opened.driver),
        facts: opened.facts,
        children,
        owned: false,
        force_share: false,
    })
}

/// An image, for the check.
pub(crate) struct Bytes<'i>(pub(crate) &'i Image);

impl Source for Bytes<'_> {
    fn len_bytes(&self) -> u64 {
        self.0.len()
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        Ok(self.0.bytes(at.get()..at.get() + len_bytes as u64))
    }
}

pub(crate) fn header(image: &Image) -> Header {
    let area = Header::area_len_bytes(&image.bytes(0..512)).unwrap();
    Header::parse(&image.bytes(0..area as u64)).unwrap()
}

/// All that the consistency check finds.
pub(crate) fn findings(image: &Image) -> Vec<Finding> {
    let mut findings = Vec::new();
    block_on(check(&Bytes(image), &header(image), |found| findings.push(found.clone()))).unwrap();
    findings
}

/// What the consistency check says.
///
/// # Panics
/// If it finds a corruption or cannot look everywhere. What it found is printed then.
pub(crate) fn demand_consistent(image: &Image) -> Outcome {
    let mut findings = Vec::new();
    let note = |found: &Finding| {
        if found.class() != Class::Leak || findings.len() < 10 {
            findings.push(found.to_string());
        }
    };
    let outcome = block_on(check(&Bytes(image), &header(image), note)).unwrap();
    assert_eq!((outcome.corruptions, outcome.check_errors), (0, 0), "{findings:#?}");
    outcome
}

/// As [`demand_consistent`], and at most so many clusters leak.
pub(crate) fn demand_leaks(image: &Image, most: u64) {
    let leaks = demand_consistent(image).leaks;
    assert!(leaks <= most, "{leaks} clusters leak");
}

/// As [`demand_consistent`], and nothing leaks.
pub(crate) fn demand_clean(image: &Image) {
    demand_leaks(image, 0);
}
