//! [`NodeReport`]: one node, as `query-named-block-nodes` reports it.

use std::path::PathBuf;

use drystone_core::bitmap::BitmapInfo;
use drystone_core::control::{GraphView, NodeView};
use drystone_core::graph::activity::Activity;
use drystone_core::graph::node::{ChildKey, Node, NodeId};
use drystone_core::graph::policy::DetectZeroes;
use drystone_format::qcow2::driver::Qcow2;
use drystone_format::qcow2::feature::{CompatibleBit, IncompatibleBit};
use drystone_format::qcow2::header::{Crypt, Header, Version};
use drystone_protocol::file::HostFile;

use super::filename::{self, Names};
use super::order;
use crate::given::Given;

/// One node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeReport {
    /// Its identity.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: &'static str,
    /// Writes are refused.
    pub read_only: bool,
    /// This process may write and cache.
    pub active: bool,
    /// It stays when its last user goes.
    pub owned: bool,
    /// The image is encrypted.
    pub encrypted: bool,
    /// What becomes of writes of zeroes.
    pub detect_zeroes: DetectZeroes,
    /// `cache.direct`.
    pub cache_direct: bool,
    /// `cache.no-flush`.
    pub cache_no_flush: bool,
    /// By which name its backing image can be opened, if it has one.
    pub backing_file: Option<String>,
    /// How many images are behind it, one behind the other.
    pub backing_file_depth: usize,
    /// What it shows.
    pub image: ImageReport,
    /// What was done to it since it was opened.
    pub activity: Activity,
    /// Its dirty bitmaps.
    pub bitmaps: Vec<BitmapInfo>,
    /// The children, by what they are for.
    pub children: Vec<(ChildKey, NodeId)>,
}

/// What a node shows.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageReport {
    /// By which name it can be opened: a path, or `json:` and options.
    pub filename: String,
    /// The driver.
    pub format: &'static str,
    /// Length of the disk in bytes.
    pub virtual_size: u64,
    /// What the files of the image take up on their file systems, in bytes; its backing image not counted.
    pub actual_size: Option<u64>,
    /// Length of a cluster in bytes, if the format has such.
    pub cluster_size: Option<u64>,
    /// The image is encrypted.
    pub encrypted: bool,
    /// Whoever wrote it last has not finished.
    pub dirty: bool,
    /// The backing file as the image names it.
    pub backing_filename: Option<String>,
    /// The same, as it is to be opened.
    pub full_backing_filename: Option<String>,
    /// The format of the backing file as the image names it.
    pub backing_format: Option<String>,
    /// What only this format has.
    pub specific: Option<Specific>,
    /// The image behind it, if that was asked for.
    pub backing: Option<Box<ImageReport>>,
}

/// What only one format has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Specific {
    /// A file, of which nothing more is known.
    File,
    /// A qcow2 image.
    Qcow2 {
        /// `compat`: `0.10` or `1.1`.
        compat: &'static str,
        /// `compression-type`.
        compression_type: &'static str,
        /// `refcount-bits`.
        refcount_bits: u32,
        /// `data-file`: whether the data has a file of its own, and what the image calls it.
        data_file: Option<Option<String>>,
        /// What only images of version 3 have.
        version_3: Option<Qcow2Features>,
    },
}

/// Features that are marked in headers of version 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qcow2Features {
    /// `bitmaps`: those that are stored in it.
    pub bitmaps: Vec<StoredBitmap>,
    /// `lazy-refcounts`.
    pub lazy_refcounts: bool,
    /// `corrupt`.
    pub corrupt: bool,
    /// `extended-l2`.
    pub extended_l2: bool,
    /// `data-file-raw`.
    pub data_file_raw: bool,
}

/// A bitmap that an image stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBitmap {
    /// Its name.
    pub name: String,
    /// Bytes per bit.
    pub granularity: u32,
    /// The image is open for writing, or was and the bitmap was not stored: what is stored is out of date.
    pub in_use: bool,
    /// It follows writes.
    pub auto: bool,
}

/// How deep images are reported inside of images that stand on them: no more than can be opened by one request.
const NESTING_MAX: usize = crate::open::LAYERS_MAX;

/// Every node, in the order in which they are told. With `nested`, every image with those behind it.
/// Takes time in proportion to what it returns.
#[must_use]
pub fn nodes(graph: &GraphView<'_>, nested: bool) -> Vec<NodeReport> {
    let reporter =
        Reporter { graph, names: Names::new(graph), nesting: if nested { NESTING_MAX } else { 0 } };
    order::in_order(graph).into_iter().map(|view| reporter.node(view)).collect()
}

/// Looks at one node after the other.
struct Reporter<'g, 'v> {
    graph: &'g GraphView<'v>,
    names: Names<'g, GraphView<'v>>,
    /// How deep images are reported inside of others.
    nesting: usize,
}

impl Reporter<'_, '_> {
    fn node(&self, view: NodeView<'_>) -> NodeReport {
        let node = view.node();
        let image = self.image(view);
        let settings = Given::of_view(view).map(|given| given.settings);
        let backing = view.child(ChildKey::Backing);
        NodeReport {
            id: view.id(),
            name: node.name().to_owned(),
            driver: node.driver().format_name(),
            read_only: node.is_read_only(),
            active: node.is_active(),
            owned: view.is_owned(),
            encrypted: image.encrypted,
            detect_zeroes: node.policy().detect_zeroes,
            cache_direct: settings.as_ref().is_some_and(|settings| settings.cache_direct),
            cache_no_flush: settings.as_ref().is_some_and(|settings| settings.cache_no_flush),
            backing_file: backing.map(|backing| self.names.of(backing).text()),
            backing_file_depth: if self.nesting > 0 { self.behind(view).count() } else { 0 },
            image,
            activity: node.activity(),
            bitmaps: node.bitmaps().list(),
            children: view.children().collect(),
        }
    }

    /// The images behind a node, one behind the other.
    fn behind<'s>(&'s self, view: NodeView<'s>) -> impl Iterator<Item = NodeView<'s>> {
        let next = |view: &NodeView<'s>| self.graph.view(view.child(ChildKey::Backing)?);
        std::iter::successors(Some(view), next).skip(1)
    }

    /// From the last image up: chains are as long as people make them.
    fn image(&self, view: NodeView<'_>) -> ImageReport {
        let behind: Vec<NodeView<'_>> = self.behind(view).take(self.nesting).collect();
        let below = behind.into_iter().rev().fold(None, |below, view| Some(self.one_image(view, below)));
        self.one_image(view, below)
    }

    fn one_image(&self, view: NodeView<'_>, below: Option<ImageReport>) -> ImageReport {
        let node = view.node();
        let header = self.header_of(view);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let own_header = node.driver_as::<Qcow2>().and(header.as_ref());
        ImageReport {
            filename: self.names.of(view.id()).text(),
            format: node.driver().format_name(),
            virtual_size: node.len(),
            actual_size: self.actual_size(view),
            cluster_size: header.as_ref().map(|header| header.cluster().bytes()),
            encrypted: own_header.is_some_and(|header| header.crypt() != Crypt::None),
            dirty: own_header.is_some_and(|header| header.incompatible().has(IncompatibleBit::Dirty)),
            backing_filename: filename::recorded_backing(node).map(path),
            full_backing_filename: self.names.full_backing_path(node, view.child(ChildKey::File)).map(path),
            backing_format: own_header.and_then(|header| header.extensions().backing_format()).map(text),
            specific: specific(node, own_header),
            backing: below.map(Box::new),
        }
    }

    /// The header of the image that a node shows, be it through others that show the same.
    fn header_of<'s>(&'s self, mut view: NodeView<'s>) -> Option<Header> {
        loop {
            if let Some(image) = view.node().driver_as::<Qcow2>() {
                return Some(image.header_now());
            }
            view = self.graph.view(view.child(ChildKey::File)?)?;
        }
    }

    fn actual_size<'s>(&'s self, mut view: NodeView<'s>) -> Option<u64> {
        loop {
            if let Some(file) = view.node().driver_as::<HostFile>() {
                return file.allocated_bytes_now().ok();
            }
            match view.child(ChildKey::File) {
                Some(file) => view = self.graph.view(file)?,
                None => return Some(0),
            }
        }
    }
}

fn specific(node: &Node, header: Option<&Header>) -> Option<Specific> {
    if node.driver_as::<HostFile>().is_some() {
        return Some(Specific::File);
    }
    let header = header?;
    let is_writable = !node.is_read_only() && node.is_active();
    let stored = node.driver_as::<Qcow2>().map(Qcow2::stored_bitmaps).unwrap_or_default();
    let bitmaps = stored.into_iter().map(|bitmap| StoredBitmap {
        name: String::from_utf8_lossy(&bitmap.name).into_owned(),
        granularity: 1 << bitmap.granularity_bits,
        in_use: bitmap.in_use || is_writable,
        auto: bitmap.auto,
    });
    let version_3 = (header.version() == Version::V3).then(|| Qcow2Features {
        bitmaps: bitmaps.collect(),
        lazy_refcounts: header.compatible().has(CompatibleBit::LazyRefcounts),
        corrupt: header.incompatible().has(IncompatibleBit::Corrupt),
        extended_l2: header.incompatible().has(IncompatibleBit::ExtendedL2),
        data_file_raw: header.is_data_raw(),
    });
    Some(Specific::Qcow2 {
        compat: header.version().compat(),
        compression_type: header.compression().name(),
        refcount_bits: header.width().bits(),
        data_file: header
            .l2()
            .has_data_file()
            .then(|| header.extensions().data_file().map(|name| String::from_utf8_lossy(name).into_owned())),
        version_3,
    })
}
