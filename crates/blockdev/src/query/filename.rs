//! [`Filename`]: by which name somebody else can open what a node shows.
//!
//! | node | name |
//! |---|---|
//! | a file | its path |
//! | `null-co`, `null-aio` as they are by default | `null-co://`, `null-aio://` |
//! | an image with nothing special said of it, on one of these | the name of that; opening it finds the rest |
//! | an unnamed filter of a job | that of the node below |
//! | anything else | `json:` and options: what decides which bytes are shown, of the node and all below it |

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use drystone_core::control::{GraphView, Plan, Task};
use drystone_core::graph::node::{ChildKey, Node, NodeId};
use drystone_format::qcow2::driver::Qcow2;
use drystone_protocol::file::HostFile;

use crate::given::Given;
use crate::name;
use crate::options::Options;

/// By which name a node can be opened.
#[derive(Debug, Clone, PartialEq)]
pub enum Filename {
    /// A path, or a protocol and what is behind it.
    Path(PathBuf),
    /// Options, to be written behind `json:`.
    Options(Options),
}

impl Filename {
    /// As it is written.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Path(path) => path.to_string_lossy().into_owned(),
            Self::Options(options) => format!("json:{}", options.to_value()),
        }
    }
}

/// Where nodes are looked up.
pub(crate) trait LookUp {
    fn node(&self, id: NodeId) -> Option<Arc<Node>>;
    fn child(&self, id: NodeId, key: ChildKey) -> Option<NodeId>;
    /// `None` if nobody has opened it: a job has put it in, and takes it out again.
    fn given(&self, id: NodeId) -> Option<Rc<Given>>;
}

impl LookUp for GraphView<'_> {
    fn node(&self, id: NodeId) -> Option<Arc<Node>> {
        self.node_handle(id)
    }

    fn child(&self, id: NodeId, key: ChildKey) -> Option<NodeId> {
        GraphView::child(self, id, key)
    }

    fn given(&self, id: NodeId) -> Option<Rc<Given>> {
        Given::of(self, id)
    }
}

struct Planned<'p, 't>(&'p Task<'t>, &'p Plan);

impl LookUp for Planned<'_, '_> {
    fn node(&self, id: NodeId) -> Option<Arc<Node>> {
        self.1.node(self.0.gs(), id)
    }

    fn child(&self, id: NodeId, key: ChildKey) -> Option<NodeId> {
        let children = self.1.children(self.0.gs(), id);
        children.into_iter().find(|(known, _)| *known == key).map(|(_, child)| child)
    }

    fn given(&self, id: NodeId) -> Option<Rc<Given>> {
        Given::planned(self.0, self.1, id)
    }
}

/// The name of a node of the graph.
#[must_use]
pub fn of(graph: &GraphView<'_>, node: NodeId) -> Filename {
    filename(graph, node)
}

/// The name of a node of the graph or of those that a plan brings in.
pub(crate) fn of_planned(task: &Task<'_>, plan: &Plan, node: NodeId) -> Filename {
    filename(&Planned(task, plan), node)
}

/// The file that an image is in, or that a node is, if its path and the format say all there is to say of the node but for
/// what is behind it: of a window of a file, or an image inside of an image, they do not.
#[must_use]
pub fn file_of(graph: &GraphView<'_>, node: NodeId) -> Option<PathBuf> {
    file_path(&*bottom(graph, node)?)
}

/// The same for a node of the graph or of those that a plan brings in.
pub(crate) fn file_of_planned(task: &Task<'_>, plan: &Plan, node: NodeId) -> Option<PathBuf> {
    file_path(&*bottom(&Planned(task, plan), node)?)
}

/// Options that decide which bytes a node shows, beside its children.
const STRONG: [&str; 5] = ["offset", "size", "latency-ns", "read-zeroes", "encrypt"];

/// The filter that jobs put in.
const COPY_ON_READ: &str = "copy-on-read";

pub(crate) fn filename(graph: &impl LookUp, id: NodeId) -> Filename {
    let is_named = graph.node(id).is_some_and(|node| !node.name().starts_with('#'));
    let id = if is_named { id } else { below_filters(graph, id) };
    match plain(graph, id) {
        Some(path) => Filename::Path(path),
        None => Filename::Options(options(graph, id)),
    }
}

/// The image below the filters of jobs. They change no byte and go when their job ends, so what lies above them is found by
/// the name that it has without them.
fn below_filters(graph: &impl LookUp, mut id: NodeId) -> NodeId {
    while graph.given(id).is_none()
        && graph.node(id).is_some_and(|node| node.driver().format_name() == COPY_ON_READ)
        && let Some(file) = graph.child(id, ChildKey::File)
    {
        id = file;
    }
    id
}

/// The name without options, if it says everything.
fn plain(graph: &impl LookUp, id: NodeId) -> Option<PathBuf> {
    if overridden(graph, id).is_some() {
        return None;
    }
    let bottom = bottom(graph, id)?;
    let protocol = || PathBuf::from(format!("{}://", bottom.driver().format_name()));
    Some(file_path(&bottom).unwrap_or_else(protocol))
}

/// The node without children that an image is on, or that the node is, if its name and the format say everything but for
/// what is behind the image.
fn bottom(graph: &impl LookUp, id: NodeId) -> Option<Arc<Node>> {
    let is_special =
        |id| graph.given(id).is_some_and(|given| given.explicit.names().any(|name| STRONG.contains(&name)));
    let node = graph.node(id)?;
    let node = match graph.child(id, ChildKey::File) {
        None => node,
        // A filter is found by nobody who opens the file, nor an image inside of an image.
        Some(_) if is_special(id) || matches!(node.driver().format_name(), COPY_ON_READ | "throttle") => {
            return None;
        }
        Some(file) if graph.child(file, ChildKey::File).is_some() => return None,
        Some(file) => return bottom(graph, file),
    };
    (file_path(&node).is_some() || !is_special(id)).then_some(node)
}

fn file_path(node: &Node) -> Option<PathBuf> {
    Some(node.driver_as::<HostFile>()?.path().to_owned())
}

/// The backing child, if it is not the one that the image names; `Some(None)` if there is none though one is named.
fn overridden(graph: &impl LookUp, id: NodeId) -> Option<Option<NodeId>> {
    let child = graph.child(id, ChildKey::Backing).map(|child| below_filters(graph, child));
    let named = full_backing_path(graph, id);
    match (child, named) {
        (None, None) => None,
        (None, Some(_)) => Some(None),
        (Some(child), None) => Some(Some(child)),
        (Some(child), Some(named)) => {
            // Loops end at the first file.
            let same = plain(graph, child).is_some_and(|path| path == named);
            (!same).then_some(Some(child))
        }
    }
}

/// The name in an image's header, as it is to be opened; none if there is none, or it cannot be opened by itself.
pub(crate) fn full_backing_path(graph: &impl LookUp, id: NodeId) -> Option<PathBuf> {
    let recorded = recorded_backing(&*graph.node(id)?)?;
    let path = graph.child(id, ChildKey::File).and_then(|file| plain(graph, file));
    let folder = path.as_deref().and_then(Path::parent);
    Some(name::resolve(recorded.as_os_str(), folder).unwrap_or(recorded))
}

/// The name of the backing file in the header of an image.
pub(crate) fn recorded_backing(node: &Node) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let name = node.driver_as::<Qcow2>()?.header_now().backing_name()?.to_vec();
    (!name.is_empty()).then(|| PathBuf::from(std::ffi::OsString::from_vec(name)))
}

/// What decides which bytes are shown, of the node and all below it.
fn options(graph: &impl LookUp, id: NodeId) -> Options {
    let mut options = Options::default();
    let Some(node) = graph.node(id) else { return options };
    options.put_new("driver", node.driver().format_name());
    if let Some(given) = graph.given(id) {
        for (key, value) in given.explicit.plain().filter(|(key, _)| STRONG.contains(key)) {
            options.put_new(key, value.clone());
        }
    }
    if let Some(path) = file_path(&node) {
        options.put_new("filename", path.to_string_lossy().into_owned());
    }
    if let Some(file) = graph.child(id, ChildKey::File) {
        options.put_below("file", self::options(graph, file));
    }
    match overridden(graph, id) {
        None => {}
        Some(None) => options.put_new("backing", serde_json::Value::Null),
        Some(Some(child)) => options.put_below("backing", self::options(graph, child)),
    }
    options
}
