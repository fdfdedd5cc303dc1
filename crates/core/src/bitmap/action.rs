//! [`BitmapAction`]: what a plan does to bitmaps, in order; all of it or nothing.
//!
//! ```text
//!   check    by name and state, on a picture of the bitmaps as the actions before have left them; no bits are looked at
//!   settle   the driver is told of what its image will not say any more
//!   commit   in order, with nobody inside the nodes: a transaction over several disks is one moment
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use drystone_base::{Error, Kind, Result};

use super::named::{BitmapInfo, NAME_BYTES_MAX, NewBitmap};
use super::stored::StoredChange;
use super::{Bits, Granularity};
use crate::graph::node::{Node, NodeId};

/// Most bits of a bitmap: 128 TiB at the finest granularity. All of them dirty in pieces of one take 32 GiB of memory.
pub const BITS_MAX: u64 = 1 << 38;

/// What is done to a bitmap of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BitmapAction {
    /// A new, clean bitmap.
    Add {
        /// Its name: 1 to [`NAME_BYTES_MAX`] bytes.
        name: String,
        /// Its granularity.
        granularity: Granularity,
        /// It is stored in the image.
        persistent: bool,
        /// It follows writes from now on.
        recording: bool,
    },
    /// It goes; from the image, too.
    Remove {
        /// Its name.
        name: String,
    },
    /// Everything is clean.
    Clear {
        /// Its name.
        name: String,
    },
    /// It follows writes, or does not.
    Record {
        /// Its name.
        name: String,
        /// Whether it does.
        recording: bool,
    },
    /// What is dirty in `source` is dirty in `name`, too.
    Merge {
        /// Its name.
        name: String,
        /// From where.
        source: MergeSource,
    },
}

/// From where dirty parts are merged into a bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeSource {
    /// A bitmap of a node, of any granularity, on a disk of the same length.
    Bitmap {
        /// Its node.
        node: NodeId,
        /// Its name.
        name: String,
    },
    /// These, of a disk of the same length.
    Bits(Bits),
}

/// The bitmaps of nodes as the actions so far would leave them.
struct Prospect<F> {
    find: F,
    known: BTreeMap<NodeId, BTreeMap<String, BitmapInfo>>,
    changes: Vec<(NodeId, StoredChange)>,
}

/// Whether the actions are possible one after the other, and what drivers have to do for them.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::AlreadyExists`], [`Kind::InUse`], [`Kind::ReadOnly`], [`Kind::InvalidInput`],
/// [`Kind::TooLarge`].
pub(crate) fn check(
    actions: &[(NodeId, BitmapAction)],
    find: impl Fn(NodeId) -> Option<Arc<Node>>,
) -> Result<Vec<(NodeId, StoredChange)>> {
    let mut prospect = Prospect { find, known: BTreeMap::new(), changes: Vec::new() };
    for (id, action) in actions {
        let node = prospect.node(*id)?;
        prospect.act(&node, action).map_err(|error| error.on_node(node.name()))?;
    }
    Ok(prospect.changes)
}

fn demand_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let text = format!("the name of a bitmap has 1 to {NAME_BYTES_MAX} bytes");
        return Err(Error::new(Kind::InvalidInput, text));
    }
    Ok(())
}

fn demand_free(bitmap: &BitmapInfo) -> Result<()> {
    if bitmap.busy {
        let text = format!("bitmap '{}' is in use by another operation", bitmap.name);
        return Err(Error::new(Kind::InUse, text));
    }
    Ok(())
}

fn demand_writable(bitmap: &BitmapInfo) -> Result<()> {
    if bitmap.read_only {
        let text = format!("bitmap '{}' is stored in an image that is open for reading only", bitmap.name);
        return Err(Error::new(Kind::ReadOnly, text));
    }
    Ok(())
}

fn demand_consistent(bitmap: &BitmapInfo) -> Result<()> {
    if bitmap.inconsistent {
        let text = format!(
            "bitmap '{}' is inconsistent: it was not stored when the disk was last used; it can only be removed",
            bitmap.name
        );
        return Err(Error::new(Kind::InvalidInput, text));
    }
    Ok(())
}

impl<F: Fn(NodeId) -> Option<Arc<Node>>> Prospect<F> {
    fn node(&self, id: NodeId) -> Result<Arc<Node>> {
        (self.find)(id).ok_or_else(|| Error::new(Kind::NotFound, "there is no such node"))
    }

    fn of(&mut self, node: &Node) -> &mut BTreeMap<String, BitmapInfo> {
        let load = || node.bitmaps().flags().into_iter().map(|info| (info.name.clone(), info)).collect();
        self.known.entry(node.id()).or_insert_with(load)
    }

    fn get(&mut self, node: &Node, name: &str) -> Result<&mut BitmapInfo> {
        let found = self.of(node).get_mut(name);
        found.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no bitmap '{name}'")).on_node(node.name())
        })
    }

    fn act(&mut self, node: &Node, action: &BitmapAction) -> Result<()> {
        match action {
            BitmapAction::Add { name, granularity, persistent, recording } => {
                let info = BitmapInfo {
                    name: name.clone(),
                    granularity: *granularity,
                    dirty_bytes: 0,
                    recording: *recording,
                    busy: false,
                    persistent: *persistent,
                    inconsistent: false,
                    read_only: false,
                };
                return self.add(node, info);
            }
            BitmapAction::Remove { name } => return self.remove(node, name),
            BitmapAction::Clear { name } => {
                let bitmap = self.get(node, name)?;
                demand_free(bitmap)?;
                demand_writable(bitmap)?;
                demand_consistent(bitmap)?;
            }
            BitmapAction::Record { name, recording } => {
                let bitmap = self.get(node, name)?;
                demand_free(bitmap)?;
                demand_consistent(bitmap)?;
                bitmap.recording = *recording;
            }
            BitmapAction::Merge { name, source } => self.merge(node, name, source)?,
        }
        self.note_change(node, action.name());
        Ok(())
    }

    fn add(&mut self, node: &Node, info: BitmapInfo) -> Result<()> {
        demand_name(&info.name)?;
        if self.of(node).contains_key(&info.name) {
            let text = format!("there is a bitmap '{}' already", info.name);
            return Err(Error::new(Kind::AlreadyExists, text));
        }
        if info.granularity.bits_of(node.len()) > BITS_MAX {
            let text = "the granularity is too fine for a disk of this length";
            return Err(Error::new(Kind::TooLarge, text).in_option("granularity"));
        }
        if info.persistent {
            let change = StoredChange::Add { name: info.name.clone(), granularity: info.granularity };
            self.changes.push((node.id(), change));
        }
        self.of(node).insert(info.name.clone(), info);
        Ok(())
    }

    fn remove(&mut self, node: &Node, name: &str) -> Result<()> {
        let bitmap = self.get(node, name)?;
        demand_free(bitmap)?;
        demand_writable(bitmap)?;
        if bitmap.persistent {
            self.changes.push((node.id(), StoredChange::Remove { name: name.to_owned() }));
        }
        self.of(node).remove(name);
        Ok(())
    }

    fn merge(&mut self, node: &Node, name: &str, source: &MergeSource) -> Result<()> {
        let bitmap = self.get(node, name)?;
        demand_free(bitmap)?;
        demand_writable(bitmap)?;
        demand_consistent(bitmap)?;
        let len_bytes = match source {
            MergeSource::Bits(bits) => bits.len_bytes(),
            MergeSource::Bitmap { node, name } => {
                let other = self.node(*node)?;
                let bitmap = self.get(&other, name)?;
                demand_free(bitmap)?;
                demand_consistent(bitmap)?;
                other.len()
            }
        };
        if len_bytes != node.len() {
            let text = format!("bitmap '{name}' is for a disk of another length than what is merged into it");
            return Err(Error::new(Kind::InvalidInput, text));
        }
        Ok(())
    }

    /// The image does not say what is true of a bitmap any more.
    fn note_change(&mut self, node: &Node, name: &str) {
        let is_stored = self.of(node).get(name).is_some_and(|bitmap| bitmap.persistent && !bitmap.read_only);
        let last = self.changes.last();
        if is_stored && last.is_none_or(|(id, change)| *id != node.id() || *change != StoredChange::Change) {
            self.changes.push((node.id(), StoredChange::Change));
        }
    }
}

impl BitmapAction {
    fn name(&self) -> &str {
        match self {
            Self::Add { name, .. }
            | Self::Remove { name }
            | Self::Clear { name }
            | Self::Record { name, .. }
            | Self::Merge { name, .. } => name,
        }
    }
}

/// Does to the bitmaps of `node` what was checked.
pub(crate) fn apply(node: &Node, action: BitmapAction, find: impl Fn(NodeId) -> Option<Arc<Node>>) {
    let bitmaps = node.bitmaps();
    match action {
        BitmapAction::Add { name, granularity, persistent, recording } => {
            let bits = Bits::new(granularity, node.len());
            bitmaps.add(node.len(), name, NewBitmap { bits, recording, persistent, inconsistent: false });
        }
        BitmapAction::Remove { name } => bitmaps.remove(&name),
        BitmapAction::Clear { name } => bitmaps.clear(&name),
        BitmapAction::Record { name, recording } => bitmaps.set_recording(&name, recording),
        BitmapAction::Merge { name, source: MergeSource::Bits(bits) } => bitmaps.merge(&name, &bits),
        BitmapAction::Merge { name, source: MergeSource::Bitmap { node, name: from } } => {
            if let Some(Ok(bits)) = find(node).map(|other| other.bitmaps().bits(&from)) {
                bitmaps.merge(&name, &bits);
            }
        }
    }
}
