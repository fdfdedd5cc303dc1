//! From a range of a node to the place where its first bytes are, through any number of layers, without a wait.
//!
//! ```text
//!   qcow2 --Backing--> qcow2 --Child(file, at)--> raw --Child(file, at)--> file --Device(at)
//! ```
//! Metadata that memory has is loaded on the way. At every step the length is clamped to the child's; what lies past a shorter backing is zeroes. Layers that cannot
//! change now are not walked again: their chain cache answers (`request::chain`).

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};

use crate::driver::{Access, Place, Tail};
use crate::graph::node::ChildKey;
use crate::request::chain::{CachedPlace, Visit};
use crate::request::event::Event;
use crate::request::io::Io;
use crate::request::observe::Crossed;

/// Where the first `len` bytes of a range are, at last.
pub(crate) struct Part<'t> {
    pub(crate) len: u64,
    pub(crate) target: Target<'t>,
}

pub(crate) enum Target<'t> {
    /// On the device of this node.
    Device { node: DeviceNode<'t>, at: u64 },
    /// Nowhere: zeroes.
    Zero,
    /// The driver of this node does it, at this offset of it.
    Ask { io: Io<'t>, at: GuestOffset },
    /// On this child at this offset of it, once the event was told: the child looks at what is written to it first, or
    /// somebody hears events.
    Enter { io: Io<'t>, at: GuestOffset, told: Io<'t>, event: Event },
    /// The driver of this node must load metadata for this range first.
    Load { io: Io<'t>, range: GuestRange },
}

/// A node with a device: reached by walking, or named by a chain cache.
#[derive(Clone)]
pub(crate) enum DeviceNode<'t> {
    Walked(Io<'t>),
    Cached(std::sync::Arc<crate::graph::node::Node>),
}

impl DeviceNode<'_> {
    pub(crate) fn node(&self) -> &crate::graph::node::Node {
        match self {
            Self::Walked(io) => io.node(),
            Self::Cached(node) => node,
        }
    }

    pub(crate) fn to_arc(&self) -> std::sync::Arc<crate::graph::node::Node> {
        match self {
            Self::Walked(io) => io.node_arc(),
            Self::Cached(node) => std::sync::Arc::clone(node),
        }
    }
}

/// Walks from `io` down to where the first bytes of `range` (not empty) are. Notes the nodes that a write crosses.
pub(crate) fn resolve<'t>(
    io: Io<'t>,
    range: GuestRange,
    access: Access,
    mut crossed: Option<&mut Crossed<'t>>,
) -> Result<Part<'t>> {
    let mut io = io;
    let mut range = range;
    // The visit to a settled layer, and how much of it the layers above let show through.
    let mut visit: Option<(Visit<'t>, u64)> = None;
    loop {
        let node = io.node();
        let mut extent = node.driver().locate(io, range, access)?;
        if extent.place == Place::Load && node.driver().load_now(io, range) {
            extent = node.driver().locate(io, range, access)?;
        }
        assert!(extent.len > 0, "driver '{}' located nothing", node.driver().format_name());
        range = range.take(extent.len);
        let step = step(io, range, extent.place, access)?;
        if let Some(crossed) = crossed.as_deref_mut() {
            crossed.note(node, range);
            node.counters.write(range);
        }
        match step {
            Step::There(part) => return Ok(finish(visit, part)),
            Step::Down { child, at, len } => {
                if visit.is_none() && access == Access::Read && extent.place == Place::Backing {
                    visit = child.node().chain.visit(child.node(), at).map(|visit| (visit, len));
                    if let Some((visit, _)) = &visit {
                        if let Some(part) = visit.look_up(len) {
                            return Ok(cached_part(part));
                        }
                        // Learn as much of the chain at once as its cache keeps together.
                        range = GuestRange::new(at, visit.window_len(child.len()).max(len));
                        io = child;
                        continue;
                    }
                }
                io = child;
                range = GuestRange::new(at, len);
            }
        }
    }
}

fn cached_part<'t>((place, len): (CachedPlace, u64)) -> Part<'t> {
    let target = match place {
        CachedPlace::Device { node, at } => Target::Device { node: DeviceNode::Cached(node), at },
        CachedPlace::Zero => Target::Zero,
    };
    Part { len, target }
}

/// Remembers all that was learnt, and cuts it down to what shows through.
fn finish<'t>(visit: Option<(Visit<'t>, u64)>, part: Part<'t>) -> Part<'t> {
    let Some((visit, shown)) = visit else { return part };
    visit.learn(&part);
    Part { len: part.len.min(shown), ..part }
}

enum Step<'t> {
    There(Part<'t>),
    Down { child: Io<'t>, at: GuestOffset, len: u64 },
}

/// One answer of a driver, clamped and followed by one step.
fn step<'t>(io: Io<'t>, range: GuestRange, place: Place, access: Access) -> Result<Step<'t>> {
    let there = |target| Ok(Step::There(Part { len: range.len(), target }));
    match place {
        Place::Device { at } => there(Target::Device { node: DeviceNode::Walked(io), at }),
        Place::Ask => there(Target::Ask { io, at: range.start() }),
        Place::Load => there(Target::Load { io, range }),
        Place::Stored { .. } | Place::Reserved { .. } => {
            unreachable!("a driver located for a status what is read or written")
        }
        Place::Zero { .. } => {
            assert!(access != Access::Write, "a driver located zeroes for a write");
            there(Target::Zero)
        }
        Place::Backing => {
            assert!(access != Access::Write, "a driver located a backing image for a write");
            let Some(child) = io.child(ChildKey::Backing) else { return there(Target::Zero) };
            let listener = io.child(ChildKey::File).filter(|file| file.node().hears_events());
            if let (Some(told), Some(Step::Down { child, at, len })) =
                (listener, descend(child, range.start(), range.len()))
            {
                let target = Target::Enter { io: child, at, told, event: Event::ReadBackingAio };
                return Ok(Step::There(Part { len, target }));
            }
            Ok(descend(child, range.start(), range.len())
                .unwrap_or(Step::There(Part { len: range.len(), target: Target::Zero })))
        }
        Place::Child { child: key, at, tail, .. } => {
            let child = io.child(key).ok_or_else(|| {
                Error::new(Kind::NotFound, format!("the node has no child '{key}'")).on_node(io.node().name())
            })?;
            let at = at.in_child();
            let hears = child.node().hears_events();
            if access == Access::Write && (child.node().detects_zeroes() || hears) {
                return there(Target::Enter { io: child, at, told: child, event: Event::WriteAio });
            }
            if access == Access::Write {
                return Ok(Step::Down { child, at, len: range.len() });
            }
            match (descend(child, at, range.len()), tail) {
                (Some(Step::Down { child, at, len }), _) if hears => {
                    let target = Target::Enter { io: child, at, told: child, event: Event::ReadAio };
                    Ok(Step::There(Part { len, target }))
                }
                (Some(step), _) => Ok(step),
                (None, Tail::Zeroes) => there(Target::Zero),
                (None, Tail::Error) => Err(Error::new(
                    Kind::InvalidImage,
                    format!("data at {at} lies past the end of child '{key}' ({} bytes)", child.len()),
                )
                .on_node(io.node().name())),
            }
        }
    }
}

/// Down to `at` of a child, clamped to its length; `None` past its end.
fn descend(child: Io<'_>, at: GuestOffset, len: u64) -> Option<Step<'_>> {
    let left = child.len().checked_sub(at.get()).filter(|left| *left > 0)?;
    Some(Step::Down { child, at, len: len.min(left) })
}
