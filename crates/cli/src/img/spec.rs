//! Which image a command is about: a file name, `json:{...}`, or `--image-opts driver=qcow2,file.filename=...`.
//!
//! ```text
//!  Format (qcow2, raw or to be found out) ── file ──> Format ── file ──> File
//! ```
//! The commands that look at images open one layer and what it lies on, never a backing file, so options that only change
//! how an image is used (caches, discards, the backing child) are taken and have no effect.
//!
//! Invariant: an option that is not known is an error that names it. Not here: opening.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::name::{self, Name};
use drystone_blockdev::options::{Child, Options};
use drystone_format::raw::RawOptions;
use drystone_protocol::nbd::NbdOptions;
use drystone_sys::Locking;
use serde_json::Value;

use super::doc::Doc;
use crate::args::list;

/// The options of qcow2 nodes that change nothing for somebody who looks.
const QCOW2_OPTIONS: [&str; 20] = [
    "lazy-refcounts",
    "pass-discard-request",
    "pass-discard-snapshot",
    "pass-discard-other",
    "discard-no-unref",
    "overlap-check",
    "overlap-check.template",
    "overlap-check.main-header",
    "overlap-check.active-l1",
    "overlap-check.active-l2",
    "overlap-check.refcount-table",
    "overlap-check.refcount-block",
    "overlap-check.snapshot-table",
    "overlap-check.inactive-l1",
    "overlap-check.inactive-l2",
    "overlap-check.bitmap-directory",
    "cache-size",
    "l2-cache-size",
    "l2-cache-entry-size",
    "refcount-cache-size",
];
/// The options of every node that change nothing for somebody who looks.
const NODE_OPTIONS: [&str; 6] =
    ["node-name", "discard", "read-only", "auto-read-only", "force-share", "detect-zeroes"];
/// The options of files that change nothing for somebody who looks.
const FILE_OPTIONS: [&str; 5] = ["aio", "aio-max-batch", "drop-cache", "x-check-cache-dropped", "pr-manager"];

/// What lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// The bytes are the disk.
    Raw,
    /// qcow2.
    Qcow2,
}

impl Format {
    /// The format called `name`.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if there is no such format here.
    pub(crate) fn named(name: &str) -> Result<Self> {
        match name {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            _ => {
                Err(Error::new(Kind::Unsupported, format!("there is no format '{name}' (raw and qcow2 are)")))
            }
        }
    }

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// An image to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Spec {
    /// A file or device.
    File {
        /// Where.
        path: PathBuf,
        /// Its driver, if it was said; else what the file is decides.
        driver: Option<&'static str>,
        /// Whether it is locked.
        locking: Locking,
    },
    /// An export of an NBD server.
    Nbd(NbdOptions),
    /// A format on something else.
    Format {
        /// Which; found out from the first bytes if it was not said.
        format: Option<Format>,
        /// Which bytes of the file, for raw.
        window: Window,
        /// On what.
        file: Box<Self>,
        /// It was said that there is no backing file, whatever the image says.
        is_without_backing: bool,
    },
}

/// The window of a raw image, with what was said of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Window {
    /// The bytes.
    pub(crate) bytes: RawOptions,
    /// `offset` as it was written.
    pub(crate) offset_said: Option<Doc>,
    /// `size` as it was written.
    pub(crate) size_said: Option<Doc>,
}

impl Spec {
    /// The image that a file name (or `json:{...}`) stands for, in the format with the name given.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] and [`Kind::Unsupported`] for names and options without a meaning.
    pub(crate) fn of_name(name: &OsStr, format: Option<&str>) -> Result<Self> {
        let format_named = |name: Option<&str>| name.map(Format::named).transpose();
        match name::parse(name)? {
            Name::Path { path, driver } => {
                let driver = driver.or_else(|| format.and_then(protocol_named));
                let file = Self::File { path, driver, locking: Locking::Auto };
                if format.is_some_and(|format| protocol_named(format).is_some()) {
                    return Ok(file);
                }
                Ok(Self::on(file, format_named(format)?))
            }
            Name::Node(file) => {
                let file = Self::of_options(file)?;
                let is_all = format == Some("nbd");
                if is_all { Ok(file) } else { Ok(Self::on(file, format_named(format)?)) }
            }
            Name::Options(mut options) => {
                if let Some(format) = format {
                    // Who says it apart from the name has the last word.
                    options.take_text("driver")?;
                    options.set("driver", format)?;
                }
                Self::of_options(options)
            }
        }
    }

    /// The image that a list of `key=value` stands for.
    ///
    /// # Errors
    /// As [`Self::of_name`].
    pub(crate) fn of_list(text: &str) -> Result<Self> {
        let mut options = Options::default();
        for (key, value) in list::split(text) {
            let Some(value) = value else {
                return Err(Error::new(Kind::InvalidInput, format!("there is no node '{key}' here")));
            };
            options.set(&key, Value::String(value))?;
        }
        Self::of_options(options)
    }

    fn on(file: Self, format: Option<Format>) -> Self {
        Self::Format { format, window: Window::default(), file: Box::new(file), is_without_backing: false }
    }

    fn of_options(mut options: Options) -> Result<Self> {
        let driver = options.take_text("driver")?;
        let spec = match driver.as_deref() {
            Some(name @ ("file" | "host_device")) => Self::of_file(&mut options, protocol_named(name))?,
            Some("nbd") => Self::Nbd(drystone_blockdev::nbd::take(&mut options)?),
            None if !options.has("file") => {
                return Err(Error::new(Kind::InvalidInput, "neither 'driver' nor 'file' is given"));
            }
            driver => Self::of_format(&mut options, driver.map(Format::named).transpose()?)?,
        };
        ignore(&mut options, &NODE_OPTIONS)?;
        if options.has("cache") {
            let mut cache = options.take_nested("cache")?;
            ignore(&mut cache, &["direct", "no-flush"])?;
            cache.finish("cache")?;
        }
        options.finish(driver.as_deref().unwrap_or("file"))?;
        Ok(spec)
    }

    fn of_file(options: &mut Options, driver: Option<&'static str>) -> Result<Self> {
        let path = options.take_text("filename")?.filter(|path| !path.is_empty());
        let path =
            path.ok_or_else(|| Error::new(Kind::InvalidInput, "a file needs a name").in_option("filename"))?;
        let choices = [("auto", Locking::Auto), ("on", Locking::On), ("off", Locking::Off)];
        let locking = options.take_choice("locking", &choices)?.unwrap_or_default();
        ignore(options, &FILE_OPTIONS)?;
        // A protocol in front of the name is not looked for where the options say what it is.
        Ok(Self::File { path: PathBuf::from(path), driver, locking })
    }

    fn of_format(options: &mut Options, format: Option<Format>) -> Result<Self> {
        let file = match options.take_child("file")? {
            Child::New(mut options) => {
                if !options.has("driver") {
                    options.set("driver", "file")?;
                }
                Self::of_options(options)?
            }
            Child::Node(name) => {
                let text = format!("there is no node '{name}' here");
                return Err(Error::new(Kind::NotFound, text).in_option("file"));
            }
            Child::Unsaid | Child::None => {
                let text = "the image's file is missing";
                return Err(Error::new(Kind::InvalidInput, text).in_option("file"));
            }
        };
        let window = if format == Some(Format::Raw) { take_window(options)? } else { Window::default() };
        let mut is_without_backing = false;
        if format == Some(Format::Qcow2) {
            ignore(options, &QCOW2_OPTIONS)?;
            is_without_backing = match options.take_child("backing")? {
                Child::Unsaid => false,
                Child::None => true,
                Child::Node(name) if name.is_empty() => true,
                Child::Node(_) | Child::New(_) => {
                    let text = "the backing file is the one that the image names, or none";
                    return Err(Error::new(Kind::Unsupported, text).in_option("backing"));
                }
            };
        }
        Ok(Self::Format { format, window, file: Box::new(file), is_without_backing })
    }
}

fn protocol_named(name: &str) -> Option<&'static str> {
    ["file", "host_device"].into_iter().find(|known| *known == name)
}

fn ignore(options: &mut Options, keys: &[&str]) -> Result<()> {
    for key in keys.iter().filter(|key| options.has(key)).collect::<Vec<_>>() {
        options.take_child(key)?;
    }
    Ok(())
}

fn take_window(options: &mut Options) -> Result<Window> {
    let said = |options: &Options, key: &str| {
        let mut copy = options.clone();
        let text = copy.take_text(key).ok().flatten().map(|text| Doc::from(text.as_str()));
        text.or_else(|| options.clone().take_number(key).ok().flatten().map(Doc::Number))
    };
    let (offset_said, size_said) = (said(options, "offset"), said(options, "size"));
    let bytes = RawOptions {
        offset_host: options.take_number("offset")?.unwrap_or(0),
        len_bytes: options.take_number("size")?,
    };
    Ok(Window { bytes, offset_said, size_said })
}

impl Spec {
    /// Whether it was said that there is no backing file, whatever the image says.
    pub(crate) const fn is_without_backing(&self) -> bool {
        matches!(self, Self::Format { is_without_backing: true, .. })
    }

    /// The name of its file, for texts about it.
    pub(crate) fn path(&self) -> OsString {
        match self {
            Self::File { path, .. } => path.clone().into(),
            Self::Nbd(options) => options.to_string().into(),
            Self::Format { file, .. } => file.path(),
        }
    }
}

/// The name of an image as bytes.
pub(crate) fn bytes_of(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, driver: Option<&'static str>) -> Spec {
        Spec::File { path: path.into(), driver, locking: Locking::Auto }
    }

    fn name(text: &str, format: Option<&str>) -> Result<Spec> {
        Spec::of_name(OsStr::new(text), format)
    }

    #[test]
    fn a_name_is_a_file_in_a_format() {
        assert_eq!(name("a.img", None).unwrap(), Spec::on(file("a.img", None), None));
        assert_eq!(name("a.img", Some("raw")).unwrap(), Spec::on(file("a.img", None), Some(Format::Raw)));
        assert_eq!(name("a.img", Some("file")).unwrap(), file("a.img", Some("file")));
        assert_eq!(name("file:a.img", None).unwrap(), Spec::on(file("a.img", Some("file")), None));
        assert!(name("a.img", Some("vmdk")).unwrap_err().report().contains("'vmdk'"));
    }

    #[test]
    fn options_say_the_same_in_two_grammars() {
        let expected = Spec::on(file("a", Some("file")), Some(Format::Qcow2));
        let json = r#"json:{"driver": "qcow2", "file": {"driver": "file", "filename": "a"}}"#;
        assert_eq!(name(json, None).unwrap(), expected);
        let as_raw = Spec::on(file("a", Some("file")), Some(Format::Raw));
        assert_eq!(name(json, Some("raw")).unwrap(), as_raw, "what is said beside the name counts");
        assert_eq!(Spec::of_list("driver=qcow2,file.filename=a").unwrap(), expected);
        assert_eq!(
            Spec::of_list("file.filename=a,,b").unwrap(),
            Spec::on(file("a,b", Some("file")), None),
            "the format is found out"
        );
    }

    #[test]
    fn a_window_remembers_what_was_said() {
        let Spec::Format { window, .. } = Spec::of_list("driver=raw,offset=1k,file.filename=a").unwrap()
        else {
            panic!("a format")
        };
        assert_eq!((window.bytes.offset_host, window.bytes.len_bytes), (1024, None));
        assert_eq!((window.offset_said, window.size_said), (Some("1k".into()), None));
    }

    #[test]
    fn options_that_change_nothing_are_taken_and_others_are_named() {
        let known = "driver=qcow2,file.driver=file,file.filename=b,lazy-refcounts=on,backing=,cache.direct=on,\
                     node-name=n,file.node-name=m,file.locking=off,read-only=on";
        assert!(Spec::of_list(known).unwrap().is_without_backing());
        let fault = |text: &str| Spec::of_list(text).unwrap_err().report();
        assert_eq!(
            fault("driver=qcow2,file.filename=a,foo=bar"),
            "option 'foo': driver 'qcow2' does not have it"
        );
        assert_eq!(fault("driver=file,filename=a,bogus=1"), "option 'bogus': driver 'file' does not have it");
        assert!(fault("a.qcow2").contains("no node 'a.qcow2'"));
        assert!(fault("filename=a").contains("neither 'driver' nor 'file'"));
        assert!(fault("driver=qcow2,file=node0").contains("no node 'node0'"));
        assert!(fault("driver=file,filename=").contains("needs a name"));
    }
}
