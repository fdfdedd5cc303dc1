//! Opening what is at the bottom: files, devices, memory, nothing.

use drystone_base::{Error, Kind, Result};
use drystone_core::control::NewNode;
use drystone_core::driver::{Driver, NodeFacts};
use drystone_core::graph::node::Node;
use drystone_core::lane::Lane;
use drystone_protocol::file::{FileOptions, HostFile};
use drystone_protocol::memory::Memory;
use drystone_protocol::nbd::{NbdClient, NbdOptions};
use drystone_protocol::null::Null;

use super::{Added, Leaf, Place, Session};
use crate::given::Given;
use crate::report::Warning;
use crate::settings::Settings;
use crate::spec::{ProtocolDriver, ProtocolSpec};

/// The file of a node.
pub(super) fn leaf_of(node: &Node) -> Leaf {
    match node.driver_as::<HostFile>() {
        Some(file) => {
            Leaf { path: Some(file.path().to_owned()), id: Some(file.file_id()), parts: Vec::new() }
        }
        None => Leaf::default(),
    }
}

impl Session<'_, '_> {
    /// Adds a protocol node. With `falls_back`, a file that cannot be opened for writing is opened for reading.
    pub(super) async fn protocol(
        &mut self,
        spec: ProtocolSpec,
        place: Place,
        falls_back: bool,
    ) -> Result<Added> {
        let ProtocolSpec { node_name, said, settings, driver } = spec;
        if place.is_image && !matches!(driver, ProtocolDriver::File(_)) {
            self.opener.policy.admit_driver(driver.name())?;
        }
        let mut leaf = Leaf::default();
        let (driver, mut facts): (Box<dyn Driver>, NodeFacts) = match driver {
            ProtocolDriver::NullCo(options) => boxed(Null::co(options)?),
            ProtocolDriver::NullAio(options) => boxed(Null::aio(options)?),
            ProtocolDriver::Memory(options) => boxed(Memory::open(options)?),
            ProtocolDriver::Nbd(options) => boxed(self.nbd(options, settings, falls_back).await?),
            ProtocolDriver::File(options) => {
                leaf.path = Some(options.path.clone());
                let file = self.host_file(options, place, falls_back).await?;
                leaf.id = Some(file.0.file_id());
                if file.0.has_fragile_locks() {
                    self.warnings.push(Warning::FragileLocks { path: leaf.shown() });
                }
                boxed(file)
            }
        };
        facts.read_only |= settings.read_only;
        let format_name = driver.format_name();
        let force_share = settings.force_share;
        let new =
            NewNode { name: node_name, driver, facts, children: Vec::new(), owned: place.owned, force_share };
        let id = self.opening.add(new)?;
        self.opening.set_policy(id, settings.policy());
        let mut given = Given::new(said, settings);
        given.driver(format_name)?;
        self.given.insert(id, given);
        Ok(Added { id, leaf, read_only: facts.read_only })
    }

    async fn host_file(
        &self,
        mut options: FileOptions,
        place: Place,
        falls_back: bool,
    ) -> Result<(HostFile, NodeFacts)> {
        let local = self.task.local();
        if place.is_image {
            options.path = self.opener.policy.admit(local, &options.path).await?;
        }
        match HostFile::open(local, options.clone()).await {
            Err(error) if falls_back && matches!(error.kind(), Kind::PermissionDenied | Kind::ReadOnly) => {
                HostFile::open(local, FileOptions { read_only: true, ..options }).await
            }
            opened => opened,
        }
    }
}

impl Session<'_, '_> {
    /// Connects to an export. One that can only be read is no surprise to whoever only reads, or allows it.
    async fn nbd(
        &self,
        options: NbdOptions,
        settings: Settings,
        falls_back: bool,
    ) -> Result<(NbdClient, NodeFacts)> {
        let name = options.to_string();
        let named = |error: Error| error.at_path(&name);
        let mut lane = Lane::new(self.task.local_ref().clone());
        let opened = NbdClient::open(&mut lane, &self.opener.network, options).await.map_err(named)?;
        if opened.1.read_only && !(settings.read_only || settings.auto_read_only || falls_back) {
            let text = "the NBD server offers the export for reading only";
            return Err(named(Error::new(Kind::ReadOnly, text)));
        }
        Ok(opened)
    }
}

fn boxed<D: Driver>((driver, facts): (D, NodeFacts)) -> (Box<dyn Driver>, NodeFacts) {
    (Box::new(driver), facts)
}
