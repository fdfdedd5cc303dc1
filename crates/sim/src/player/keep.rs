//! Internal snapshots: the image on top keeps what the disk shows, shows it again, and forgets it.
//!
//! What is kept is read while nobody else is inside, and must be what the disk's model allows at that moment.

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_blockdev::alone::with_private;
use drystone_blockdev::snapshots::{SnapshotChange, Which, change_snapshots};
use drystone_core::control::Task;
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::snapshots::NewSnapshot;
use drystone_testkit::disk::Image;
use drystone_testkit::model::{Content, Ending};

use super::Player;
use super::change::not_there;
use crate::kept::{Fate, Kept, Seen, Slot};
use crate::step::KeepVerb;

impl Player {
    /// `None` if there was nothing to do.
    pub(super) async fn keep(&self, verb: KeepVerb, number: usize) -> Option<Result<()>> {
        let _busy = self.disk.front.try_take()?;
        match verb {
            KeepVerb::Take => Some(self.take().await),
            KeepVerb::Apply => self.apply(self.choose(number)?).await,
            KeepVerb::Forget => Some(self.forget(self.choose(number)?).await),
        }
    }

    /// The place of one of the snapshots that the image on top may have.
    fn choose(&self, number: usize) -> Option<usize> {
        let (head, kept) = (self.disk.front.head(), self.disk.kept.borrow());
        let is_there = |one: &Kept| one.image == head && one.fate != Fate::Gone;
        let places = (0..).zip(&*kept).filter(|(_, one)| is_there(one)).map(|(place, _)| place);
        let places: Vec<usize> = places.collect();
        places.get(number.checked_rem(places.len())?).copied()
    }

    /// The snapshot at `place`, of which nothing is certain while something is done to it.
    fn begin(&self, place: usize) -> Option<Kept> {
        let mut kept = self.disk.kept.borrow_mut();
        let one = kept.get_mut(place)?;
        let before = one.clone();
        one.fate = Fate::Unknown;
        Some(before)
    }

    fn settle(&self, place: usize, fate: Fate) {
        if let Some(one) = self.disk.kept.borrow_mut().get_mut(place) {
            one.fate = fate;
        }
    }

    async fn take(&self) -> Result<()> {
        let (image, place) = (self.disk.front.head(), self.disk.kept.borrow().len());
        let (name, seen) = (format!("k{place}"), Slot::default());
        let kept = Kept { image: image.clone(), name: name.clone(), fate: Fate::Unknown, seen: seen.clone() };
        self.disk.kept.borrow_mut().push(kept);
        let whole = GuestRange::new(GuestOffset::ZERO, self.disk.model.borrow().len());
        let read = self.disk.model.borrow_mut().begin_read(whole);
        let slot = seen.clone();
        let work = async move |task: &mut Task<'_>| take(task, &image, name.into_bytes(), &slot).await;
        let result = self.stage.on_control(work).await;
        let mut model = self.disk.model.borrow_mut();
        match (&result, seen.get()) {
            (Ok(()), Some(Seen { bytes, .. })) => {
                let found = model.end_read(read, &bytes.bytes(0..bytes.len()));
                found.unwrap_or_else(|wrong| panic!("internal snapshot k{place} keeps {wrong}"));
                self.settle(place, Fate::There);
            }
            _ => model.abandon_read(read),
        }
        if let Err(error) = &result
            && !is_device(error)
        {
            self.settle(place, Fate::Gone);
        }
        result
    }

    async fn apply(&self, place: usize) -> Option<Result<()>> {
        let (kept, image) = (self.disk.kept.borrow().get(place)?.clone(), self.disk.front.head());
        let Seen { backing, bytes } = kept.seen.get()?;
        // A stream that ends in between would leave something else behind the image.
        let jobs = self.stage.jobs.list();
        let _applying = self.disk.front.try_apply().filter(|_| jobs.is_empty())?;
        let len = bytes.len();
        let writes = {
            let mut model = self.disk.model.borrow_mut();
            if len < model.len() {
                self.disk.shorten();
            }
            let resize = (len != model.len()).then(|| model.begin_resize(len));
            let whole = GuestRange::new(GuestOffset::ZERO, len);
            resize.into_iter().chain([model.begin_write(whole, Content::Image(bytes))]).collect::<Vec<_>>()
        };
        let work = async move |task: &mut Task<'_>| {
            let head = task.gs().find(&image)?;
            if behind(task, head) != backing {
                return Err(not_there("what was behind the image"));
            }
            let which = Which::Name(kept.name.into_bytes());
            change_snapshots(task, head, &SnapshotChange::Apply(which)).await.map(drop)
        };
        let result = self.stage.on_control(work).await;
        let ending = if result.is_ok() { Ending::Durable } else { Ending::Failed };
        let mut model = self.disk.model.borrow_mut();
        writes.into_iter().for_each(|write| model.end_write(write, ending));
        Some(result)
    }

    async fn forget(&self, place: usize) -> Result<()> {
        let image = self.disk.front.head();
        let Some(Kept { name, fate, .. }) = self.begin(place) else { return Ok(()) };
        let work = async move |task: &mut Task<'_>| {
            let head = task.gs().find(&image)?;
            let which = Which::Name(name.into_bytes());
            change_snapshots(task, head, &SnapshotChange::Delete(which)).await.map(drop)
        };
        let result = self.stage.on_control(work).await;
        match &result {
            Ok(()) => self.settle(place, Fate::Gone),
            Err(error) if !is_device(error) => self.settle(place, fate),
            Err(_) => {}
        }
        result
    }
}

/// Whether a change that failed like this may have happened all the same.
fn is_device(error: &Error) -> bool {
    matches!(error.kind(), Kind::Io | Kind::NoSpace)
}

/// The image behind another one.
fn behind(task: &Task<'_>, node: NodeId) -> Option<String> {
    task.gs().with(|graph| graph.node(graph.child(node, ChildKey::Backing)?).map(|node| node.name))
}

/// Looks at the disk and keeps what it shows, with nobody else inside.
async fn take(task: &mut Task<'_>, image: &str, name: Vec<u8>, slot: &Slot) -> Result<()> {
    let head = task.gs().find(image)?;
    let backing = behind(task, head);
    with_private(task, head, async |private| {
        let io = private.io();
        let driver = io.node().driver().snapshots();
        let driver =
            driver.ok_or_else(|| Error::new(Kind::Unsupported, "there are no internal snapshots"))?;
        let len =
            usize::try_from(io.len()).map_err(|_| Error::new(Kind::TooLarge, "the disk is too long"))?;
        let bytes = io.read_new(GuestOffset::ZERO, len).await?;
        slot.set(Seen { backing, bytes: Image::from_bytes(bytes.as_slice()) });
        let new = NewSnapshot { name, date_s: 1, date_ns: 2, vm_clock_ns: 3, icount: None };
        driver.create(io, &new).await.map(drop)
    })
    .await
}
