//! Opening one image on its file.

use drystone_base::{Error, GuestOffset, Kind, Result};
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::{ParentState, Role, default_grant};
use drystone_sys::FileId;

use super::{Added, Leaf, NESTING_MAX, Pending, Place, Session};
use crate::formats::{Backing, Configured, DataFile, Format, OpenedImage, PROBE_BYTES};
use crate::given::Given;
use crate::known;
use crate::options::Options;
use crate::report::Warning;
use crate::request::ProbedRaw;
use crate::settings::Settings;
use crate::spec::{BackingSpec, ImageSpec, NodeSpec};

/// Somebody who only looks at the first bytes.
const LOOKER: Grant = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::ALL };

/// Which image it is: the file, and which part of it.
#[derive(Debug, PartialEq)]
pub(super) struct Identity {
    file: FileId,
    parts: Vec<Options>,
}

/// A format with its options.
struct Chosen<'s> {
    format: &'s dyn Format,
    configured: Box<dyn Configured>,
    is_probed: bool,
}

impl<'s> Session<'s, '_> {
    /// Opens an image whose place in the chain is `place`. `seen` is what the chain has above it.
    pub(super) async fn image(
        &mut self,
        spec: ImageSpec,
        mut place: Place,
        seen: &mut Vec<Identity>,
    ) -> Result<Pending> {
        let ImageSpec { node_name, said, mut settings, format, file, backing, data_file, test, options } =
            spec;
        let data_is_heir = !matches!(data_file, Some(NodeSpec::Existing(_)));
        let is_heir = !matches!(file, NodeSpec::Existing(_));
        let given = Given::new(said.clone(), settings);
        self.spent.image()?;
        let mut own = options.clone();
        let chosen = match format {
            Some(name) => Some(choose(self.opener.formats.find(&name)?, &mut own, settings, false)?),
            None => None,
        };
        let wanted = chosen.as_ref().map(|chosen| chosen.configured.file_grant(parent(place, settings)));
        let mut file = self.file(file, settings, Place { users: wanted.unwrap_or(LOOKER), ..place }).await?;
        file.leaf.parts.extend(Some(options).filter(|options| !options.is_empty()));
        refuse_loop(&file.leaf, seen)?;
        let named = |error: Error| file.leaf.name_in(error);
        if let (true, Some(id)) = (place.is_image, file.leaf.id) {
            self.spent.visit(id).map_err(named)?;
        }
        let chosen = match chosen {
            Some(chosen) => chosen,
            None => choose(self.probe(file.id).await.map_err(named)?, &mut own, settings, true)?,
        };
        known::refuse(chosen.format.name(), &own)?;
        own.finish(chosen.format.name())?;
        let mut chosen = chosen;
        self.settle_writing(&mut settings, &mut chosen, &file)?;
        let mut image = self.header(&chosen, &file, &mut settings, &mut place).await?;
        demand_backing(&backing, &image, &chosen).map_err(named)?;
        let data = self.data_file(&image, data_file, &mut settings, place).await.map_err(named)?;
        let test = self.test(&mut image, test, settings, place).await?;
        let backing_is_heir = !matches!(backing, BackingSpec::Node(NodeSpec::Existing(_)));
        image.facts.read_only |= settings.read_only;
        settings.read_only = image.facts.read_only;
        if chosen.is_probed && place.is_image {
            let format_name = chosen.format.name();
            self.warnings.push(Warning::ProbedBacking { path: file.leaf.shown(), format_name });
        }
        // What is left for the image's own file.
        let beside_data = data.map(|_| Role::METADATA.with(Role::PRIMARY));
        let role = beside_data.unwrap_or_else(|| chosen.configured.file_role());
        let is_probed = chosen.is_probed;
        let file_is_heir = is_heir.then_some(file.id);
        Ok(Pending {
            image,
            role,
            file: file.id,
            data,
            test,
            leaf: file.leaf,
            node_name,
            settings,
            place,
            is_probed,
            given,
            file_is_heir,
            data_is_heir,
            backing_is_heir,
        })
    }

    /// Opens the second disk of a driver that has two.
    async fn test(
        &mut self,
        image: &mut OpenedImage,
        spec: Option<NodeSpec>,
        settings: Settings,
        place: Place,
    ) -> Result<Option<NodeId>> {
        let Some(spec) = spec else { return Ok(None) };
        if place.nesting >= NESTING_MAX {
            let text = format!("more than {NESTING_MAX} images are inside each other");
            return Err(Error::new(Kind::TooLarge, text).in_option("test"));
        }
        let users = default_grant(Role::DATA, parent(place, settings));
        let place = Place { users, owned: false, nesting: place.nesting + 1, ..place };
        let test = self.chain(spec, place).await?.id;
        // The one that is trusted may be longer.
        image.facts.len = self.opening.node(test)?.len();
        Ok(Some(test))
    }

    /// Locks the file for what the image will be used for, and opens the image in it.
    async fn header(
        &mut self,
        chosen: &Chosen<'_>,
        file: &Added,
        settings: &mut Settings,
        place: &mut Place,
    ) -> Result<OpenedImage> {
        loop {
            if settings.read_only {
                place.users.perm = place.users.perm.and(Perm::CONSISTENT_READ);
            }
            let wanted = chosen.configured.file_grant(parent(*place, *settings));
            self.claim(file.id, wanted, *settings).await?;
            let visit = self.opening.visit(file.id).await?;
            match visit.attend(chosen.configured.open(visit.io(), settings.read_only)).await {
                Err(error)
                    if error.kind() == Kind::ReadOnly && settings.auto_read_only && !settings.read_only =>
                {
                    settings.read_only = true;
                    let (path, reason) = (file.leaf.shown(), error.report());
                    self.warnings.push(Warning::ReadOnlyImage { path, reason });
                }
                opened => return opened.map_err(|error| file.leaf.name_in(error)),
            }
        }
    }

    /// Opens the file that an image has its data in, if that is another one. What is said comes before what the image says.
    async fn data_file(
        &mut self,
        image: &OpenedImage,
        said: Option<NodeSpec>,
        settings: &mut Settings,
        place: Place,
    ) -> Result<Option<NodeId>> {
        let refuse = |text| Err(Error::new(Kind::InvalidInput, text).in_option("data-file"));
        let users = default_grant(Role::DATA, parent(place, *settings));
        let place = Place { users, ..place };
        let data = match (&image.data_file, said) {
            (DataFile::Same, None) => return Ok(None),
            (DataFile::Same, Some(_)) => return refuse("the image has no external data file"),
            (DataFile::Apart(None), None) => {
                return refuse("the image keeps its data in another file, and does not say in which");
            }
            (DataFile::Apart(_), Some(spec)) => self.file(spec, *settings, place).await?,
            (DataFile::Apart(Some(name)), None) => {
                let spec = NodeSpec::data_file(name.clone(), settings.for_file())?;
                let opened = self.file(spec, *settings, Place { is_image: true, ..place }).await;
                opened
                    .map_err(|error| Error::new(error.kind(), "cannot open its data file").because(error))?
            }
        };
        if data.read_only && !settings.read_only {
            if !settings.auto_read_only {
                let text = "the data file is read-only, and the image is to be written";
                return Err(data.leaf.name_in(Error::new(Kind::ReadOnly, text)));
            }
            settings.read_only = true;
            self.warnings.push(Warning::ReadOnlyFile { path: data.leaf.shown() });
        }
        let users = default_grant(Role::DATA, parent(place, *settings));
        self.claim(data.id, users, *settings).await?;
        Ok(Some(data.id))
    }

    /// Opens the child `file` of an image, which wants `place.users` of it.
    async fn file(&mut self, spec: NodeSpec, settings: Settings, place: Place) -> Result<Added> {
        let place = Place { owned: false, ..place };
        match spec {
            NodeSpec::Existing(node) => self.existing(node),
            NodeSpec::Protocol(protocol) => {
                let falls_back = settings.auto_read_only && !settings.read_only;
                self.protocol(protocol, place, falls_back).await
            }
            NodeSpec::Image(_) if place.nesting >= NESTING_MAX => {
                let text = format!("more than {NESTING_MAX} images are inside each other");
                Err(Error::new(Kind::TooLarge, text).in_option("file"))
            }
            NodeSpec::Image(_) => self.chain(spec, Place { nesting: place.nesting + 1, ..place }).await,
        }
    }

    async fn probe(&mut self, file: NodeId) -> Result<&'s dyn Format> {
        let visit = self.opening.visit(file).await?;
        let io = visit.io();
        let len = usize::try_from(io.len()).unwrap_or(PROBE_BYTES).min(PROBE_BYTES);
        let start = visit.attend(io.read_new(GuestOffset::ZERO, len)).await?;
        self.opener.formats.probe(start.as_slice())
    }

    /// Decides whether the image can be written, now that its format and its file are known.
    fn settle_writing(
        &mut self,
        settings: &mut Settings,
        chosen: &mut Chosen<'_>,
        file: &Added,
    ) -> Result<()> {
        if settings.read_only {
            return Ok(());
        }
        let path = file.leaf.shown();
        let is_guess = chosen.is_probed && chosen.format.name() == "raw";
        let (warning, refusal) = if file.read_only {
            let refusal = Error::new(Kind::ReadOnly, "the file is read-only, and the image is to be written");
            (Warning::ReadOnlyFile { path }, refusal)
        } else if is_guess && self.probed_raw == ProbedRaw::Guard {
            chosen.configured.guard(&self.opener.formats);
            self.warnings.push(Warning::GuardedProbedRaw { path });
            return Ok(());
        } else if is_guess {
            let text = "the format was not given and the image looks like raw, which is no proof: what is written \
                        to it could make it look like another format. Give format=raw, or open it read-only";
            (Warning::ReadOnlyProbedRaw { path }, Error::new(Kind::InvalidInput, text).in_option("format"))
        } else {
            return Ok(());
        };
        if !settings.auto_read_only {
            return Err(file.leaf.name_in(refusal));
        }
        settings.read_only = true;
        self.warnings.push(warning);
        Ok(())
    }
}

fn choose<'s>(
    format: &'s dyn Format,
    options: &mut Options,
    settings: Settings,
    is_probed: bool,
) -> Result<Chosen<'s>> {
    Ok(Chosen { format, configured: format.configure(options, settings)?, is_probed })
}

fn parent(place: Place, settings: Settings) -> ParentState {
    ParentState { users: place.users, writable: !settings.read_only, active: true }
}

/// Something can be behind an image only if its format has that.
fn demand_backing(backing: &BackingSpec, image: &OpenedImage, chosen: &Chosen<'_>) -> Result<()> {
    if matches!(backing, BackingSpec::Node(_)) && image.backing == Backing::Impossible {
        let text = format!("driver '{}' has no backing file", chosen.format.name());
        return Err(Error::new(Kind::InvalidInput, text).in_option("backing"));
    }
    Ok(())
}

/// A chain that comes to the same bytes again would go round for ever.
fn refuse_loop(leaf: &Leaf, seen: &mut Vec<Identity>) -> Result<()> {
    let Some(file) = leaf.id else { return Ok(()) };
    let identity = Identity { file, parts: leaf.parts.clone() };
    if seen.contains(&identity) {
        let text = "the image is behind itself: the chain of backing files is a loop";
        return Err(leaf.name_in(Error::new(Kind::InvalidImage, text)));
    }
    seen.push(identity);
    Ok(())
}
