//! [`OpenRequest`]: what a user wants opened.

use std::ffi::OsString;

use drystone_base::Result;
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::Grant;

use crate::name;
use crate::options::Options;
use crate::settings::Settings;
use crate::spec::{BackingSpec, NodeRef, NodeSpec, Speaker};

/// What a user wants opened.
#[derive(Debug, Clone)]
pub struct OpenRequest {
    /// The image.
    pub source: Source,
    /// Its format, if the user says it; options that name a driver know better.
    pub format: Option<String>,
    /// How its nodes are opened.
    pub settings: Settings,
    /// The name of the top node; one is generated if there is none.
    pub node_name: Option<String>,
    /// The top node stays when its last user goes.
    pub owned: bool,
    /// What is to be behind the image.
    pub backing: BackingChoice,
    /// What is done with an image that nobody said is raw and that looks like it, when it is to be written.
    pub probed_raw: ProbedRaw,
    /// How the top node will be used, as far as it is known: decides which locks are taken now. Without it, somebody
    /// reads, and writes unless that is excluded, and lets others do the same.
    pub users: Option<Grant>,
}

/// What is to be opened.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A path; `file:PATH`, `host_device:PATH`; or `json:` and options.
    Name(OsString),
    /// Options, as for `blockdev-add`.
    Options(Options),
}

/// What is done with an image that only looks raw when it is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbedRaw {
    /// It is not opened, or read-only if that is allowed.
    Refuse,
    /// It is opened, with a warning, and nothing is written that would make it look like something else. For tools, whose
    /// users look at what they do.
    Guard,
}

/// What is to be behind an image.
#[derive(Debug, Clone, PartialEq)]
pub enum BackingChoice {
    /// What the image, or the options, say.
    AsRecorded,
    /// Nothing, whatever the image says: for looking at the image alone.
    None,
    /// This image.
    Name {
        /// As in [`Source::Name`].
        name: OsString,
        /// Its format, if the user says it.
        format: Option<String>,
    },
    /// A node of the graph.
    Node(NodeId),
}

impl OpenRequest {
    /// The image `name`, with everything as it is by default: for writing, with the backing files that it names.
    #[must_use]
    pub fn of_name(name: impl Into<OsString>) -> Self {
        Self::of(Source::Name(name.into()))
    }

    /// What `source` says, with everything else as it is by default.
    #[must_use]
    pub fn of(source: Source) -> Self {
        Self {
            source,
            format: None,
            settings: Settings::default(),
            node_name: None,
            owned: false,
            backing: BackingChoice::AsRecorded,
            probed_raw: ProbedRaw::Refuse,
            users: None,
        }
    }

    pub(crate) fn spec(&self) -> Result<NodeSpec> {
        let speaker = Speaker { settings: self.settings, is_image: false };
        let mut spec = match &self.source {
            Source::Name(name) => NodeSpec::named(name, self.format.as_deref(), speaker)?,
            Source::Options(options) => {
                NodeSpec::image(name::with_format(options.clone(), self.format.as_deref())?, speaker)?
            }
        };
        match &mut spec {
            NodeSpec::Image(image) => {
                if self.node_name.is_some() {
                    image.node_name.clone_from(&self.node_name);
                }
                if let Some(backing) = self.backing_spec(image.settings)? {
                    image.backing = backing;
                }
            }
            NodeSpec::Protocol(protocol) if self.node_name.is_some() => {
                protocol.node_name.clone_from(&self.node_name);
            }
            NodeSpec::Protocol(_) | NodeSpec::Existing(_) => {}
        }
        Ok(spec)
    }

    fn backing_spec(&self, settings: Settings) -> Result<Option<BackingSpec>> {
        Ok(Some(match &self.backing {
            BackingChoice::AsRecorded => return Ok(None),
            BackingChoice::None => BackingSpec::None,
            BackingChoice::Node(id) => BackingSpec::Node(NodeSpec::Existing(NodeRef::Id(*id))),
            BackingChoice::Name { name, format } => {
                let speaker = Speaker { settings: settings.for_backing(), is_image: false };
                BackingSpec::Node(NodeSpec::named(name, format.as_deref(), speaker)?)
            }
        }))
    }
}
