//! [`Stage`]: where a script is played: the graph, the images, the disks of guests, and what everybody keeps count of.
//!
//! ```text
//!   players (I/O threads) --- Stage --- models, one per disk
//!        |                      |
//!        '--- requests          '--- Common: what control tasks need, too
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drystone_base::{Error, GuestOffset, GuestRange, Kind, LEN_MAX, Result};
use drystone_blockdev::draft::{Draft, change};
use drystone_blockdev::open::Opener;
use drystone_blockdev::options::Options;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Control, Opening, RootSpec, Task};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_job::{ErrorAction, Happening, JobEvent, Jobs};
use drystone_testkit::client::SharedModel;
use drystone_testkit::disk::{DiscardAs, DiskOptions, Image, Power, SimDisk, Timing};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::model::{ByteModel, Content};
use drystone_testkit::sim::Sim;

use crate::audit;
use crate::files::{AuditedFile, Watch};
use crate::hall::Hall;
use crate::image::{Format, Sheet};
use crate::kept::Kept;
use crate::tally::Counts;
use crate::threads::SimThreads;

/// What a disk shows when it is opened.
pub(crate) struct Guest {
    /// The image on top.
    pub(crate) top: String,
    pub(crate) model: ByteModel,
    /// Its user may change the length.
    pub(crate) resizes: bool,
}

/// What the user of a disk that stays wants: it shares everything.
pub(crate) const fn owner(resizes: bool) -> Grant {
    let perm = Perm::CONSISTENT_READ.with(Perm::WRITE);
    Grant { perm: if resizes { perm.with(Perm::RESIZE) } else { perm }, shared: Perm::ALL }
}

/// Where a script is played.
pub(crate) struct Stage {
    control: Control,
    pub(crate) jobs: Jobs,
    pub(crate) common: Common,
    pub(crate) disks: Vec<Rc<Disk>>,
    /// For NBD clients, if there are any.
    pub(crate) hall: Option<Hall>,
}

/// What control tasks need, too. Clones are the same.
#[derive(Clone)]
pub(crate) struct Common(Arc<Inner>);

struct Inner {
    opener: Opener,
    counts: Counts,
    images: Mutex<BTreeMap<String, (Sheet, Watch)>>,
    power: Power,
    seed: u64,
    timing: Timing,
    made: AtomicU64,
    /// Devices may fail, or have failed.
    is_troubled: AtomicBool,
    /// Images were damaged.
    is_damaged: AtomicBool,
    /// Changes that are being made, and how many have ended.
    changing: AtomicU64,
    changed: AtomicU64,
}

/// A disk of guests.
pub(crate) struct Disk {
    pub(crate) number: usize,
    pub(crate) model: SharedModel,
    /// The user that stays.
    pub(crate) main: Backend<ReadWrite>,
    /// It may change the length.
    pub(crate) resizes: bool,
    pub(crate) front: Front,
    /// An image below it is damaged: nothing is known of its bytes, and requests may fail.
    is_forgotten: Cell<bool>,
    /// It is, or was, being made shorter.
    was_shortened: Cell<bool>,
    /// Internal snapshots of its images.
    pub(crate) kept: RefCell<Vec<Kept>>,
}

impl Disk {
    /// From now on, nothing is known of its bytes.
    pub(crate) fn forget(&self) {
        self.is_forgotten.set(true);
        let whole = GuestRange::new(GuestOffset::ZERO, LEN_MAX);
        // A write that never ends may be seen for ever.
        let _endless = self.model.borrow_mut().begin_write(whole, Content::Any);
    }

    pub(crate) fn is_forgotten(&self) -> bool {
        self.is_forgotten.get()
    }

    /// From now on, requests may find that the disk ends before them.
    pub(crate) fn shorten(&self) {
        self.was_shortened.set(true);
    }

    pub(crate) fn was_shortened(&self) -> bool {
        self.was_shortened.get()
    }
}

/// What control tasks know of a disk. Clones are of the same disk.
#[derive(Clone)]
pub(crate) struct Front(Arc<FrontState>);

struct FrontState {
    /// The image on top.
    head: Mutex<String>,
    /// Somebody decides about the length or the image on top.
    is_busy: AtomicBool,
    /// The image on top is, or was, read-only.
    was_frozen: AtomicBool,
    /// So many jobs are being started, or [`APPLYING`].
    starting: AtomicU64,
}

/// An internal snapshot is being applied.
const APPLYING: u64 = u64::MAX;

/// The right to start a job, or to apply an internal snapshot: each keeps the other away.
pub(crate) struct Start(Front, u64);

impl Drop for Start {
    fn drop(&mut self) {
        let left = self.0.0.starting.load(Ordering::SeqCst).wrapping_sub(self.1);
        self.0.0.starting.store(left, Ordering::SeqCst);
    }
}

/// The right to say what the length and the image on top are.
pub(crate) struct Busy(Front);

impl Front {
    pub(crate) fn head(&self) -> String {
        self.0.head.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_head(&self, name: &str) {
        name.clone_into(&mut self.0.head.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// From now on, writes may be refused.
    pub(crate) fn freeze(&self) {
        self.0.was_frozen.store(true, Ordering::SeqCst);
    }

    pub(crate) fn was_frozen(&self) -> bool {
        self.0.was_frozen.load(Ordering::SeqCst)
    }

    /// May a job be started?
    pub(crate) fn try_start(&self) -> Option<Start> {
        let count = self.0.starting.load(Ordering::SeqCst);
        (count != APPLYING).then(|| {
            self.0.starting.store(count + 1, Ordering::SeqCst);
            Start(self.clone(), 1)
        })
    }

    /// May an internal snapshot be applied?
    pub(crate) fn try_apply(&self) -> Option<Start> {
        (self.0.starting.load(Ordering::SeqCst) == 0).then(|| {
            self.0.starting.store(APPLYING, Ordering::SeqCst);
            Start(self.clone(), APPLYING)
        })
    }

    /// Takes the right, unless somebody has it.
    pub(crate) fn try_take(&self) -> Option<Busy> {
        (!self.0.is_busy.swap(true, Ordering::SeqCst)).then(|| Busy(self.clone()))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.is_busy.store(false, Ordering::SeqCst);
    }
}

impl Common {
    pub(crate) fn new(seed: u64, timing: Timing) -> Self {
        Self(Arc::new(Inner {
            opener: Opener::trusting(),
            counts: Counts::default(),
            images: Mutex::default(),
            power: Power::new(),
            seed,
            timing,
            made: AtomicU64::new(0),
            is_troubled: AtomicBool::new(false),
            is_damaged: AtomicBool::new(false),
            changing: AtomicU64::new(0),
            changed: AtomicU64::new(0),
        }))
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.0.counts
    }

    pub(crate) fn power(&self) -> &Power {
        &self.0.power
    }

    /// From now on, what devices do may fail.
    pub(crate) fn trouble(&self) {
        self.0.is_troubled.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_troubled(&self) -> bool {
        self.0.is_troubled.load(Ordering::SeqCst)
    }

    /// From now on, this image may be found damaged.
    pub(crate) fn damage(&self, name: &str) {
        self.0.is_damaged.store(true, Ordering::SeqCst);
        if let Some((sheet, _)) = self.images().get_mut(name) {
            sheet.is_damaged = true;
        }
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.0.is_damaged.load(Ordering::SeqCst)
    }

    /// Whether changes are being made.
    pub(crate) fn is_changing(&self) -> bool {
        self.0.changing.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn opener(&self) -> &Opener {
        &self.0.opener
    }

    fn images(&self) -> MutexGuard<'_, BTreeMap<String, (Sheet, Watch)>> {
        self.0.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every image, whether it is open or not.
    pub(crate) fn sheets(&self) -> Vec<Sheet> {
        self.images().values().map(|(sheet, _)| sheet.clone()).collect()
    }

    /// The image called `name`, and who uses its file.
    pub(crate) fn find(&self, name: &str) -> Option<(Sheet, Watch)> {
        self.images().get(name).cloned()
    }

    /// An image and the file with its data, not open yet, with the next name.
    pub(crate) fn add(
        &self,
        bytes: Image,
        data: Option<Image>,
        format: Format,
        backing: Option<String>,
    ) -> Sheet {
        let name = format!("i{}", self.0.made.fetch_add(1, Ordering::SeqCst));
        if let Some(data) = data {
            self.add_as(&data_name(&name), data, Format::Raw, None);
        }
        self.add_as(&name, bytes, format, backing)
    }

    /// An image of this name, not open yet.
    pub(crate) fn add_as(&self, name: &str, bytes: Image, format: Format, backing: Option<String>) -> Sheet {
        let number = self.images().len() as u64;
        let mut options = DiskOptions::seeded(self.0.seed.wrapping_mul(31).wrapping_add(number));
        if format == Format::Raw {
            // What guests discard reads as before or as zeroes, whatever image is on top.
            options.discard =
                Some(if number.is_multiple_of(2) { DiscardAs::Zeroes } else { DiscardAs::Kept });
        }
        let (timing, power) = (self.0.timing, self.0.power.clone());
        let disk = SimDisk::new(bytes, DiskOptions { name: name.to_owned(), timing, power, ..options });
        let data = format.has_data_file().then(|| data_name(name));
        let sheet = Sheet { name: name.to_owned(), disk, format, backing, data, is_damaged: false };
        self.images().insert(name.to_owned(), (sheet.clone(), Watch::default()));
        sheet
    }

    /// Forgets an image that was never opened.
    pub(crate) fn forget(&self, name: &str) {
        self.images().remove(name);
        self.images().remove(&data_name(name));
    }

    /// Opens an image among the nodes that a draft brings in.
    pub(crate) async fn bring_in(
        &self,
        draft: &mut Draft,
        task: &mut Task<'_>,
        sheet: &Sheet,
        options: NodeOptions,
    ) -> Result<()> {
        let Some((_, watch)) = self.find(&sheet.name) else {
            return Err(Error::new(Kind::NotFound, "there is no such image"));
        };
        let mut opening = draft.plan().resume(task);
        opening.add(AuditedFile::node(&format!("{}-file", sheet.name), &sheet.disk, &watch, false))?;
        if let Some((data, watch)) = sheet.data.as_deref().and_then(|name| self.find(name)) {
            opening.add(AuditedFile::node(&data.name, &data.disk, &watch, false))?;
        }
        draft.plan().insert(opening);
        draft.add(task, options.of(sheet)?).await.map(drop)
    }
}

/// The file with the data of the image `name`, if it has one; its node is called the same.
pub(crate) fn data_name(name: &str) -> String {
    format!("{name}-data")
}

/// How a node is opened or reopened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeOptions {
    pub(crate) read_only: bool,
    /// It gets what it names behind it.
    pub(crate) with_backing: bool,
    /// Bytes of each cache.
    pub(crate) cache_bytes: u64,
}

impl NodeOptions {
    /// For writing, with what is behind it, and the smallest caches.
    pub(crate) const WRITABLE: Self = Self { read_only: false, with_backing: true, cache_bytes: 4096 };

    /// As a command would say it.
    pub(crate) fn of(self, sheet: &Sheet) -> Result<Options> {
        let mut options = Options::default();
        options.set("driver", sheet.format.driver())?;
        options.set("node-name", sheet.name.as_str())?;
        options.set("file", format!("{}-file", sheet.name))?;
        options.set("read-only", self.read_only)?;
        options.set("discard", "unmap")?;
        if matches!(sheet.format, Format::Qcow2(_)) {
            match sheet.backing.as_deref().filter(|_| self.with_backing) {
                Some(backing) => options.set("backing", backing)?,
                None => options.set("backing", ())?,
            }
            if let Some(data) = &sheet.data {
                options.set("data-file", data.as_str())?;
            }
            options.set("l2-cache-size", self.cache_bytes)?;
            options.set("refcount-cache-size", self.cache_bytes)?;
        }
        Ok(options)
    }
}

impl Stage {
    /// An empty stage on `graph`.
    pub(crate) fn new(sim: &Sim, graph: &SimGraph<'_>, common: Common) -> Self {
        let (control, counts) = (graph.control().clone(), common.counts().clone());
        let jobs =
            Jobs::new(control.clone(), SimThreads::start(sim), move |event: JobEvent| note(&counts, &event));
        Self { control, jobs, common, disks: Vec::new(), hall: None }
    }

    /// Opens images, each before those on top of it, and makes disks of some of them.
    pub(crate) async fn open(&mut self, sheets: Vec<Sheet>, guests: Vec<Guest>) -> Result<()> {
        let (common, tops) =
            (self.common.clone(), guests.iter().map(|one| (one.top.clone(), one.resizes)).collect());
        let backends =
            self.on_control(async move |task: &mut Task<'_>| open(task, &common, sheets, tops).await);
        for (Guest { top, model, resizes }, main) in guests.into_iter().zip(backends.await?) {
            let head = Mutex::new(top);
            let (is_busy, was_frozen) = (AtomicBool::new(false), AtomicBool::new(false));
            let starting = AtomicU64::new(0);
            let front = Front(Arc::new(FrontState { head, is_busy, was_frozen, starting }));
            let (number, model) = (self.disks.len(), Rc::new(RefCell::new(model)));
            self.disks.push(Rc::new(Disk {
                number,
                model,
                main,
                resizes,
                front,
                is_forgotten: Cell::new(false),
                was_shortened: Cell::new(false),
                kept: RefCell::default(),
            }));
        }
        Ok(())
    }

    /// Runs `work` as a control task and looks at the graph afterwards: every rule holds, and if the work failed and
    /// nobody else has changed anything, all is as before.
    pub(crate) async fn on_control<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) -> Result<T> + Send + 'static,
    {
        let (inner, jobs) = (Arc::clone(&self.common.0), self.jobs.clone());
        inner.changing.fetch_add(1, Ordering::SeqCst);
        let done = self.control.call(async move |task: &mut Task<'_>| {
            let was_alone = inner.changing.load(Ordering::SeqCst) == 1 && jobs.list().is_empty();
            let changed = inner.changed.load(Ordering::SeqCst);
            let before = task.gs().with(audit::describe);
            let result = work(task).await;
            let after = task.gs().with(|graph| {
                audit::demand_sound(graph);
                audit::describe(graph)
            });
            let others = inner.changed.fetch_add(1, Ordering::SeqCst) - changed;
            let is_alone = inner.changing.fetch_sub(1, Ordering::SeqCst) == 1 && jobs.list().is_empty();
            // Who leaves goes, whatever can be stored by then.
            let is_alone = is_alone && !inner.power.is_off();
            if let (Err(error), true, true, 0) = (&result, was_alone, is_alone, others) {
                assert_eq!(before, after, "a change failed and left something: {}", error.report());
            }
            result
        });
        done.await?
    }
}

/// Counts what becomes of jobs.
fn note(counts: &Counts, event: &JobEvent) {
    let name = match &event.what {
        Happening::Completed(_, None) => "jobs completed",
        Happening::Completed(_, Some(_)) => "jobs failed",
        Happening::Cancelled(_) => "jobs cancelled",
        Happening::Error(_, ErrorAction::Stop) => "jobs stopped by an error",
        Happening::Error(..) => "errors of jobs",
        _ => return,
    };
    counts.event(name, 1);
}

/// One plan: all images, and a user for each of `tops`.
async fn open(
    task: &mut Task<'_>,
    common: &Common,
    sheets: Vec<Sheet>,
    tops: Vec<(String, bool)>,
) -> Result<Vec<Backend<ReadWrite>>> {
    change(task, common.opener(), async |draft, task| {
        let opening = Opening::new(task);
        draft.plan().insert(opening);
        for sheet in &sheets {
            let read_only = tops.iter().all(|(top, _)| *top != sheet.name);
            let options = NodeOptions { read_only, ..NodeOptions::WRITABLE };
            common.bring_in(draft, task, sheet, options).await?;
        }
        let mut backends = Vec::new();
        for (top, resizes) in &tops {
            let node = draft.find(task, top)?;
            let spec = RootSpec { name: format!("owner of {top}"), grant: owner(*resizes), stays: false };
            backends.push(draft.plan().attach_root(task.gs(), node, spec));
        }
        Ok(backends)
    })
    .await
}
