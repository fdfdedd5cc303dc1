//! Reopening: read-only or not, other options.
//!
//! | change | what |
//! |---|---|
//! | becomes writable, or active | the header, tables and bitmaps are read again; marks are made by the first write |
//! | becomes read-only, or inactive | the core has had everything stored before (`store`) |
//! | options | size of the caches, `pass_discard`; the others count when the image becomes writable |

use std::sync::Arc;
use std::sync::atomic::Ordering;

use drystone_base::{Error, Kind, Result};
use drystone_core::bitmap::stored::StoredBitmap;
use drystone_core::driver::{NothingStaged, Publish, StageRequest, Staged};
use drystone_core::graph::node::Node;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;

use super::Qcow2;
use super::caches::CacheSizes;
use super::mark::HeaderNow;
use super::open::{Loaded, Qcow2Options, load_image};

/// A reopening on its way.
struct Reopening {
    /// The node, whose driver is a [`Qcow2`].
    node: Arc<Node>,
    options: Qcow2Options,
    sizes: CacheSizes,
    /// The image is read again.
    reads: bool,
    loaded: Option<Loaded>,
}

impl Qcow2 {
    /// Prepares for a change of the node.
    pub(super) fn prepare(&self, request: &StageRequest<'_>) -> Result<Box<dyn Staged>> {
        let (old, new) = (request.old, request.new);
        let options = match request.options {
            None => self.options(),
            Some(options) => *options.downcast_ref::<Qcow2Options>().ok_or_else(|| {
                Error::new(Kind::InvalidInput, "these are not options of a qcow2 image")
                    .on_node(request.node.name())
            })?,
        };
        let reads = !new.read_only && new.active && (old.read_only || !old.active);
        if reads && self.shows_snapshot.load(Ordering::Acquire) {
            let text = "an image that shows an internal snapshot can only be read";
            return Err(Error::new(Kind::ReadOnly, text).on_node(request.node.name()));
        }
        if !reads && request.options.is_none() {
            return Ok(Box::new(NothingStaged));
        }
        let options = Qcow2Options { read_only: new.read_only, ..options };
        let sizes = options.caches.sizes(&self.header_now())?;
        Ok(Box::new(Reopening { node: Arc::clone(request.node), options, sizes, reads, loaded: None }))
    }

    fn demand_same(&self, loaded: &Loaded) -> Result<()> {
        let (now, before) = (&loaded.header, self.header_now());
        let key = |header: &super::Header| (header.l2(), header.width());
        if key(now) == key(&before) {
            return Ok(());
        }
        Err(Error::new(Kind::InvalidImage, "the image was replaced by another one since it was opened"))
    }

    /// Starts again with what was read. Nobody is inside, and nothing is dirty.
    fn install(&self, loaded: Loaded) -> Vec<StoredBitmap> {
        self.map.reset(&loaded.l1);
        self.refs.reset(loaded.refcounts);
        self.frees.clear();
        self.decompressed.forget();
        self.header.replace(HeaderNow::new(loaded.header, &loaded.bytes));
        self.condition.reset();
        self.bitmaps.install(loaded.bitmaps)
    }
}

impl Reopening {
    fn driver(&self) -> &Qcow2 {
        match self.node.driver_as() {
            Some(driver) => driver,
            None => unreachable!("a reopening is made by the node's own driver"),
        }
    }
}

impl Staged for Reopening {
    fn settle<'a>(&'a mut self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.reads {
                let loaded = load_image(io.file()?, self.options).await?;
                self.driver().demand_same(&loaded)?;
                self.loaded = Some(loaded);
            }
            Ok(())
        })
    }

    fn commit(&mut self, publish: &Publish<'_>) {
        let loaded = self.loaded.take();
        let driver = self.driver();
        if let Some(loaded) = loaded {
            publish.len(loaded.header.len_guest());
            publish.bitmaps(driver.install(loaded));
        }
        driver.set_caches(self.sizes);
        driver.passes.set(self.options.pass_discard);
        driver.set_options(self.options);
    }

    fn undo<'a>(&'a mut self) -> LocalFuture<'a, ()> {
        Box::pin(async {})
    }
}
