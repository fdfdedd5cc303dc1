//! The options of new images: which there are, what they are given, what is printed of them.
//!
//! | kind | `key=value` | `key` | `nokey` |
//! |---|---|---|---|
//! | text | the value | `on` | `off` |
//! | switch | `on`, `off`, `yes`, ... | `on` | `off` |
//! | size, number | a number | refused | refused |
//!
//! The last of several values counts, except that the size is said once. The order of the tables is that of the line
//! "Formatting ...", which shows what was said in the words in which it was said, and defaults.
//! Not here: which values go together; the format says.

use std::num::NonZeroU32;

use drystone_base::{Error, Kind, Result};
use drystone_core::disk::Preallocation;
use drystone_format::qcow2::compress::Compression;
use drystone_format::qcow2::create::CreateOptions;
use drystone_format::qcow2::header::Version;
use drystone_sys::FileHints;

use crate::args::list;
use crate::args::number::{NumberError, parse_number, parse_size, parse_switch};
use crate::img::spec::Format;

/// What an option's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kindof {
    Text,
    Switch,
    Size,
    Number,
}

/// An option.
struct Entry {
    name: &'static str,
    kind: Kindof,
    default: Option<&'static str>,
    /// In the words of the list that `-o help` prints.
    about: &'static str,
    /// Whether it belongs to the file, not to the format.
    of_file: bool,
}

const fn entry(
    name: &'static str,
    kind: Kindof,
    default: Option<&'static str>,
    about: &'static str,
) -> Entry {
    Entry { name, kind, default, about, of_file: false }
}

const fn of_file(name: &'static str, kind: Kindof, about: &'static str) -> Entry {
    Entry { name, kind, default: None, about, of_file: true }
}

/// What this build cannot make. The options are known, so that switching them off is no mistake.
const UNSUPPORTED: &str = "not supported yet";

#[rustfmt::skip]
const QCOW2: &[Entry] = &[
    entry("encryption", Kindof::Switch, None, UNSUPPORTED),
    entry("encrypt.format", Kindof::Text, None, UNSUPPORTED),
    entry("encrypt.key-secret", Kindof::Text, None, UNSUPPORTED),
    entry("encrypt.cipher-alg", Kindof::Text, None, UNSUPPORTED),
    entry("encrypt.cipher-mode", Kindof::Text, None, UNSUPPORTED),
    entry("encrypt.ivgen-alg", Kindof::Text, None, UNSUPPORTED),
    entry("encrypt.ivgen-hash-alg", Kindof::Text, None, UNSUPPORTED),
    entry("encrypt.hash-alg", Kindof::Text, None, UNSUPPORTED),
    entry("encrypt.iter-time", Kindof::Number, None, UNSUPPORTED),
    entry("cluster_size", Kindof::Size, Some("65536"), "bytes of a cluster, a power of two from 512 to 2M"),
    entry("extended_l2", Kindof::Switch, Some("off"), "clusters have 32 subclusters"),
    entry("preallocation", Kindof::Text, None, "off, metadata, falloc or full"),
    entry("compression_type", Kindof::Text, Some("zlib"), "how clusters are compressed: zlib or zstd"),
    entry("size", Kindof::Size, None, "bytes of the disk"),
    entry("compat", Kindof::Text, None, "version of the format: 1.1 (v3) or 0.10 (v2)"),
    entry("backing_file", Kindof::Text, None, "what shows through until it is written over"),
    entry("backing_fmt", Kindof::Text, None, "format of the backing file"),
    entry("data_file", Kindof::Text, None, "file for the disk's data"),
    entry("data_file_raw", Kindof::Switch, None, "that file is a raw image of the disk at any time"),
    entry("lazy_refcounts", Kindof::Switch, Some("off"), "writers may postpone refcounts"),
    entry("refcount_bits", Kindof::Number, Some("16"), "bits of a refcount, a power of two up to 64"),
    of_file("nocow", Kindof::Switch, "the file is written in place (btrfs)"),
    of_file("extent_size_hint", Kindof::Size, "bytes of space that the file takes at once, where that can be told; 0: not told"),
];

#[rustfmt::skip]
const RAW: &[Entry] = &[
    entry("size", Kindof::Size, None, "bytes of the disk"),
    of_file("nocow", Kindof::Switch, "the file is written in place (btrfs)"),
    of_file("preallocation", Kindof::Text, "off, falloc or full"),
    of_file("extent_size_hint", Kindof::Size, "bytes of space that the file takes at once, where that can be told; 0: not told"),
];

fn entries(format: Format) -> &'static [Entry] {
    match format {
        Format::Raw => RAW,
        Format::Qcow2 => QCOW2,
    }
}

/// The list of options; those of the file with it if there is one.
pub(super) fn help(format: Format, has_file: bool) -> String {
    let kind = |kind| match kind {
        Kindof::Text => "<str>",
        Kindof::Switch => "<bool (on/off)>",
        Kindof::Size => "<size>",
        Kindof::Number => "<num>",
    };
    let listed = |entry: &&Entry| entry.about != UNSUPPORTED && (has_file || !entry.of_file);
    let mut lines: Vec<String> = entries(format)
        .iter()
        .filter(listed)
        .map(|entry| {
            let head = format!("  {}={}", entry.name, kind(entry.kind));
            format!("{head:<24} - {}\n", entry.about)
        })
        .collect();
    lines.sort();
    let title = if has_file { String::new() } else { format!("{} ", format.name()) };
    format!("Supported {title}options:\n{}", lines.concat())
}

/// A value: as it was said, and as a number if it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    words: String,
    number: u64,
}

/// The options of one new image.
#[derive(Debug)]
pub(in crate::img) struct Values {
    entries: &'static [Entry],
    /// Parallel to the entries.
    values: Vec<Option<Value>>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Values {
    /// Takes a list apart.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] for options that the format does not have and values that are none.
    pub(in crate::img) fn parse(format: Format, list: &str) -> Result<Self> {
        let entries = entries(format);
        let mut values = Self { entries, values: vec![None; entries.len()] };
        for entry in entries {
            if let Some(default) = entry.default {
                values.set(entry.name, default)?;
            }
        }
        for (key, value) in list::split(list) {
            match (value, key.strip_prefix("no")) {
                (Some(value), _) => values.set(&key, &value)?,
                (None, Some(positive)) => values.set(positive, "off")?,
                (None, None) => values.set(&key, "on")?,
            }
        }
        Ok(values)
    }

    fn set(&mut self, key: &str, words: &str) -> Result<()> {
        let fault = |text: &str| Error::new(Kind::InvalidInput, format!("'{words}' {text}")).in_option(key);
        let found = self.entries.iter().zip(&mut self.values).find(|(entry, _)| entry.name == key);
        let Some((entry, slot)) = found else {
            return Err(Error::new(Kind::InvalidInput, "the format does not have it").in_option(key));
        };
        let number = match entry.kind {
            Kindof::Text => Ok(0),
            Kindof::Switch => parse_switch(words).map(u64::from).ok_or(NumberError::Malformed),
            Kindof::Size => parse_size(words),
            Kindof::Number => parse_number(words),
        };
        let number = number.map_err(|error| match (error, entry.kind) {
            (NumberError::Range, _) => fault("is out of range"),
            (_, Kindof::Switch) => fault("is neither 'on' nor 'off'"),
            (_, Kindof::Size) => fault("is no size (bytes, or with a suffix k, M, G, T, P, E)"),
            _ => fault("is no number"),
        })?;
        *slot = Some(Value { words: words.to_owned(), number });
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&Value> {
        let mut pairs = self.entries.iter().zip(&self.values);
        pairs.find(|(entry, _)| entry.name == key).and_then(|(_, value)| value.as_ref())
    }

    /// Whether a switch is on.
    pub(in crate::img) fn is_on(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value.number != 0)
    }

    /// A number or size; 0 if it was not said and has no default.
    pub(in crate::img) fn number(&self, key: &str) -> u64 {
        self.get(key).map_or(0, |value| value.number)
    }

    /// Whether the image is to be encrypted.
    pub(in crate::img) fn asks_for_encryption(&self) -> bool {
        self.get("encrypt.format").is_some()
    }

    /// The version of a qcow2 image.
    pub(in crate::img) fn version(&self) -> Result<Version> {
        match self.words("compat") {
            None => Ok(Version::V3),
            Some(compat) => Version::from_compat(compat).ok_or_else(|| no_such("compat", compat)),
        }
    }

    /// A value as it was said.
    pub(in crate::img) fn words(&self, key: &str) -> Option<&str> {
        self.get(key).map(|value| value.words.as_str())
    }

    /// Sets the size that stands on the command line.
    pub(super) fn set_size(&mut self, bytes: u64) -> Result<()> {
        if self.get("size").is_some() {
            return Err(Error::new(Kind::InvalidInput, "it is given twice").in_option("size"));
        }
        self.set("size", &bytes.to_string())
    }

    /// Sets the size, whatever was said.
    pub(super) fn replace_size(&mut self, bytes: u64) -> Result<()> {
        self.set("size", &bytes.to_string())
    }

    /// Sets the size unless there is one.
    pub(super) fn set_default_size(&mut self, bytes: u64) {
        if self.get("size").is_none() {
            let set = self.set("size", &bytes.to_string());
            debug_assert!(set.is_ok(), "every format has a size");
        }
    }

    /// Sets the backing file.
    pub(super) fn set_backing(&mut self, name: &str) -> Result<()> {
        self.set("backing_file", name)
    }

    /// Sets the format of the backing file.
    pub(super) fn set_backing_format(&mut self, name: &str) -> Result<()> {
        self.set("backing_fmt", name)
    }

    /// The size in bytes.
    pub(super) fn size(&self) -> Option<u64> {
        self.get("size").map(|value| value.number)
    }

    /// The backing file's name as it is to be recorded.
    pub(in crate::img) fn backing(&self) -> Option<&str> {
        self.words("backing_file")
    }

    /// The name of the file for the data, as it is to be recorded.
    pub(super) fn data_file(&self) -> Option<&str> {
        self.words("data_file")
    }

    /// The backing file's format.
    pub(super) fn backing_format(&self) -> Option<&str> {
        self.words("backing_fmt")
    }

    /// What the file system is told.
    ///
    /// # Errors
    /// Pieces of space that no file system takes.
    pub(super) fn hints(&self) -> Result<FileHints> {
        let hints = FileHints { no_copy_on_write: self.is_on("nocow"), ..FileHints::default() };
        let Some(said) = self.get("extent_size_hint") else { return Ok(hints) };
        let bytes = u32::try_from(said.number).map_err(|_| {
            let text = format!("it is larger than {}", u32::MAX);
            Error::new(Kind::InvalidInput, text).in_option("extent_size_hint")
        })?;
        Ok(FileHints { extent_bytes: NonZeroU32::new(bytes), ..hints })
    }

    /// Refuses by name what this build cannot make.
    pub(super) fn check_support(&self) -> Result<()> {
        let asked = |entry: &&Entry| match entry.kind {
            Kindof::Switch => self.is_on(entry.name),
            _ => self.get(entry.name).is_some(),
        };
        let mut unsupported = self.entries.iter().filter(|entry| entry.about == UNSUPPORTED);
        match unsupported.find(asked) {
            Some(entry) => {
                Err(Error::new(Kind::Unsupported, "it is not supported yet").in_option(entry.name))
            }
            None => Ok(()),
        }
    }

    /// What was understood, as the line "Formatting ..." shows it.
    pub(super) fn to_words(&self) -> String {
        let pairs = self.entries.iter().zip(&self.values);
        let words = pairs.filter_map(|(entry, value)| {
            let value = value.as_ref()?;
            let shown = match entry.kind {
                Kindof::Size | Kindof::Number => value.number.cast_signed().to_string(),
                Kindof::Text | Kindof::Switch => list::escape(&value.words),
            };
            Some(format!("{}={shown}", entry.name))
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// How space is reserved.
    pub(in crate::img) fn preallocation(&self) -> Result<Preallocation> {
        match self.words("preallocation") {
            None | Some("off") => Ok(Preallocation::Off),
            Some("metadata") => Ok(Preallocation::Metadata),
            Some("falloc") => Ok(Preallocation::Falloc),
            Some("full") => Ok(Preallocation::Full),
            Some(other) => Err(no_such("preallocation", other)),
        }
    }

    /// The options of a qcow2 image.
    pub(super) fn to_qcow2(&self) -> Result<CreateOptions> {
        let number = |key| self.number(key);
        let version = self.version()?;
        let compression = self.words("compression_type").unwrap_or_default();
        Ok(CreateOptions {
            cluster_bytes: number("cluster_size"),
            version,
            refcount_bits: number("refcount_bits"),
            lazy_refcounts: self.is_on("lazy_refcounts"),
            extended_l2: self.is_on("extended_l2"),
            data_file: self.data_file().map(|name| name.as_bytes().to_vec()),
            is_data_raw: self.is_on("data_file_raw"),
            compression: Compression::from_name(compression)
                .ok_or_else(|| no_such("compression_type", compression))?,
            backing_name: self.backing().map(|name| name.as_bytes().to_vec()),
            backing_format: self.backing_format().map(|name| name.as_bytes().to_vec()),
            ..CreateOptions::new(self.size().unwrap_or(0))
        })
    }
}

fn no_such(option: &str, value: &str) -> Error {
    Error::new(Kind::InvalidInput, format!("there is no '{value}'")).in_option(option)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(format: Format, list: &str) -> String {
        Values::parse(format, list).map_or_else(|error| error.report(), |values| values.to_words())
    }

    #[test]
    fn what_was_said_is_shown_in_the_order_of_the_table() {
        assert_eq!(
            words(
                Format::Qcow2,
                "size=1M,lazy_refcounts=yes,nocow=off,compat=v3,cluster_size=4k,backing_file=a,,b"
            ),
            "cluster_size=4096 extended_l2=off compression_type=zlib size=1048576 compat=v3 backing_file=a,,b \
             lazy_refcounts=yes refcount_bits=16 nocow=off"
        );
        assert_eq!(words(Format::Raw, "preallocation=full,size=1k"), "size=1024 preallocation=full");
        assert_eq!(words(Format::Raw, "size=8E"), "size=-9223372036854775808", "as the C tool does");
    }

    #[test]
    fn keys_alone_are_switches() {
        assert!(words(Format::Qcow2, "lazy_refcounts").contains("lazy_refcounts=on"));
        assert!(words(Format::Qcow2, "nolazy_refcounts").contains("lazy_refcounts=off"));
        assert!(words(Format::Qcow2, "nonocow").contains("nocow=off"));
        assert_eq!(
            words(Format::Qcow2, "nocow"),
            "option 'cow': the format does not have it",
            "as the C tool does"
        );
    }

    #[test]
    fn mistakes_name_their_option() {
        assert_eq!(
            words(Format::Raw, "cluster_size=4k"),
            "option 'cluster_size': the format does not have it"
        );
        assert_eq!(
            words(Format::Qcow2, "lazy_refcounts="),
            "option 'lazy_refcounts': '' is neither 'on' nor 'off'"
        );
        assert_eq!(words(Format::Qcow2, "refcount_bits=16k"), "option 'refcount_bits': '16k' is no number");
        assert_eq!(words(Format::Qcow2, "size=16E"), "option 'size': '16E' is out of range");
    }

    #[test]
    fn what_cannot_be_made_is_refused_by_name_unless_it_is_switched_off() {
        let support = |list| Values::parse(Format::Qcow2, list).unwrap().check_support();
        support("extended_l2=off,encryption=no,data_file_raw=off").unwrap();
        for key in ["encryption=on", "encrypt.format=luks"] {
            let name = key.split('=').next().unwrap();
            assert!(support(key).unwrap_err().report().contains(name), "{key}");
        }
    }
}
