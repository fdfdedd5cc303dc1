//! [`NodeReport`]: one node, as `query-named-block-nodes` reports it.

use drystone_core::control::{GraphView, NodeInfo};
use drystone_core::graph::activity::Activity;
use drystone_core::graph::node::{ChildKey, Node, NodeId};
use drystone_core::graph::policy::DetectZeroes;
use drystone_format::qcow2::driver::Qcow2;
use drystone_format::qcow2::feature::{CompatibleBit, IncompatibleBit};
use drystone_format::qcow2::header::{Crypt, Header, Version};
use drystone_protocol::file::HostFile;

use super::filename;
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
    /// By which name it can be opened: a path, or `json:` and options.
    pub file: String,
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
    /// The children, by what they are for.
    pub children: Vec<(ChildKey, String)>,
}

/// What a node shows.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageReport {
    /// As [`NodeReport::file`].
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
        /// What only images of version 3 have.
        version_3: Option<Qcow2Features>,
    },
}

/// Features that are marked in headers of version 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qcow2Features {
    /// `lazy-refcounts`.
    pub lazy_refcounts: bool,
    /// `corrupt`.
    pub corrupt: bool,
    /// `extended-l2`.
    pub extended_l2: bool,
}

/// How deep images are reported inside of images that stand on them: no more than can be opened by one request.
const NESTING_MAX: usize = crate::open::LAYERS_MAX;

/// Every node, the newest first. With `nested`, every image with those behind it.
#[must_use]
pub fn nodes(graph: &GraphView<'_>, nested: bool) -> Vec<NodeReport> {
    graph.nodes().into_iter().rev().filter_map(|info| report(graph, info, nested)).collect()
}

/// One node.
#[must_use]
pub fn node(graph: &GraphView<'_>, id: NodeId, nested: bool) -> Option<NodeReport> {
    report(graph, graph.node(id)?, nested)
}

fn report(graph: &GraphView<'_>, info: NodeInfo, nested: bool) -> Option<NodeReport> {
    let id = info.id;
    let handle = graph.node_handle(id)?;
    let given = Given::of(graph, id);
    let image = image(graph, id, if nested { NESTING_MAX } else { 0 })?;
    let backing = graph.child(id, ChildKey::Backing);
    let name_of = |id| graph.node_handle(id).map(|node| node.name().to_owned()).unwrap_or_default();
    Some(NodeReport {
        id,
        name: info.name,
        driver: info.format_name,
        file: image.filename.clone(),
        read_only: info.read_only,
        active: info.active,
        owned: info.owned,
        encrypted: image.encrypted,
        detect_zeroes: handle.policy().detect_zeroes,
        cache_direct: given.as_ref().is_some_and(|given| given.settings.cache_direct),
        cache_no_flush: given.as_ref().is_some_and(|given| given.settings.cache_no_flush),
        backing_file: backing.map(|backing| filename::of(graph, backing).text()),
        backing_file_depth: if nested { depth(graph, id) } else { 0 },
        image,
        activity: handle.activity(),
        children: info.edges.iter().map(|edge| (edge.key, name_of(edge.child))).collect(),
    })
}

fn depth(graph: &GraphView<'_>, id: NodeId) -> usize {
    std::iter::successors(graph.child(id, ChildKey::Backing), |id| graph.child(*id, ChildKey::Backing))
        .count()
}

fn image(graph: &GraphView<'_>, id: NodeId, nesting: usize) -> Option<ImageReport> {
    // From the last image up: chains are as long as people make them.
    let chain = std::iter::successors(Some(id), |id| graph.child(*id, ChildKey::Backing));
    let chain: Vec<NodeId> = chain.take(nesting + 1).collect();
    let mut below = None;
    for id in chain.into_iter().rev() {
        below = Some(Box::new(one_image(graph, id, below)?));
    }
    below.map(|image| *image)
}

fn one_image(graph: &GraphView<'_>, id: NodeId, backing: Option<Box<ImageReport>>) -> Option<ImageReport> {
    let node = graph.node_handle(id)?;
    let header = header_of(graph, id);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let own_header = node.driver_as::<Qcow2>().and(header.as_ref());
    Some(ImageReport {
        filename: filename::of(graph, id).text(),
        format: node.driver().format_name(),
        virtual_size: node.len(),
        actual_size: actual_size(graph, id),
        cluster_size: header.as_ref().map(|header| header.cluster().bytes()),
        encrypted: own_header.is_some_and(|header| header.crypt() != Crypt::None),
        dirty: own_header.is_some_and(|header| header.incompatible().has(IncompatibleBit::Dirty)),
        backing_filename: filename::recorded_backing(&node).map(|path| path.to_string_lossy().into_owned()),
        full_backing_filename: filename::full_backing_path(graph, id)
            .map(|path| path.to_string_lossy().into_owned()),
        backing_format: own_header.and_then(|header| header.extensions().backing_format()).map(text),
        specific: specific(&node, own_header),
        backing,
    })
}

/// The header of the image that a node shows, be it through others that show the same.
fn header_of(graph: &GraphView<'_>, id: NodeId) -> Option<Header> {
    let mut at = Some(id);
    while let Some(id) = at {
        let node = graph.node_handle(id)?;
        if let Some(image) = node.driver_as::<Qcow2>() {
            return Some(image.header_now());
        }
        at = graph.child(id, ChildKey::File);
    }
    None
}

fn actual_size(graph: &GraphView<'_>, id: NodeId) -> Option<u64> {
    let node = graph.node_handle(id)?;
    if let Some(file) = node.driver_as::<HostFile>() {
        return file.allocated_bytes_now().ok();
    }
    match graph.child(id, ChildKey::File) {
        Some(file) => actual_size(graph, file),
        None => Some(0),
    }
}

fn specific(node: &Node, header: Option<&Header>) -> Option<Specific> {
    if node.driver_as::<HostFile>().is_some() {
        return Some(Specific::File);
    }
    let header = header?;
    let version_3 = (header.version() == Version::V3).then(|| Qcow2Features {
        lazy_refcounts: header.compatible().has(CompatibleBit::LazyRefcounts),
        corrupt: header.incompatible().has(IncompatibleBit::Corrupt),
        extended_l2: header.incompatible().has(IncompatibleBit::ExtendedL2),
    });
    Some(Specific::Qcow2 {
        compat: header.version().compat(),
        compression_type: header.compression().name(),
        refcount_bits: header.width().bits(),
        version_3,
    })
}
