//! `img info`: what is known about an image without reading its data.
//!
//! ```text
//!  image: top.qcow2                     {
//!  file format: qcow2                       "children": [ { "name": "file", "info": { ... } } ],
//!  virtual size: 1 GiB (... bytes)          "virtual-size": 1073741824,
//!  Child node '/file': ...                  ...
//! ```
//! Layout, order and indentation are those of release 10.0 of the C tool.
//! Not here: opening ([`super::image`]), the two ways of printing values ([`super::doc`]).

use std::ffi::OsString;

use drystone_base::{Error, Kind, Result};
use drystone_core::runtime::LocalRef;
use drystone_format::luks;
use drystone_format::qcow2::Header;
use drystone_format::qcow2::bitmap::Bitmap;
use drystone_format::qcow2::feature::{AutoclearBit, CompatibleBit, IncompatibleBit};
use drystone_format::qcow2::header::{Crypt, Version};

use super::chain::Chain;
use super::doc::Doc;
use super::image::{Content, Image};
use super::options::{Common, Output};
use super::snapshots;
use super::spec::{Spec, bytes_of};
use super::{Console, Failure, options};
use crate::args::getopt::Flag;
use crate::text::size_in_words;

/// What the command takes.
pub(super) const FLAGS: &[Flag] = &[
    options::HELP,
    options::FORMAT,
    options::IMAGE_OPTS,
    Flag::switch(Some('b'), "backing-chain"),
    options::FORCE_SHARE,
    options::OBJECT,
    options::OUTPUT,
];

/// How the command is called.
pub(super) const HELP: &str = "\
Says what is known about a disk image: its format, its sizes, what it lies on, its snapshots.

  info [OPTION...] IMAGE

  -f, --format FORMAT     raw or qcow2; without it, the first bytes decide
      --image-opts        IMAGE is a list of options: driver=qcow2,file.filename=PATH
  -b, --backing-chain     the image and everything that it lies on
  -U, --force-share       look at an image that somebody else writes to; what is said may be out of date
      --output human|json how to say it (human)
      --object OBJECT     a secret: secret,id=NAME,data=TEXT
  -h, --help              this text
";

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let mut is_chain = false;
    let common = options::parse("info", FLAGS, args, |name, _| {
        is_chain |= name == "backing-chain";
        Ok(())
    })?;
    let Some(common) = common else {
        console.print(HELP);
        return Ok(0);
    };
    let spec = common.spec()?;
    let infos = super::run_here(async |local| collect(&local, spec, &common, is_chain).await)?;
    match (common.output, is_chain) {
        (Output::Json, true) => {
            console.print(Doc::List(infos.iter().map(Info::to_doc).collect()).to_json());
        }
        (Output::Json, false) => infos.iter().for_each(|info| console.print(info.to_doc().to_json())),
        (Output::Human, _) => {
            for (index, info) in infos.iter().enumerate() {
                console.print(if index > 0 { "\n" } else { "" });
                console.print(info.to_words(0, ""));
            }
        }
    }
    Ok(0)
}

/// The image, and its backing files if they are asked for.
async fn collect(local: &LocalRef, spec: Spec, common: &Common, is_chain: bool) -> Result<Vec<Info>> {
    let mut infos = Vec::new();
    let mut chain = Chain::new(local, spec, common.force_share);
    while let Some(image) = chain.next().await? {
        infos.push(Info::of(&image).await.map_err(|error| error.at_path(image.path()))?);
        if !is_chain {
            break;
        }
    }
    Ok(infos)
}

/// What is known about one layer.
struct Info {
    name: Vec<u8>,
    format: &'static str,
    len_guest: u64,
    allocated_bytes: Option<u64>,
    cluster_bytes: Option<u64>,
    is_encrypted: bool,
    is_dirty: bool,
    backing: Option<Backing>,
    snapshots: Vec<drystone_format::qcow2::snapshot::Snapshot>,
    specific: Option<Doc>,
    child: Option<Box<Self>>,
}

/// What an image says about its backing file.
struct Backing {
    recorded: Vec<u8>,
    /// As it is meant; `None` if it has no meaning.
    full: Option<OsString>,
    format: Option<Vec<u8>>,
}

impl Info {
    async fn of(image: &Image) -> Result<Self> {
        let child = match &image.child {
            Some(child) => Some(Box::new(Box::pin(Self::of(child)).await?)),
            None => None,
        };
        let mut info = Self {
            name: image.name.clone(),
            format: image.format(),
            len_guest: image.len_guest,
            allocated_bytes: image.allocated_bytes,
            cluster_bytes: None,
            is_encrypted: false,
            is_dirty: false,
            backing: None,
            snapshots: Vec::new(),
            specific: None,
            child,
        };
        match &image.content {
            Content::File { .. } => info.specific = Some(Doc::Map(Vec::new())),
            Content::Raw | Content::Nbd => {}
            Content::Qcow2(header) => info.add_qcow2(image, header).await?,
        }
        Ok(info)
    }

    async fn add_qcow2(&mut self, image: &Image, header: &Header) -> Result<()> {
        self.cluster_bytes = Some(header.cluster().bytes());
        self.is_encrypted = header.crypt() != Crypt::None;
        self.is_dirty = header.incompatible().has(IncompatibleBit::Dirty);
        self.backing = header.backing_name().map(|recorded| Backing {
            recorded: recorded.to_vec(),
            full: image.backing_path(recorded).ok().map(Into::into),
            format: header.extensions().backing_format().map(<[u8]>::to_vec),
        });
        self.snapshots = image.bytes.snapshots(header).await?;
        let bitmaps = image.bytes.bitmaps(header).await?;
        self.specific = Some(qcow2_specific(header, &bitmaps, encryption(image, header).await?));
        Ok(())
    }

    /// Of what only passes on the bytes of a server nobody knows whether it was closed.
    fn says_dirty(&self) -> bool {
        let is_passed_on = |info: &Self| info.format == "nbd";
        self.cluster_bytes.is_some()
            || !(is_passed_on(self) || self.child.as_deref().is_some_and(is_passed_on))
    }

    fn to_doc(&self) -> Doc {
        let backing = self.backing.as_ref();
        let child = |info: &Self| Doc::map([("name", Some("file".into())), ("info", Some(info.to_doc()))]);
        let snapshots = (!self.snapshots.is_empty())
            .then(|| Doc::List(self.snapshots.iter().map(snapshots::to_doc).collect()));
        // The type of what a device says about itself is `file` as well.
        let kind = if self.format == "host_device" { "file" } else { self.format };
        let specific = self
            .specific
            .as_ref()
            .map(|data| Doc::map([("type", Some(kind.into())), ("data", Some(data.clone()))]));
        Doc::map([
            ("children", Some(Doc::List(self.child.as_deref().map(child).into_iter().collect()))),
            ("snapshots", snapshots),
            ("backing-filename-format", backing.and_then(|it| it.format.as_deref().map(Doc::from))),
            ("virtual-size", Some(self.len_guest.into())),
            ("filename", Some(self.name.as_slice().into())),
            ("cluster-size", self.cluster_bytes.map(Doc::from)),
            ("format", Some(self.format.into())),
            ("actual-size", self.allocated_bytes.map(Doc::from)),
            ("format-specific", specific),
            (
                "full-backing-filename",
                backing.and_then(|it| it.full.as_deref().map(|full| Doc::Text(bytes_of(full)))),
            ),
            ("encrypted", self.is_encrypted.then_some(Doc::Bool(true))),
            ("backing-filename", backing.map(|it| it.recorded.as_slice().into())),
            ("dirty-flag", self.says_dirty().then(|| self.is_dirty.into())),
        ])
    }

    /// The lines about the layer and what is below it, `depth` indentations to the right; `path` is how it is reached
    /// from the image that was asked for, empty for that image itself.
    fn to_words(&self, depth: usize, path: &str) -> Vec<u8> {
        let mut words = Words { out: Vec::new(), depth };
        let is_protocol = self.cluster_bytes.is_none() && self.format != "raw";
        if is_protocol && !path.is_empty() {
            words.line("filename", &self.name);
            words.line("protocol type", self.format.as_bytes());
            words.line("file length", length_in_words(self.len_guest).as_bytes());
        } else {
            words.line("image", &self.name);
            words.line("file format", self.format.as_bytes());
            words.line("virtual size", length_in_words(self.len_guest).as_bytes());
        }
        let disk_size = self.allocated_bytes.map_or_else(|| "unavailable".to_owned(), size_in_words);
        words.line("disk size", disk_size.as_bytes());
        self.add_format_words(&mut words);
        if let Some(child) = &self.child {
            let path = format!("{path}/file");
            words.raw(format!("Child node '{path}':\n").as_bytes());
            let below = child.to_words(depth + 1, &path);
            words.out.extend(below);
        }
        words.out
    }

    fn add_format_words(&self, words: &mut Words) {
        if self.is_encrypted {
            words.line("encrypted", b"yes");
        }
        if let Some(bytes) = self.cluster_bytes {
            words.line("cluster_size", bytes.to_string().as_bytes());
        }
        if self.is_dirty {
            words.line("cleanly shut down", b"no");
        }
        if let Some(backing) = &self.backing {
            words.line("backing file", &backing.to_words());
            if let Some(format) = &backing.format {
                words.line("backing file format", format);
            }
        }
        if !self.snapshots.is_empty() {
            words.raw(b"Snapshot list:\n");
            let rows: Vec<_> = self.snapshots.iter().map(snapshots::Row::from).collect();
            for line in snapshots::to_table(&rows) {
                words.raw(&line);
            }
        }
        if let Some(specific) = self.specific.as_ref().filter(|specific| **specific != Doc::Map(Vec::new())) {
            words.raw(b"Format specific information:\n");
            specific.words(&mut words.out, words.depth + 1);
        }
    }
}

impl Backing {
    fn to_words(&self) -> Vec<u8> {
        let mut out = self.recorded.clone();
        match self.full.as_deref().map(bytes_of) {
            None => out.extend_from_slice(b" (cannot determine actual path)"),
            Some(full) if full != self.recorded => {
                out.extend_from_slice(b" (actual path: ");
                out.extend_from_slice(&full);
                out.push(b')');
            }
            Some(_) => {}
        }
        out
    }
}

/// Lines with an indentation.
struct Words {
    out: Vec<u8>,
    depth: usize,
}

impl Words {
    fn line(&mut self, key: &str, value: &[u8]) {
        self.raw(key.as_bytes());
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value);
        self.out.push(b'\n');
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.out.extend(std::iter::repeat_n(b' ', 4 * self.depth));
        self.out.extend_from_slice(bytes);
    }
}

fn length_in_words(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", size_in_words(bytes))
}

/// What only qcow2 images have.
fn qcow2_specific(header: &Header, bitmaps: &[Bitmap], encryption: Option<Doc>) -> Doc {
    let v3 = |value: Doc| (header.version() == Version::V3).then_some(value);
    let bitmaps = (!bitmaps.is_empty()).then(|| Doc::List(bitmaps.iter().map(bitmap).collect()));
    let incompatible = header.incompatible();
    let data_file = header.extensions().data_file();
    let has_data_file = incompatible.has(IncompatibleBit::ExternalData);
    let is_data_raw = header.autoclear().has(AutoclearBit::RawExternalData);
    Doc::map([
        ("compat", Some(header.version().compat().into())),
        ("compression-type", Some(header.compression().name().into())),
        ("lazy-refcounts", v3(header.compatible().has(CompatibleBit::LazyRefcounts).into())),
        ("bitmaps", bitmaps),
        ("refcount-bits", Some(u64::from(header.width().bits()).into())),
        ("encrypt", encryption),
        ("data-file", data_file.filter(|_| has_data_file).map(Doc::from)),
        ("data-file-raw", has_data_file.then(|| is_data_raw.into())),
        ("corrupt", v3(incompatible.has(IncompatibleBit::Corrupt).into())),
        ("extended-l2", v3(incompatible.has(IncompatibleBit::ExtendedL2).into())),
    ])
}

fn bitmap(bitmap: &Bitmap) -> Doc {
    let flags = [("in-use", bitmap.in_use), ("auto", bitmap.auto)];
    let flags = flags.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| Doc::from(*name)).collect();
    Doc::map([
        ("flags", Some(Doc::List(flags))),
        ("name", Some(bitmap.name.as_slice().into())),
        ("granularity", Some((1 << bitmap.granularity_bits).into())),
    ])
}

/// What is known of the encryption without a password.
async fn encryption(image: &Image, header: &Header) -> Result<Option<Doc>> {
    match header.crypt() {
        Crypt::None => Ok(None),
        Crypt::Aes => Ok(Some(Doc::map([("format", Some("aes".into()))]))),
        Crypt::Luks => {
            let bytes = match header.extensions().encryption() {
                Some(volume) => image.bytes.read_up_to(volume.at, luks::HEADER_BYTES as u64).await?,
                None => Vec::new(),
            };
            let volume = luks::Header::parse(&bytes).map_err(|cause| {
                Error::new(Kind::InvalidImage, "cannot read the encryption header").because(cause)
            })?;
            Ok(Some(luks_specific(&volume)))
        }
    }
}

fn luks_specific(volume: &luks::Header) -> Doc {
    let (generator, hash) = volume.initial_values();
    let cipher = format!("{}-{}", volume.cipher_name, volume.cipher_key_bits());
    let slot = |slot: &luks::Slot| {
        let if_active = |value: u32| slot.is_active.then(|| u64::from(value).into());
        Doc::map([
            ("active", Some(slot.is_active.into())),
            ("iters", if_active(slot.iterations)),
            ("key-offset", Some(slot.material_at.into())),
            ("stripes", if_active(slot.stripes)),
        ])
    };
    Doc::map([
        ("ivgen-alg", Some(generator.into())),
        ("detached-header", Some(false.into())),
        ("hash-alg", Some(volume.hash_name.as_str().into())),
        ("cipher-alg", Some(cipher.as_str().into())),
        ("uuid", Some(volume.uuid.as_str().into())),
        ("ivgen-hash-alg", hash.map(Doc::from)),
        ("format", Some("luks".into())),
        ("cipher-mode", Some(volume.chaining().into())),
        ("slots", Some(Doc::List(volume.slots.iter().map(slot).collect()))),
        ("payload-offset", Some(volume.payload_at.into())),
        ("master-key-iters", Some(u64::from(volume.digest_iterations).into())),
    ])
}
