//! [`Kept`]: internal snapshots of images, and what they must show when the images are opened again.
//!
//! ```text
//!   take    asked for ─► unknown: there or not ─► done: there, with the bytes that the disk had
//!   forget  asked for ─► unknown               ─► done: gone
//! ```
//! What shows through an image is not the snapshot's: once the image has another backing file, its bytes are not looked at.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_blockdev::draft::change;
use drystone_blockdev::snapshots::{SnapshotChange, Which, change_snapshots, list_snapshots};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Plan, RootSpec, Task};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_testkit::client::{BackendClient, Target};
use drystone_testkit::disk::Image;
use drystone_testkit::sim::Sim;

use crate::image::Sheet;
use crate::prepare::chain_of;
use crate::stage::{Disk, NodeOptions, Stage};

/// An internal snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// Whose it is.
    pub(crate) image: String,
    pub(crate) name: String,
    pub(crate) fate: Fate,
    /// What the disk showed then, from the moment on at which it was looked at.
    pub(crate) seen: Slot,
}

/// Whether a snapshot is in its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    There,
    Unknown,
    Gone,
}

/// What a control task has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slot(Arc<Mutex<Option<Seen>>>);

/// A disk as it was.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// What its image had behind it.
    pub(crate) backing: Option<String>,
    pub(crate) bytes: Image,
}

impl Slot {
    pub(crate) fn set(&self, seen: Seen) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
    }

    pub(crate) fn get(&self) -> Option<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Stage {
    /// The snapshots of all disks; of a forgotten one's, nothing is certain.
    pub(crate) fn kept(&self) -> Vec<Kept> {
        let forgotten = |one: Kept| Kept { fate: Fate::Unknown, seen: Slot::default(), ..one };
        let of = |disk: &Rc<Disk>| {
            let (kept, is_forgotten) = (disk.kept.borrow().clone(), disk.is_forgotten());
            kept.into_iter().map(move |one| if is_forgotten { forgotten(one) } else { one })
        };
        self.disks.iter().flat_map(of).collect()
    }

    /// Every snapshot that must be there is, none that must not, and they show what they must. Nothing is open.
    ///
    /// # Panics
    /// If not.
    pub(crate) async fn demand_kept(&self, sim: &Sim, sheets: &[Sheet], kept: &[Kept]) -> Result<()> {
        for sheet in sheets.iter().filter(|sheet| !sheet.is_damaged) {
            let own: Vec<&Kept> = kept.iter().filter(|one| one.image == sheet.name).collect();
            let is_certain = |one: &&Kept| one.fate != Fate::Unknown || one.seen.get().is_some();
            if !own.iter().any(is_certain) {
                continue;
            }
            let found = self.look(sim, sheets, sheet, None).await?.names;
            for one in &own {
                let is_there = found.contains(&one.name);
                let (image, name) = (&one.image, &one.name);
                assert!(one.fate != Fate::There || is_there, "internal snapshot {name} of '{image}' is lost");
                assert!(one.fate != Fate::Gone || !is_there, "internal snapshot {name} of '{image}' is back");
                let seen = one.seen.get().filter(|seen| is_there && sheet.backing == seen.backing);
                let Some(Seen { bytes, .. }) = seen else { continue };
                let shown = self.look(sim, sheets, sheet, Some(name.clone())).await?.bytes;
                assert!(
                    shown == bytes,
                    "wrong bytes: internal snapshot {name} of '{image}' does not show what was kept"
                );
            }
            let is_known = |name: &&String| own.iter().any(|one| one.name == **name);
            assert!(found.iter().all(|name| is_known(&name)), "'{}' keeps {found:?}", sheet.name);
        }
        Ok(())
    }

    /// Opens an image for reading and has it show the snapshot `shown`, if any.
    async fn look(&self, sim: &Sim, sheets: &[Sheet], sheet: &Sheet, shown: Option<String>) -> Result<Found> {
        let (common, chain, top) = (self.common.clone(), chain_of(sheets, &sheet.name), sheet.name.clone());
        let is_shown = shown.is_some();
        let open = async move |task: &mut Task<'_>| {
            let (backend, node): (Backend<ReadWrite>, _) =
                change(task, common.opener(), async |draft, task| {
                    let opening = Opening::new(task);
                    draft.plan().insert(opening);
                    for sheet in &chain {
                        let options = NodeOptions { read_only: true, ..NodeOptions::WRITABLE };
                        common.bring_in(draft, task, sheet, options).await?;
                    }
                    let node = draft.find(task, &top)?;
                    let grant = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::ALL };
                    let spec = RootSpec { name: "who looks".to_owned(), grant, stays: false };
                    Ok((draft.plan().attach_root(task.gs(), node, spec), node))
                })
                .await?;
            let names = list_snapshots(task, node).await?.into_iter();
            let names = names.map(|one| String::from_utf8_lossy(&one.name).into_owned()).collect();
            if let Some(name) = shown {
                change_snapshots(task, node, &SnapshotChange::Show(Which::Name(name.into_bytes()))).await?;
            }
            let len = task.gs().with(|graph| graph.node(node).map_or(0, |node| node.len));
            Ok((backend, names, len))
        };
        let (backend, names, len) = self.on_control(open).await?;
        let bytes = match is_shown {
            true => {
                let range = GuestRange::new(GuestOffset::ZERO, len);
                Image::from_bytes(&BackendClient::new(&backend, &sim.io(1)).read(range).await?)
            }
            false => Image::new(0),
        };
        let close = async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.detach_root(backend.id());
            task.apply(plan).await
        };
        self.on_control(close).await?;
        self.close().await?;
        Ok(Found { names, bytes })
    }
}

/// What is in an image.
struct Found {
    names: Vec<String>,
    bytes: Image,
}
