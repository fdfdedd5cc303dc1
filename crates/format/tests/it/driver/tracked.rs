//! [`Tracked`]: what the bitmaps of the image on top must have.
//!
//! A bitmap on disk is marked as "in use", or it has everything that was acknowledged while it recorded.

use std::collections::BTreeMap;

use drystone_base::{GuestRange, Result};
use drystone_core::bitmap::action::{BitmapAction, MergeSource};
use drystone_core::bitmap::{BitmapInfo, Granularity};
use drystone_core::graph::node::NodeId;
use drystone_testkit::notation::range;

/// A bitmap that somebody follows.
#[derive(Debug, Clone)]
struct Followed {
    recording: bool,
    /// Everything that it must have.
    dirty: Vec<GuestRange>,
    /// It was stored, and must be there.
    stored: bool,
}

/// The bitmaps of an image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tracked(BTreeMap<String, Followed>);

/// What a step does to a bitmap: `bitmap add NAME GRANULARITY`, `bitmap drop|clear|stop|start NAME`, `bitmap merge FROM TO`.
pub(crate) fn action(words: &[&str], node: NodeId) -> BitmapAction {
    let name = |word: &&str| (*word).to_owned();
    match words {
        ["add", bitmap, bytes] => BitmapAction::Add {
            name: name(bitmap),
            granularity: Granularity::from_bytes(bytes.parse().unwrap()).unwrap(),
            persistent: true,
            recording: true,
        },
        ["drop", bitmap] => BitmapAction::Remove { name: name(bitmap) },
        ["clear", bitmap] => BitmapAction::Clear { name: name(bitmap) },
        ["stop", bitmap] => BitmapAction::Record { name: name(bitmap), recording: false },
        ["start", bitmap] => BitmapAction::Record { name: name(bitmap), recording: true },
        ["merge", from, to] => {
            BitmapAction::Merge { name: name(to), source: MergeSource::Bitmap { node, name: name(from) } }
        }
        _ => panic!("'bitmap {}' is no step", words.join(" ")),
    }
}

impl Tracked {
    /// Something will be done to a bitmap: what it promises from now on, whether that works or not.
    pub(crate) fn before(&mut self, action: &BitmapAction) {
        match action {
            BitmapAction::Remove { name } => drop(self.0.remove(name)),
            BitmapAction::Clear { name } => self.get(name).dirty.clear(),
            BitmapAction::Record { name, recording: false } => self.get(name).recording = false,
            _ => {}
        }
    }

    /// It was done.
    pub(crate) fn after(&mut self, action: &BitmapAction) {
        match action {
            BitmapAction::Add { name, .. } => {
                let followed = Followed { recording: true, dirty: Vec::new(), stored: false };
                self.0.insert(name.clone(), followed);
            }
            BitmapAction::Record { name, recording: true } => self.get(name).recording = true,
            BitmapAction::Merge { name, source: MergeSource::Bitmap { name: from, .. } } => {
                let dirty = self.get(from).dirty.clone();
                self.get(name).dirty.extend(dirty);
            }
            _ => {}
        }
    }

    fn get(&mut self, name: &str) -> &mut Followed {
        self.0.get_mut(name).unwrap_or_else(|| panic!("bitmap '{name}' is not followed"))
    }

    /// The requests of a step were acknowledged.
    pub(crate) fn acknowledged(&mut self, step: &str) {
        for part in step.split('&') {
            if let ["write" | "press" | "zero" | "unmap" | "discard", at, ..] =
                *part.split_whitespace().collect::<Vec<_>>()
            {
                let recording = self.0.values_mut().filter(|followed| followed.recording);
                recording.for_each(|followed| followed.dirty.push(range(at)));
            }
        }
    }

    /// Everything was stored.
    pub(crate) fn stored(&mut self) {
        self.0.values_mut().for_each(|followed| followed.stored = true);
    }

    /// Looks at the bitmaps that were found: `dirty` tells whether one has a whole range. Those that are inconsistent are not
    /// followed any more.
    pub(crate) fn check(&mut self, found: &[BitmapInfo], dirty: impl Fn(&str, GuestRange) -> Result<bool>) {
        self.0.retain(|name, followed| {
            let Some(info) = found.iter().find(|info| info.name == *name) else {
                assert!(!followed.stored, "bitmap '{name}' is gone");
                return false;
            };
            if info.inconsistent {
                return false;
            }
            for range in &followed.dirty {
                assert!(dirty(name, *range).unwrap(), "bitmap '{name}' misses {range}");
            }
            followed.recording = info.recording;
            true
        });
    }
}
