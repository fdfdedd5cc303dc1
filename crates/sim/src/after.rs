//! [`After`]: what is done to images that nobody uses: an image goes down into the one behind it, or becomes another kind of
//! image. What its disk shows does not change, wherever the power goes.
//!
//! ```text
//!   after 0 commit cut 17         image on top of disk 0 ─► copied down, durable ─► emptied
//!   after 0 version 2             header and clusters of another version
//!   after 0 refcount 64           counts of another width
//! ```

use std::fmt;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange, Kind, Result};
use drystone_blockdev::backing::{amend, make_empty};
use drystone_blockdev::draft::change;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Plan, RootSpec, Task};
use drystone_core::driver::Amendment;
use drystone_played::image::recorded_backing;
use drystone_testkit::client::{BackendClient, Target};
use drystone_testkit::disk::{Image, Timing};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::sim::Sim;

use crate::ending::{Shown, images_of, reopen, survivors_of};
use crate::image::{Format, Sheet};
use crate::kept::Kept;
use crate::prepare::{chain_of, finish};
use crate::stage::{Common, NodeOptions, Stage, owner};
use crate::words::{BadWord, Words, unknown};

/// Something done to the image on top of a disk when everybody has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct After {
    /// Which disk, among those of which something is known.
    pub disk: usize,
    /// What.
    pub deed: Deed,
    /// The power goes at this operation of a device, if they are so many.
    pub cut: Option<u64>,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It goes down into what is behind it, and is emptied.
    Commit,
    /// It gets another version of its format.
    Version(u32),
    /// It gets counts of so many bits.
    Refcount(u64),
}

impl Deed {
    /// What the tally calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Version(_) => "amend the version",
            Self::Refcount(_) => "amend the counts",
        }
    }
}

impl After {
    pub(crate) fn parse(words: &mut Words<'_>) -> Result<Self, BadWord> {
        let disk = words.value("the number of a disk")?;
        let deed = match words.word("what to do")? {
            "commit" => Deed::Commit,
            "version" => Deed::Version(words.value("a version")?),
            "refcount" => Deed::Refcount(words.value("bits of a count")?),
            other => return unknown("deed", other),
        };
        let cut = words.is_next("cut").then(|| words.value("a number of operations")).transpose()?;
        Ok(Self { disk, deed, cut })
    }
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.disk)?;
        match self.deed {
            Deed::Commit => f.write_str("commit")?,
            Deed::Version(version) => write!(f, "version {version}")?,
            Deed::Refcount(bits) => write!(f, "refcount {bits}")?,
        }
        self.cut.map_or(Ok(()), |ops| write!(f, " cut {ops}"))
    }
}

/// Images at rest, and what must be found in them.
pub(crate) struct Rest {
    pub(crate) images: Vec<(Sheet, Image)>,
    pub(crate) shown: Vec<Shown>,
    pub(crate) kept: Vec<Kept>,
    /// Something may be wasted.
    pub(crate) may_leak: bool,
}

impl Rest {
    /// Checks everything.
    pub(crate) fn reopen(&self, seed: u64) {
        reopen(seed, self.images.clone(), self.shown.clone(), &self.kept, self.may_leak);
    }

    /// Does it; `None` if there is nothing to do it to. Whether it was done, or refused.
    pub(crate) fn then(&mut self, seed: u64, after: After) -> Option<bool> {
        let top = self.shown.get(after.disk.checked_rem(self.shown.len())?)?.0.clone();
        let sim = Sim::seeded(seed);
        let common = Common::new(seed, Timing::Seeded { delay_ns_max: 10_000 });
        let sheets: Vec<Sheet> = self.images.iter().map(|image| again(&common, image)).collect();
        let plan = Work::of(&sheets, &self.shown, &top, after.deed)?;
        after.cut.inspect(|ops| common.power().cut_at(*ops));
        let graph = SimGraph::start(&sim);
        let stage = Stage::new(&sim, &graph, common.clone());
        let done = finish(&sim, async {
            let done = stage.work(&sim, &plan).await;
            if common.power().is_off() { done } else { done.and(stage.close().await) }
        });
        let is_cut = common.power().is_off();
        let is_refusal = |kind| matches!(kind, Kind::Unsupported | Kind::InvalidInput | Kind::TooLarge);
        if let Err(error) = &done {
            let is_excused = is_cut || is_refusal(error.kind());
            assert!(is_excused, "'{}' of image '{top}' failed: {}", after.deed.name(), error.report());
        }
        drop(stage);
        if is_cut {
            drop(graph);
            self.images = survivors_of(&common, &mut Rng::new(seed));
            self.may_leak = true;
        } else {
            graph.finish();
            self.images = images_of(&common);
        }
        // Version 2 has no bitmaps, and does not know whose their clusters were.
        self.may_leak |= after.deed == Deed::Version(2);
        if let Some(base) = &plan.base {
            // They show what is in the base, which is another now.
            self.kept.retain(|one| {
                one.image == *base || chain_of(&sheets, &one.image).iter().all(|image| image.name != *base)
            });
        }
        Some(done.is_ok())
    }
}

/// An image again, not open yet, with what it says is behind it.
fn again(common: &Common, (sheet, bytes): &(Sheet, Image)) -> Sheet {
    let backing = match sheet.format {
        Format::Raw => None,
        Format::Qcow2(_) => {
            recorded_backing(bytes).unwrap_or_else(|error| panic!("'{}': {}", sheet.name, error.report()))
        }
    };
    common.add_as(&sheet.name, bytes.clone(), sheet.format, backing)
}

/// What takes part.
#[derive(Clone)]
struct Work {
    deed: Deed,
    top: String,
    base: Option<String>,
    /// Each before those on top of it.
    sheets: Vec<Sheet>,
}

impl Work {
    /// `None` if the image is not one for that.
    fn of(sheets: &[Sheet], shown: &[Shown], top: &str, deed: Deed) -> Option<Self> {
        let chain = chain_of(sheets, top);
        let image = chain.last()?;
        let base = match deed {
            Deed::Commit => Some(image.backing.clone()?),
            Deed::Version(_) | Deed::Refcount(_) if image.format == Format::Raw => return None,
            Deed::Version(_) | Deed::Refcount(_) => None,
        };
        let is_on = |other: &str| chain_of(sheets, other).iter().any(|one| Some(&one.name) == base.as_ref());
        // What lies on it would show something else.
        if shown.iter().any(|(other, _)| other != top && is_on(other)) {
            return None;
        }
        Some(Self { deed, top: top.to_owned(), base, sheets: chain })
    }

    /// Opens what takes part: the image for writing, and the base, which it is opened without. Their users, and how long they
    /// are; the base comes first.
    async fn open(&self, task: &mut Task<'_>, common: &Common) -> Result<Vec<(Backend<ReadWrite>, u64)>> {
        let users = change(task, common.opener(), async |draft, task| {
            let opening = Opening::new(task);
            draft.plan().insert(opening);
            for sheet in &self.sheets {
                let is_top = sheet.name == self.top;
                let read_only = !is_top && Some(&sheet.name) != self.base.as_ref();
                let with_backing = !is_top || self.base.is_none();
                let options = NodeOptions { read_only, with_backing, ..NodeOptions::WRITABLE };
                common.bring_in(draft, task, sheet, options).await?;
            }
            let mut backends = Vec::new();
            for name in self.base.iter().chain([&self.top]) {
                let node = draft.find(task, name)?;
                let spec = RootSpec { name: format!("tool at {name}"), grant: owner(true), stays: false };
                backends.push(draft.plan().attach_root(task.gs(), node, spec));
            }
            Ok(backends)
        });
        let users = users.await?;
        let len = |name: &String| task.gs().with(|graph| graph.node_named(name).map_or(0, |node| node.len));
        let lens: Vec<u64> = self.base.iter().chain([&self.top]).map(len).collect();
        Ok(users.into_iter().zip(lens).collect())
    }
}

impl Stage {
    async fn work(&self, sim: &Sim, work: &Work) -> Result<()> {
        let (common, plan) = (self.common.clone(), work.clone());
        let users = self.on_control(async move |task: &mut Task<'_>| plan.open(task, &common).await).await?;
        if let [(base, len_base), (top, len)] = &users[..] {
            copy_down(sim, (top, *len), (base, *len_base)).await?;
            // Stores it.
            self.leave(base).await?;
        }
        let (top, deed) = (work.top.clone(), work.deed);
        let finish = async move |task: &mut Task<'_>| {
            let node = task.gs().find(&top)?;
            match deed {
                Deed::Commit => make_empty(task, node).await,
                Deed::Version(version) => amend(task, node, Amendment::Version(version)).await,
                Deed::Refcount(bits) => amend(task, node, Amendment::RefcountBits(bits)).await,
            }
        };
        self.on_control(finish).await
    }

    async fn leave(&self, user: &Backend<ReadWrite>) -> Result<()> {
        let id = user.id();
        let work = async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.detach_root(id);
            task.apply(plan).await
        };
        self.on_control(work).await
    }
}

/// Writes to `base` what `top` has of its own, and makes it durable.
async fn copy_down(
    sim: &Sim,
    (top, len): (&Backend<ReadWrite>, u64),
    (base, len_base): (&Backend<ReadWrite>, u64),
) -> Result<()> {
    let local = sim.io(1);
    let (mut from, mut to) = (BackendClient::new(top, &local), BackendClient::new(base, &local));
    if len_base < len {
        to.resize(len).await?;
    }
    let mut rest = GuestRange::new(GuestOffset::ZERO, len);
    while !rest.is_empty() {
        let status = from.status(rest).await?;
        let part = rest.take(status.len);
        if status.zero && status.allocated {
            to.write_zeroes(part, true).await?;
        } else if status.allocated {
            let bytes = from.read(part).await?;
            to.write(part.start().get(), &bytes, false).await?;
        }
        rest = rest.skip(part.len());
    }
    to.flush().await
}
