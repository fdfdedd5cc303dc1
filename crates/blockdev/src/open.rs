//! Opening an image with everything below and behind it.
//!
//! ```text
//!   name ─> file node ─claim─> header ─> backing name ─> policy ─> file node ─claim─> header ─> ...    top down
//!                                                              nodes are made from the last one up
//! ```
//! Chains are walked in a loop, not by recursion: they are as long as people make them, up to [`LAYERS_MAX`].
//!
//! Invariants: a file's locks are taken before its header is read for the node; nothing that an image names is opened
//! before the policy allows it; a file is in a chain once; bytes that only *look* raw are never opened for writing,
//! because whoever writes them could make them look like something else at the next probe.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use drystone_base::{Error, Kind, Result};
use drystone_core::control::{NewNode, Opening, Task};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::{ParentState, Role, default_grant};
use drystone_core::runtime::LocalFuture;
use drystone_filter::blkverify;
use drystone_sys::{FileId, Network};

use crate::formats::{Backing, BackingName, Formats, OpenedImage};
use crate::given::Given;
use crate::name;
use crate::options::Options;
use crate::policy::BackingPolicy;
use crate::report::{Layer, Opened, Warning};
use crate::request::{OpenRequest, ProbedRaw};
use crate::settings::Settings;
use crate::spec::{BackingSpec, NodeRef, NodeSpec, Speaker};

mod image;
mod protocol;

/// The most images that are opened for one request.
pub const LAYERS_MAX: usize = 1024;
/// How often images can lead to one file: as windows of it, or inside each other. One hostile file could otherwise pose
/// as a thousand images, each with tables of its own in memory.
const VISITS_MAX: usize = 4;
/// The most images inside each other (`file` of `file` of ...).
const NESTING_MAX: usize = 8;

/// Opens images: which formats it knows, and which files it lets images name.
#[derive(Clone)]
pub struct Opener {
    /// The formats.
    pub formats: Formats,
    /// What images may name.
    pub policy: BackingPolicy,
    /// Where addresses of servers lead.
    pub network: Network,
}

impl Opener {
    /// All formats of this build; images may name what they like.
    #[must_use]
    pub fn trusting() -> Self {
        Self { formats: Formats::builtin(), policy: BackingPolicy::Allow, network: Network::os() }
    }

    /// Opens the image with everything below and behind it, for a plan to insert.
    ///
    /// # Errors
    /// Those of files, formats and options, naming the file. What had been opened by then is closed again.
    pub async fn open(&self, task: &mut Task<'_>, request: &OpenRequest) -> Result<Opened> {
        let opening = Opening::new(task);
        self.open_in(task, opening, request).await
    }

    /// As [`Self::open`], among nodes that are being opened already and that options can refer to by their names.
    ///
    /// # Errors
    /// As [`Self::open`]; all that is in the opening is closed then.
    pub async fn open_in(
        &self,
        task: &mut Task<'_>,
        opening: Opening,
        request: &OpenRequest,
    ) -> Result<Opened> {
        let spec = request.spec()?;
        let users = request.users.unwrap_or_else(|| default_users(&spec));
        let place = Place { users, owned: request.owned, is_image: false, nesting: 0 };
        let mut session = Session {
            opener: self,
            task: &*task,
            opening,
            layers: Vec::new(),
            warnings: Vec::new(),
            spent: Spent::default(),
            probed_raw: request.probed_raw,
            given: BTreeMap::new(),
        };
        let opened = session.chain(spec, place).await;
        let Session { mut opening, layers, warnings, given, .. } = session;
        for (id, given) in given {
            opening.remember(id, Rc::new(given));
        }
        match opened {
            Ok(top) => Ok(Opened { opening, top: top.id, layers, warnings }),
            Err(error) => {
                opening.close().await;
                Err(error)
            }
        }
    }
}

/// Somebody who does what the node allows and lets others do anything: locks no more than necessary.
fn default_users(spec: &NodeSpec) -> Grant {
    let read_only = match spec {
        NodeSpec::Image(image) => image.settings.read_only,
        NodeSpec::Protocol(protocol) => protocol.settings.read_only,
        NodeSpec::Existing(_) => true,
    };
    let perm = if read_only { Perm::CONSISTENT_READ } else { Grant::WRITER.perm };
    Grant { perm, shared: Perm::ALL }
}

/// Where in the request a node is.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// What will use it.
    users: Grant,
    owned: bool,
    /// An image named it, rather than a user.
    is_image: bool,
    /// Images that it is inside of, as their `file`.
    nesting: usize,
}

/// One request being carried out.
struct Session<'s, 't> {
    opener: &'s Opener,
    task: &'s Task<'t>,
    opening: Opening,
    layers: Vec<Layer>,
    warnings: Vec<Warning>,
    spent: Spent,
    probed_raw: ProbedRaw,
    /// What the new nodes were given.
    given: BTreeMap<NodeId, Given>,
}

/// What a request has taken so far of what it may take.
#[derive(Default)]
struct Spent {
    images: usize,
    /// The files that images have led to, as often as they have.
    visits: Vec<FileId>,
}

impl Spent {
    fn image(&mut self) -> Result<()> {
        self.images += 1;
        if self.images > LAYERS_MAX {
            return Err(Error::new(
                Kind::TooLarge,
                format!("more than {LAYERS_MAX} images are in the chain"),
            ));
        }
        Ok(())
    }

    fn visit(&mut self, file: FileId) -> Result<()> {
        if self.visits.iter().filter(|known| **known == file).count() == VISITS_MAX {
            let text = format!("images lead to this file more than {VISITS_MAX} times");
            return Err(Error::new(Kind::TooLarge, text));
        }
        self.visits.push(file);
        Ok(())
    }
}

/// A node that was added, and the file at the bottom of it.
struct Added {
    id: NodeId,
    leaf: Leaf,
    read_only: bool,
}

/// The file that a stack of `file` children ends at; nothing if it is no file.
#[derive(Debug, Clone, Default)]
struct Leaf {
    /// The path by which it was named, before any policy.
    path: Option<PathBuf>,
    id: Option<FileId>,
    /// Which part of it: what was said of the images on the way there, the lowest first.
    parts: Vec<Options>,
}

/// An image that waits for what is behind it to become a node.
struct Pending {
    image: OpenedImage,
    role: Role,
    file: NodeId,
    /// Where its data is, if that is another file.
    data: Option<NodeId>,
    /// The second disk of a driver that has two.
    test: Option<NodeId>,
    leaf: Leaf,
    node_name: Option<String>,
    settings: Settings,
    place: Place,
    is_probed: bool,
    given: Given,
    /// The file, if it takes over from the image what it was not told.
    file_is_heir: Option<NodeId>,
    data_is_heir: bool,
    backing_is_heir: bool,
}

impl Leaf {
    fn folder(&self) -> Option<&Path> {
        self.path.as_deref().map(|path| path.parent().unwrap_or(path))
    }

    /// For messages.
    fn shown(&self) -> PathBuf {
        self.path.clone().unwrap_or_else(|| PathBuf::from("(no file)"))
    }

    fn name_in(&self, error: Error) -> Error {
        match &self.path {
            Some(path) => error.at_path(path),
            None => error,
        }
    }
}

impl<'s> Session<'s, '_> {
    /// Opens `spec` and everything behind it. A box, because an image can be inside an image.
    fn chain(&mut self, spec: NodeSpec, place: Place) -> LocalFuture<'_, Result<Added>> {
        Box::pin(async move {
            let mut chain = Chain::default();
            let mut next = Some((spec, place));
            let mut bottom = None;
            while let Some((spec, place)) = next.take() {
                let opened = self.link(spec, place, &mut chain).await;
                match opened.map_err(|error| chain.name_in(error))? {
                    Link::Image(behind) => next = behind.map(|behind| *behind),
                    Link::Bottom(added) => bottom = Some(added),
                }
            }
            self.assemble(chain, bottom)
        })
    }

    /// Opens one image, or the node that a chain ends at.
    async fn link(&mut self, spec: NodeSpec, place: Place, chain: &mut Chain) -> Result<Link> {
        match spec {
            NodeSpec::Existing(node) => Ok(Link::Bottom(self.existing(node)?)),
            NodeSpec::Protocol(protocol) => {
                let (settings, name) = (protocol.settings, protocol.driver.name());
                let added = self.protocol(protocol, place, false).await?;
                self.claim(added.id, place.users, settings).await?;
                if place.nesting == 0 {
                    let format_name =
                        self.opening.node(added.id).map_or(name, |node| node.driver().format_name());
                    let path = added.leaf.path.clone();
                    let layer = Layer {
                        node: added.id,
                        file: None,
                        format_name,
                        is_probed: false,
                        path,
                        backing: None,
                    };
                    chain.bottom = Some(layer);
                }
                Ok(Link::Bottom(added))
            }
            NodeSpec::Image(image) => {
                let backing = image.backing.clone();
                let pending = self.image(*image, place, &mut chain.seen).await?;
                let behind = behind(&pending, backing);
                chain.images.push(pending);
                Ok(Link::Image(behind?.map(Box::new)))
            }
        }
    }

    fn existing(&self, node: NodeRef) -> Result<Added> {
        let id = match node {
            NodeRef::Id(id) => id,
            NodeRef::Named(name) => self.opening.find(&name)?,
        };
        let node = self.opening.node(id)?;
        Ok(Added { id, leaf: protocol::leaf_of(&node), read_only: node.is_read_only() })
    }

    /// Takes the locks of a file for what will be its users.
    async fn claim(&mut self, id: NodeId, users: Grant, settings: Settings) -> Result<()> {
        let shared = if settings.force_share { Perm::ALL } else { users.shared };
        self.opening.claim(id, Grant { shared, ..users }).await
    }

    /// Makes nodes of the images, from the last one up.
    fn assemble(&mut self, chain: Chain, bottom: Option<Added>) -> Result<Added> {
        let mut layers: Vec<Layer> = chain.bottom.into_iter().collect();
        let mut below = bottom;
        let mut is_main = true;
        for pending in chain.images.into_iter().rev() {
            let Pending { image, role, file, leaf, node_name, settings, place, is_probed, .. } = pending;
            let Pending { mut given, file_is_heir, data, data_is_heir, backing_is_heir, .. } = pending;
            is_main = place.nesting == 0;
            let format_name = image.driver.format_name();
            let mut children = vec![(ChildKey::File, role, file)];
            children.extend(data.map(|data| (ChildKey::DataFile, Role::DATA, data)));
            children.extend(pending.test.map(|test| (blkverify::TEST, Role::DATA, test)));
            let behind = below.map(|below| below.id);
            children.extend(behind.map(|behind| (ChildKey::Backing, Role::COW, behind)));
            let id = self.opening.add(NewNode {
                name: node_name,
                driver: image.driver,
                facts: image.facts,
                children,
                owned: place.owned,
                force_share: settings.force_share,
            })?;
            self.opening.set_policy(id, given.settings.policy());
            given.driver(format_name)?;
            let data_heir = data.filter(|_| data_is_heir);
            let heirs = file_is_heir.into_iter().chain(data_heir);
            for heir in heirs.chain(behind.filter(|_| backing_is_heir)) {
                if let Some(given) = self.given.get_mut(&heir) {
                    given.heir_of = Some(id);
                }
            }
            self.given.insert(id, given);
            let backing = match image.backing {
                Backing::File(name) => Some(name),
                Backing::None | Backing::Impossible => None,
            };
            let path = leaf.path.clone();
            layers.push(Layer { node: id, file: Some(file), format_name, is_probed, path, backing });
            below = Some(Added { id, leaf, read_only: image.facts.read_only });
        }
        if is_main {
            self.layers = layers;
            self.layers.reverse();
        }
        below.ok_or_else(|| Error::new(Kind::InvalidInput, "there is nothing to open"))
    }
}

/// What was opened of a chain so far.
#[derive(Default)]
struct Chain {
    images: Vec<Pending>,
    seen: Vec<image::Identity>,
    bottom: Option<Layer>,
}

enum Link {
    /// An image, and what is to be behind it.
    Image(Option<Box<(NodeSpec, Place)>>),
    /// The end.
    Bottom(Added),
}

impl Chain {
    /// Says whose backing file it was that could not be opened.
    fn name_in(&self, error: Error) -> Error {
        match self.images.last() {
            Some(above) => {
                let text = "cannot open its backing file";
                above.leaf.name_in(Error::new(error.kind(), text)).because(error)
            }
            None => error,
        }
    }
}

/// What is to be behind an image.
fn behind(above: &Pending, backing: BackingSpec) -> Result<Option<(NodeSpec, Place)>> {
    let parent = ParentState { users: above.place.users, writable: !above.settings.read_only, active: true };
    let place = Place { users: default_grant(Role::COW, parent), owned: false, ..above.place };
    match (backing, &above.image.backing) {
        (BackingSpec::None, _) | (BackingSpec::AsRecorded, Backing::None | Backing::Impossible) => Ok(None),
        (BackingSpec::Node(spec), _) => Ok(Some((spec, place))),
        (BackingSpec::AsRecorded, Backing::File(BackingName { name, format })) => {
            let path = name::resolve(name, above.leaf.folder())?;
            let speaker = Speaker { settings: above.settings.for_backing(), is_image: true };
            let spec = NodeSpec::named(path.as_os_str(), format.as_deref(), speaker)?;
            Ok(Some((spec, Place { is_image: true, ..place })))
        }
    }
}
