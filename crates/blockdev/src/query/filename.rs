//! [`Filename`]: by which name somebody else can open what a node shows.
//!
//! | node | name |
//! |---|---|
//! | a file | its path |
//! | an export of an NBD server | its URI |
//! | `null-co`, `null-aio` as they are by default | `null-co://`, `null-aio://` |
//! | an image with nothing special said of it, on one of these | the name of that; opening it finds the rest |
//! | an unnamed filter of a job | that of the node below |
//! | anything else | `json:` and options: what decides which bytes are shown, of the node and all below it |

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use drystone_core::control::{GraphView, Plan, Task};
use drystone_core::graph::node::{ChildKey, Node, NodeId};
use drystone_format::qcow2::driver::Qcow2;
use drystone_nbd::uri::{Address, Uri};
use drystone_protocol::file::HostFile;
use drystone_protocol::nbd::NbdClient;

use crate::given::Given;
use crate::name;
use crate::options::Options;

/// Most names with options are no longer.
const JSON_BYTES: usize = 128;

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
            Self::Options(options) => {
                let mut text = String::with_capacity(JSON_BYTES);
                // Writing to memory does not fail.
                let _ = write!(text, "json:{options}");
                text
            }
        }
    }
}

/// A node, and what its name depends on.
pub(crate) struct Seen {
    pub(crate) node: Arc<Node>,
    pub(crate) file: Option<NodeId>,
    pub(crate) backing: Option<NodeId>,
    /// `None` if nobody has opened it: a job has put it in, and takes it out again.
    pub(crate) given: Option<Rc<Given>>,
}

impl Seen {
    fn new(
        node: Arc<Node>,
        children: impl Iterator<Item = (ChildKey, NodeId)>,
        given: Option<Rc<Given>>,
    ) -> Self {
        let mut seen = Self { node, file: None, backing: None, given };
        for (key, child) in children {
            match key {
                ChildKey::File => seen.file = Some(child),
                ChildKey::Backing => seen.backing = Some(child),
                ChildKey::DataFile | ChildKey::Numbered(_) => {}
            }
        }
        seen
    }

    /// More than its file and its format must be said.
    fn is_special(&self) -> bool {
        self.given.as_ref().is_some_and(|given| !given.strong.is_empty())
    }

    fn file_path(&self) -> Option<&Path> {
        Some(self.node.driver_as::<HostFile>()?.path())
    }
}

/// Where nodes are looked up.
pub(crate) trait LookUp {
    fn look(&self, id: NodeId) -> Option<Seen>;
}

impl LookUp for GraphView<'_> {
    fn look(&self, id: NodeId) -> Option<Seen> {
        let view = self.view(id)?;
        Some(Seen::new(Arc::clone(view.node()), view.children(), Given::of_view(view)))
    }
}

struct Planned<'p, 't>(&'p Task<'t>, &'p Plan);

impl LookUp for Planned<'_, '_> {
    fn look(&self, id: NodeId) -> Option<Seen> {
        let Self(task, plan) = self;
        let children = plan.children(task.gs(), id).into_iter();
        Some(Seen::new(plan.node(task.gs(), id)?, children, Given::planned(task, plan, id)))
    }
}

/// The name of a node of the graph.
#[must_use]
pub fn of(graph: &GraphView<'_>, node: NodeId) -> Filename {
    Names::new(graph).of(node)
}

/// The name of a node of the graph or of those that a plan brings in.
pub(crate) fn of_planned(task: &Task<'_>, plan: &Plan, node: NodeId) -> Filename {
    Names::new(&Planned(task, plan)).of(node)
}

/// The file that an image is in, or that a node is, if its path and the format say all there is to say of the node but for
/// what is behind it: of a window of a file, or an image inside of an image, they do not.
#[must_use]
pub fn file_of(graph: &GraphView<'_>, node: NodeId) -> Option<PathBuf> {
    Bottom::of(graph, &graph.look(node)?)?.file()
}

/// The same for a node of the graph or of those that a plan brings in.
pub(crate) fn file_of_planned(task: &Task<'_>, plan: &Plan, node: NodeId) -> Option<PathBuf> {
    let graph = Planned(task, plan);
    Bottom::of(&graph, &graph.look(node)?)?.file()
}

/// The name of the backing file in the header of an image.
pub(crate) fn recorded_backing(node: &Node) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let name = node.driver_as::<Qcow2>()?.header_now().backing_name()?.to_vec();
    (!name.is_empty()).then(|| PathBuf::from(std::ffi::OsString::from_vec(name)))
}

/// The filter that jobs put in.
const COPY_ON_READ: &str = "copy-on-read";

/// What a node without children is called.
enum Bottom {
    File(PathBuf),
    Protocol(&'static str),
    Nbd(String),
}

impl Bottom {
    /// The node that an image is on, or that the node is, if its name and the format say everything but for what is behind
    /// the image.
    fn of(graph: &impl LookUp, seen: &Seen) -> Option<Self> {
        let Some(file) = seen.file else {
            if let Some(nbd) = seen.node.driver_as::<NbdClient>() {
                return (!seen.is_special()).then(|| Self::Nbd(uri_of(&nbd.options().uri)));
            }
            let protocol = || (!seen.is_special()).then(|| Self::Protocol(seen.node.driver().format_name()));
            return seen.file_path().map(|path| Self::File(path.to_owned())).or_else(protocol);
        };
        // A filter is found by nobody who opens the file, nor an image inside of an image.
        if seen.is_special() || matches!(seen.node.driver().format_name(), COPY_ON_READ | "throttle") {
            return None;
        }
        Self::of(graph, &graph.look(file).filter(|below| below.file.is_none())?)
    }

    fn file(self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path),
            Self::Protocol(_) | Self::Nbd(_) => None,
        }
    }

    fn path(self) -> PathBuf {
        match self {
            Self::File(path) => path,
            Self::Protocol(name) => PathBuf::from(format!("{name}://")),
            Self::Nbd(uri) => PathBuf::from(uri),
        }
    }
}

/// The URI of an export as the C tools write it: a server's default export has no path, its usual port is said, and nothing
/// is escaped.
fn uri_of(uri: &Uri) -> String {
    let export = if uri.export.is_empty() { String::new() } else { format!("/{}", uri.export) };
    match &uri.address {
        Address::Unix { socket } => format!("nbd+unix://{export}?socket={}", socket.display()),
        Address::Tcp { host, port } if host.contains(':') => format!("nbd://[{host}]:{port}{export}"),
        Address::Tcp { host, port } => format!("nbd://{host}:{port}{export}"),
    }
}

/// The names of many nodes of a graph that does not change meanwhile.
pub(crate) struct Names<'g, G> {
    graph: &'g G,
    /// Of images that others stand on: [`Self::path`].
    paths: RefCell<BTreeMap<NodeId, Option<Rc<Path>>>>,
}

impl<'g, G: LookUp> Names<'g, G> {
    pub(crate) fn new(graph: &'g G) -> Self {
        Self { graph, paths: RefCell::default() }
    }

    /// The name of a node.
    pub(crate) fn of(&self, id: NodeId) -> Filename {
        let named = self.graph.look(id).filter(|seen| !seen.node.name().starts_with('#'));
        let (id, seen) = match named {
            Some(seen) => (id, Some(seen)),
            None => {
                let id = self.below_filters(id);
                (id, self.graph.look(id))
            }
        };
        let Some(seen) = seen else { return Filename::Options(Options::default()) };
        // Nothing is behind most nodes, and they are asked for once.
        let path = match seen.backing {
            None => self.own_path(&seen, None),
            Some(_) => self.path(id).map(|path| path.to_path_buf()),
        };
        path.map_or_else(|| Filename::Options(self.options(&seen)), Filename::Path)
    }

    /// The name in an image's header, as it is to be opened; none if there is none, or it cannot be opened by itself. The
    /// image is in the node `file`.
    pub(crate) fn full_backing_path(&self, image: &Node, file: Option<NodeId>) -> Option<PathBuf> {
        let recorded = recorded_backing(image)?;
        let path = file.and_then(|file| self.path(file));
        let folder = path.as_deref().and_then(Path::parent);
        Some(name::resolve(recorded.as_os_str(), folder).unwrap_or(recorded))
    }

    /// The name without options, if it says everything. That depends on the images behind: chains are as long as people make
    /// them, so each is looked at once, from the lowest one up.
    fn path(&self, id: NodeId) -> Option<Rc<Path>> {
        let mut unknown = vec![id];
        while let Some(id) = unknown.last().copied() {
            if let Some(path) = self.paths.borrow().get(&id) {
                unknown.pop();
                if unknown.is_empty() {
                    return path.clone();
                }
                continue;
            }
            let seen = self.graph.look(id)?;
            let behind = seen.backing.map(|backing| self.below_filters(backing));
            match behind.filter(|behind| !self.paths.borrow().contains_key(behind)) {
                Some(behind) => unknown.push(behind),
                None => {
                    let path = self.own_path(&seen, behind).map(Rc::from);
                    self.paths.borrow_mut().insert(id, path);
                }
            }
        }
        None
    }

    /// The same, with that of the image behind known.
    fn own_path(&self, seen: &Seen, behind: Option<NodeId>) -> Option<PathBuf> {
        match self.overridden(seen, behind) {
            None => Bottom::of(self.graph, seen).map(Bottom::path),
            Some(_) => None,
        }
    }

    /// The image behind, if it is not the one that the image names; `Some(None)` if there is none though one is named.
    fn overridden(&self, seen: &Seen, behind: Option<NodeId>) -> Option<Option<NodeId>> {
        match (behind, self.full_backing_path(&seen.node, seen.file)) {
            (None, None) => None,
            (None, Some(_)) => Some(None),
            (Some(behind), None) => Some(Some(behind)),
            (Some(behind), Some(named)) => {
                let is_same = self.path(behind).is_some_and(|path| *path == *named);
                (!is_same).then_some(Some(behind))
            }
        }
    }

    /// The image below the filters of jobs. They change no byte and go when their job ends, so what lies above them is found
    /// by the name that it has without them.
    fn below_filters(&self, mut id: NodeId) -> NodeId {
        while let Some(seen) = self.graph.look(id)
            && seen.given.is_none()
            && seen.node.driver().format_name() == COPY_ON_READ
            && let Some(file) = seen.file
        {
            id = file;
        }
        id
    }

    /// What decides which bytes are shown, of the node and all below it.
    fn options(&self, seen: &Seen) -> Options {
        let mut options = Options::default();
        options.put_new("driver", seen.node.driver().format_name());
        if let Some(given) = &seen.given {
            for (key, value) in &given.strong {
                value.iter().for_each(|value| options.put_new(key, value.clone()));
            }
        }
        if let Some(path) = seen.file_path() {
            options.put_new("filename", path.to_string_lossy().into_owned());
        }
        let below = |id| self.graph.look(id).map(|seen| self.options(&seen)).unwrap_or_default();
        if let Some(file) = seen.file {
            options.put_below("file", below(file));
        }
        match self.overridden(seen, seen.backing.map(|backing| self.below_filters(backing))) {
            None => {}
            Some(None) => options.put_new("backing", serde_json::Value::Null),
            Some(Some(behind)) => options.put_below("backing", below(behind)),
        }
        options
    }
}
