//! From names and options to what is to be opened: [`NodeSpec`]. Nothing is opened here.
//!
//! ```text
//!   "disk.img", format?                 -> Image { file: Protocol(file), format? }
//!   {"driver": "raw", "file": {...}}    -> Image { file: ..., format: raw, options }
//!   {"file": {...}}                     -> Image { file: ..., format: to be probed }
//!   {"driver": "file", ...}             -> Protocol(file)
//!   "node0" where a child is expected   -> Existing(node0)
//! ```
//! What an image says is obeyed less than what a user says: it names no nodes of the graph, gives no names to new ones,
//! opens nothing for writing, and says of a format only what part of a file it is in.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use drystone_base::{Error, Kind, Result};
use drystone_core::graph::node::NodeId;
use drystone_filter::{blkdebug, blkverify};
use drystone_protocol::file::{Aio, FileKind, FileOptions, Locking};
use drystone_protocol::memory::MemoryOptions;
use drystone_protocol::nbd::NbdOptions;
use drystone_protocol::null::NullOptions;

use crate::known;
use crate::name::{self, Name};
use crate::nbd;
use crate::options::{Child, Options};
use crate::settings::Settings;

/// Options of formats that images may set for the images they name: those that say which bytes are meant. (The sizes of
/// caches, say, are the user's memory.)
const IMAGE_OPTIONS: [&str; 2] = ["offset", "size"];

/// What options say of children, rather than of the node.
pub(crate) const CHILDREN: [&str; 6] = ["file", "backing", "data-file", "image", "raw", "test"];

/// A node to be opened, with what is below it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum NodeSpec {
    Existing(NodeRef),
    Protocol(ProtocolSpec),
    Image(Box<ImageSpec>),
}

/// A node of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeRef {
    Id(NodeId),
    Named(String),
}

/// A protocol node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProtocolSpec {
    pub(crate) node_name: Option<String>,
    /// What was said of it.
    pub(crate) said: Options,
    pub(crate) settings: Settings,
    pub(crate) driver: ProtocolDriver,
}

/// A protocol driver with its options.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ProtocolDriver {
    File(FileOptions),
    NullCo(NullOptions),
    NullAio(NullOptions),
    Memory(MemoryOptions),
    Nbd(NbdOptions),
}

/// A node of an image format.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ImageSpec {
    pub(crate) node_name: Option<String>,
    /// What was said of it, its children left out.
    pub(crate) said: Options,
    pub(crate) settings: Settings,
    /// Probed if nobody says it.
    pub(crate) format: Option<String>,
    pub(crate) file: NodeSpec,
    pub(crate) backing: BackingSpec,
    /// What is said of the file that its data is in, if that is another one.
    pub(crate) data_file: Option<NodeSpec>,
    /// A second disk, for drivers that have two (`test`).
    pub(crate) test: Option<NodeSpec>,
    /// The format's own.
    pub(crate) options: Options,
}

/// What is to be behind an image.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum BackingSpec {
    /// What the image names.
    AsRecorded,
    /// Nothing.
    None,
    /// This.
    Node(NodeSpec),
}

/// Who speaks, and of what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speaker {
    /// What is so unless options say otherwise.
    pub(crate) settings: Settings,
    /// An image, rather than a user.
    pub(crate) is_image: bool,
}

impl Speaker {
    fn about_file(self, settings: Settings) -> Self {
        Self { settings: settings.for_file(), ..self }
    }

    fn about_backing(self, settings: Settings) -> Self {
        Self { settings: settings.for_backing(), ..self }
    }

    /// The node's own settings, taken from its options.
    fn settings(self, options: &mut Options) -> Result<Settings> {
        let mut settings = self.settings.overridden(options)?;
        if self.is_image {
            settings.read_only = self.settings.read_only;
            settings.auto_read_only = self.settings.auto_read_only;
            settings.force_share = self.settings.force_share;
        }
        settings.check()?;
        Ok(settings)
    }

    fn node_name(self, options: &mut Options) -> Result<Option<String>> {
        Ok(options.take_text("node-name")?.filter(|_| !self.is_image))
    }

    /// The format's own options, which are left when the others have been taken.
    fn own(self, options: &Options) -> Result<()> {
        let foreign = options.names().find(|name| self.is_image && !IMAGE_OPTIONS.contains(name));
        match foreign {
            None => Ok(()),
            Some(name) => {
                Err(Error::new(Kind::PermissionDenied, "an image may not set it for another").in_option(name))
            }
        }
    }

    fn existing(self, name: String) -> Result<NodeSpec> {
        if self.is_image {
            let text = format!("an image may not refer to node '{name}'");
            return Err(Error::new(Kind::PermissionDenied, text));
        }
        Ok(NodeSpec::Existing(NodeRef::Named(name)))
    }
}

impl NodeSpec {
    /// An image by name; `format` is what the speaker says of it.
    pub(crate) fn named(name: &OsStr, format: Option<&str>, speaker: Speaker) -> Result<Self> {
        let (path, driver) = match name::parse(name)? {
            Name::Path { path, driver } => (path, driver),
            Name::Options(options) => return Self::image(name::with_format(options, format)?, speaker),
            Name::Node(options) => return Self::image_on(options, format, speaker),
        };
        speaker.settings.check()?;
        let kind = match driver {
            None => FileKind::ByPath,
            Some("host_device") => FileKind::HostDevice,
            Some(_) => FileKind::File,
        };
        let said = said_of_file(&path, kind)?;
        let mut file = file_options(OsString::from(path), speaker.settings.for_file());
        file.kind = kind;
        Ok(Self::Image(Box::new(ImageSpec {
            node_name: None,
            said: Options::default(),
            settings: speaker.settings,
            format: format.map(str::to_owned),
            file: Self::Protocol(ProtocolSpec {
                node_name: None,
                said,
                settings: speaker.settings.for_file(),
                driver: ProtocolDriver::File(file),
            }),
            backing: BackingSpec::AsRecorded,
            data_file: None,
            test: None,
            options: Options::default(),
        })))
    }

    /// An image on a protocol node with these options.
    fn image_on(file: Options, format: Option<&str>, speaker: Speaker) -> Result<Self> {
        speaker.settings.check()?;
        Ok(Self::Image(Box::new(ImageSpec {
            node_name: None,
            said: Options::default(),
            settings: speaker.settings,
            format: format.map(str::to_owned),
            file: Self::file(file, speaker.about_file(speaker.settings))?,
            backing: BackingSpec::AsRecorded,
            data_file: None,
            test: None,
            options: Options::default(),
        })))
    }

    /// A node by its options. Without a driver, it is an image whose format is probed.
    pub(crate) fn image(mut options: Options, speaker: Speaker) -> Result<Self> {
        let said = options.without(&CHILDREN);
        let driver = options.take_text("driver")?;
        if let Some(driver) = driver.as_deref().filter(|driver| is_protocol(driver)) {
            return Self::protocol(Some(driver), options, said, speaker);
        }
        let node_name = speaker.node_name(&mut options)?;
        let settings = speaker.settings(&mut options)?;
        let file_key = file_key(driver.as_deref().unwrap_or_default());
        let file = match options.take_child(file_key)? {
            Child::New(file) => Self::file(file, speaker.about_file(settings))?,
            Child::Node(name) => speaker.existing(name)?,
            Child::Unsaid | Child::None => {
                let text = match driver {
                    Some(driver) => format!("driver '{driver}' needs a child '{file_key}', which is missing"),
                    None => "driver or file is missing".to_owned(),
                };
                return Err(Error::new(Kind::InvalidInput, text).in_option(file_key));
            }
        };
        let backing = match options.take_child("backing")? {
            Child::Unsaid => BackingSpec::AsRecorded,
            Child::None => BackingSpec::None,
            // Lists of options have no other word for nothing.
            Child::Node(name) if name.is_empty() => BackingSpec::None,
            Child::Node(name) => BackingSpec::Node(speaker.existing(name)?),
            Child::New(backing) => BackingSpec::Node(Self::image(backing, speaker.about_backing(settings))?),
        };
        let data_file = match options.take_child("data-file")? {
            Child::Unsaid | Child::None => None,
            Child::New(data) => Some(Self::file(data, speaker.about_file(settings))?),
            Child::Node(name) => Some(speaker.existing(name)?),
        };
        let test = match file_key {
            "raw" => Some(Self::test(&mut options, speaker, settings)?),
            _ => None,
        };
        speaker.own(&options)?;
        Ok(Self::Image(Box::new(ImageSpec {
            node_name,
            said,
            settings,
            format: driver,
            file,
            backing,
            data_file,
            test,
            options,
        })))
    }

    /// A file that an image names for its data: this path, as it is, from the folder where the program runs.
    pub(crate) fn data_file(path: OsString, settings: Settings) -> Result<Self> {
        let said = said_of_file(Path::new(&path), FileKind::ByPath)?;
        let driver = ProtocolDriver::File(file_options(path, settings));
        Ok(Self::Protocol(ProtocolSpec { node_name: None, said, settings, driver }))
    }

    /// The image that is tested beside a plain copy of it.
    fn test(options: &mut Options, speaker: Speaker, settings: Settings) -> Result<Self> {
        match options.take_child("test")? {
            Child::New(test) => Self::image(test, Speaker { settings, ..speaker }),
            Child::Node(name) => speaker.existing(name),
            Child::Unsaid | Child::None => {
                let text = "the child 'test' is missing";
                Err(Error::new(Kind::InvalidInput, text).in_option("test"))
            }
        }
    }

    /// What is below an image: an image of a format that is said, or a protocol. It is not probed.
    fn file(options: Options, speaker: Speaker) -> Result<Self> {
        if options.has("driver") {
            Self::image(options, speaker)
        } else {
            let said = options.clone();
            Self::protocol(None, options, said, speaker)
        }
    }

    fn protocol(driver: Option<&str>, mut options: Options, said: Options, speaker: Speaker) -> Result<Self> {
        let node_name = speaker.node_name(&mut options)?;
        let settings = speaker.settings(&mut options)?;
        let file = |kind, options: &mut Options| {
            Ok::<_, Error>(ProtocolDriver::File(take_file(kind, options, settings)?))
        };
        let driver = match driver {
            Some("file") => file(FileKind::File, &mut options)?,
            Some("host_device") => file(FileKind::HostDevice, &mut options)?,
            Some("null-co") => ProtocolDriver::NullCo(take_null(&mut options)?),
            Some("null-aio") => ProtocolDriver::NullAio(take_null(&mut options)?),
            Some("memory") => ProtocolDriver::Memory(take_memory(&mut options)?),
            Some("nbd") => ProtocolDriver::Nbd(nbd::take(&mut options)?),
            _ => file(FileKind::ByPath, &mut options)?,
        };
        known::refuse(driver.name(), &options)?;
        options.finish(driver.name())?;
        Ok(Self::Protocol(ProtocolSpec { node_name, said, settings, driver }))
    }
}

/// A file that was named by a path, as options would have said it.
fn said_of_file(path: &Path, kind: FileKind) -> Result<Options> {
    let mut said = Options::default();
    if let Some(path) = path.to_str() {
        said.set("filename", path)?;
    }
    match kind {
        FileKind::ByPath => {}
        FileKind::File => said.set("driver", "file")?,
        FileKind::HostDevice => said.set("driver", "host_device")?,
    }
    Ok(said)
}

/// The option of a driver that is its child `file`.
pub(crate) fn file_key(driver: &str) -> &'static str {
    match driver {
        blkdebug::FORMAT_NAME => "image",
        blkverify::FORMAT_NAME => "raw",
        _ => "file",
    }
}

fn is_protocol(driver: &str) -> bool {
    ["file", "host_device", "null-co", "null-aio", "memory", "nbd"].contains(&driver)
}

impl ProtocolDriver {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::NullCo(_) => "null-co",
            Self::NullAio(_) => "null-aio",
            Self::Memory(_) => "memory",
            Self::Nbd(_) => "nbd",
        }
    }
}

fn file_options(path: OsString, settings: Settings) -> FileOptions {
    FileOptions {
        path: path.into(),
        kind: FileKind::ByPath,
        read_only: settings.read_only,
        auto_read_only: settings.auto_read_only,
        cache_direct: settings.cache_direct,
        cache_no_flush: settings.cache_no_flush,
        aio: settings.aio,
        locking: settings.locking,
        discard: settings.discard,
    }
}

fn take_file(kind: FileKind, options: &mut Options, settings: Settings) -> Result<FileOptions> {
    let Some(path) = options.take_text("filename")?.filter(|path| !path.is_empty()) else {
        return Err(Error::new(Kind::InvalidInput, "the name of a file is missing").in_option("filename"));
    };
    let aio = [("threads", Aio::Threads), ("io_uring", Aio::IoUring), ("native", Aio::Native)];
    let locking = [("auto", Locking::Auto), ("on", Locking::On), ("off", Locking::Off)];
    let aio = options.take_choice("aio", &aio)?;
    let locking = options.take_choice("locking", &locking)?;
    // Nothing to do: requests do not queue behind a device, and what is cached by the host is known to be current.
    options.take_number("aio-max-batch")?;
    options.take_switch("drop-cache")?;
    let file = file_options(path.into(), settings);
    Ok(FileOptions { kind, aio: aio.unwrap_or(file.aio), locking: locking.unwrap_or(file.locking), ..file })
}

fn take_null(options: &mut Options) -> Result<NullOptions> {
    let default = NullOptions::default();
    Ok(NullOptions {
        len_bytes: options.take_number("size")?.unwrap_or(default.len_bytes),
        latency_ns: options.take_number("latency-ns")?.unwrap_or(default.latency_ns),
        read_zeroes: options.take_switch("read-zeroes")?.unwrap_or(default.read_zeroes),
    })
}

fn take_memory(options: &mut Options) -> Result<MemoryOptions> {
    Ok(MemoryOptions { len_bytes: options.take_number("size")?.unwrap_or(0) })
}
