//! What the command line of `convert` says.

use std::ffi::{OsStr, OsString};

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::snapshots::Which;

use crate::args::UsageError;
use crate::args::getopt::{Flag, Getopt};
use crate::args::list;
use crate::args::number::{NumberError, parse_number, parse_size};
use crate::img::Failure;
use crate::img::create::NewImage;
use crate::img::options::{self, text};
use crate::img::spec::Format;
use crate::tool::copy::WORKERS_MAX;
use crate::tool::image::{CacheMode, ImageArgs, parse_snapshot};
use crate::tool::object::Secrets;

const FLAGS: &[Flag] = &[
    options::HELP,
    Flag::switch(Some('q'), "quiet"),
    Flag::switch(Some('p'), "progress"),
    Flag::value(Some('f'), "source-format"),
    Flag::switch(None, "source-image-opts"),
    Flag::switch(None, "image-opts"),
    Flag::value(Some('T'), "source-cache"),
    Flag::value(Some('O'), "target-format"),
    Flag::switch(None, "target-image-opts"),
    Flag::value(Some('o'), "target-options"),
    Flag::switch(Some('c'), "compress"),
    Flag::value(Some('t'), "target-cache"),
    Flag::value(Some('B'), "backing"),
    Flag::value(Some('F'), "backing-format"),
    Flag::switch(Some('n'), "no-create"),
    Flag::switch(None, "target-is-zero"),
    Flag::value(Some('S'), "sparse-size"),
    Flag::switch(Some('U'), "force-share"),
    Flag::value(Some('r'), "rate"),
    Flag::value(Some('m'), "parallel"),
    Flag::switch(None, "salvage"),
    Flag::value(Some('l'), "source-snapshot"),
    Flag::switch(None, "bitmaps"),
    Flag::switch(None, "skip-broken-bitmaps"),
    Flag::switch(Some('C'), "copy-range-offloading"),
    Flag::switch(Some('W'), "oob-writes"),
    options::OBJECT,
];

/// Zeroes that are left out if nobody says how many must come together.
const SPARSE_BYTES_DEFAULT: u64 = 4096;
/// The most that can be asked for.
const SPARSE_BYTES_MAX: u64 = 16 << 20;
/// Sizes are multiples of this.
const SECTOR_BYTES: u64 = 512;

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// `-q`.
    pub(super) is_quiet: bool,
    /// `-p`.
    pub(super) is_progress: bool,
    /// In their order.
    pub(super) sources: Vec<ImageArgs>,
    /// The target as it was named.
    pub(super) target: OsString,
    /// `-O`.
    pub(super) target_format: String,
    /// `--target-image-opts`.
    pub(super) is_target_options: bool,
    /// `-o`, each as it was said.
    pub(super) target_options: Vec<String>,
    /// `-t`.
    pub(super) target_cache: CacheMode,
    /// `-c`.
    pub(super) is_compressed: bool,
    /// `-n`.
    pub(super) skips_creation: bool,
    /// `--target-is-zero`.
    pub(super) is_target_zero: bool,
    /// `-S`.
    pub(super) sparse_bytes: u64,
    /// `-r`; 0 for no limit.
    pub(super) bytes_per_second: u64,
    /// `-m`.
    pub(super) workers: Option<usize>,
    /// `-W`.
    pub(super) is_unordered: bool,
    /// `-l`.
    pub(super) snapshot: Option<Which>,
    /// `--bitmaps`.
    pub(super) copies_bitmaps: bool,
    /// `--skip-broken-bitmaps`.
    pub(super) skips_broken_bitmaps: bool,
    /// `--salvage`.
    pub(super) salvages: bool,
    /// `-C`.
    pub(super) offloads: bool,
    backing: Option<OsString>,
    backing_format: Option<String>,
}

/// What was said, before it is put together.
#[derive(Default)]
struct Said {
    source_format: Option<String>,
    is_source_options: bool,
    source_cache: Option<String>,
    target_cache: Option<String>,
    target_format: Option<String>,
    force_share: bool,
    sparse: Option<OsString>,
    rate: Option<OsString>,
    workers: Option<OsString>,
    secrets: Secrets,
}

fn usage(error: UsageError) -> Failure {
    Failure::Usage { command: "convert", error }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, text)
}

/// Reads the arguments. `None`: help is asked for.
pub(super) fn parse(args: Vec<OsString>) -> Result<Option<Request>, Failure> {
    let mut getopt = Getopt::new(FLAGS, args);
    let (mut request, mut said) = (Request::default(), Said::default());
    while let Some((name, value)) = getopt.next_option().map_err(usage)? {
        if name == "help" {
            return Ok(None);
        }
        take(name, value, &mut request, &mut said)?;
    }
    let mut names = getopt.into_free();
    let (target, sources) = match (names.pop(), names) {
        (Some(target), sources) if !sources.is_empty() => (target, sources),
        // Who asks what options there are needs no images.
        (target, sources) if request.asks_for_options() => (target.unwrap_or_default(), sources),
        _ => return Err(usage(UsageError::Other("a source and a target are expected".into()))),
    };
    request.target = target;
    said.finish(&mut request, sources)?;
    Ok(Some(request))
}

fn take(name: &str, value: OsString, request: &mut Request, said: &mut Said) -> Result<()> {
    let words = || text(&value).map(str::to_owned);
    match name {
        "quiet" => request.is_quiet = true,
        "progress" => request.is_progress = true,
        "source-format" => said.source_format = Some(words()?),
        "source-image-opts" | "image-opts" => said.is_source_options = true,
        "source-cache" => said.source_cache = Some(words()?),
        "target-format" => said.target_format = Some(words()?),
        "target-image-opts" => request.is_target_options = true,
        "target-options" => request.target_options.push(words()?),
        "compress" => request.is_compressed = true,
        "target-cache" => said.target_cache = Some(words()?),
        "backing" => request.backing = Some(value),
        "backing-format" => request.backing_format = Some(words()?),
        "no-create" => request.skips_creation = true,
        "target-is-zero" => request.is_target_zero = true,
        "sparse-size" => said.sparse = Some(value),
        "force-share" => said.force_share = true,
        "rate" => said.rate = Some(value),
        "parallel" => said.workers = Some(value),
        "salvage" => request.salvages = true,
        "source-snapshot" => request.snapshot = Some(parse_snapshot(text(&value)?)?),
        "bitmaps" => request.copies_bitmaps = true,
        "skip-broken-bitmaps" => request.skips_broken_bitmaps = true,
        "copy-range-offloading" => request.offloads = true,
        "oob-writes" => request.is_unordered = true,
        _ => said.secrets.define(&value)?,
    }
    Ok(())
}

impl Said {
    fn finish(self, request: &mut Request, sources: Vec<OsString>) -> Result<()> {
        let cache = |said: Option<String>, default, option| match said {
            None => Ok(default),
            Some(name) => CacheMode::named(&name)
                .ok_or_else(|| invalid(format!("there is no cache mode '{name}'")).in_option(option)),
        };
        if self.is_source_options && self.source_format.is_some() {
            return Err(invalid("--source-image-opts and --source-format exclude each other"));
        }
        if request.is_target_options && self.target_format.is_some() {
            return Err(invalid("--target-image-opts and --target-format exclude each other"));
        }
        let excluded =
            [(self.sparse.is_some(), "-S"), (request.is_compressed, "-c"), (request.salvages, "--salvage")];
        if let Some((_, option)) = excluded.iter().find(|(is_said, _)| request.offloads && *is_said) {
            return Err(invalid(format!("-C and {option} exclude each other")));
        }
        request.target_cache = cache(self.target_cache, CacheMode::UNSAFE, "target-cache")?;
        let source_cache = cache(self.source_cache, CacheMode::WRITEBACK, "source-cache")?;
        request.target_format = self.target_format.unwrap_or_else(|| "raw".to_owned());
        request.sparse_bytes = self.sparse.map_or(Ok(SPARSE_BYTES_DEFAULT), |size| parse_sparse(&size))?;
        request.bytes_per_second = self.rate.map_or(Ok(0), |rate| parse_bytes(&rate, "rate"))?;
        request.workers = self.workers.map(|count| parse_workers(&count)).transpose()?;
        request.is_progress &= !request.is_quiet;
        let source = |name: OsString| ImageArgs {
            is_options: self.is_source_options,
            cache: source_cache,
            force_share: self.force_share,
            ..ImageArgs::of(name, self.source_format.clone())
        };
        request.sources = sources.into_iter().map(source).collect();
        Ok(())
    }
}

impl Request {
    /// Whether `-o help` asks for the options of new images.
    fn asks_for_options(&self) -> bool {
        !self.skips_creation && self.target_options.iter().any(|list| list::asks_for_help(list))
    }

    /// Fails if options do not go together.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] naming them.
    pub(super) fn check(&self) -> Result<()> {
        let faults = [
            (self.skips_broken_bitmaps && !self.copies_bitmaps, "--skip-broken-bitmaps needs --bitmaps"),
            (self.is_target_options && !self.skips_creation, "--target-image-opts needs -n"),
            (self.is_target_zero && !self.skips_creation, "--target-is-zero needs -n"),
            (
                self.skips_creation && !self.target_options.is_empty(),
                "-o is for new images, and -n makes none",
            ),
        ];
        if let Some((_, text)) = faults.iter().find(|(is_wrong, _)| *is_wrong) {
            return Err(invalid(*text));
        }
        Ok(())
    }

    /// Fails if the new image cannot be as it is wished.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] and [`Kind::Unsupported`] naming what is wrong.
    pub(super) fn check_target(&self) -> Result<()> {
        if self.snapshot.is_some() && self.sources.len() > 1 {
            return Err(invalid("a snapshot (-l) is one of a single source"));
        }
        if self.copies_bitmaps && self.sources.len() > 1 {
            return Err(invalid("bitmaps (--bitmaps) are those of a single source"));
        }
        if self.skips_creation {
            return Ok(());
        }
        let format = Format::named(&self.target_format)?;
        if self.is_compressed && format == Format::Raw {
            return Err(Error::new(Kind::Unsupported, "a raw image cannot be compressed"));
        }
        let image = self.new_image()?;
        if self.is_compressed && image.is_preallocated() {
            return Err(invalid("-c and preallocation exclude each other"));
        }
        match image.backing() {
            Some(_) if self.sources.len() > 1 => {
                Err(invalid("several sources do not lie on one backing file (-B)"))
            }
            Some((_, None)) => Err(invalid("the format of the backing file must be given (-F)")),
            _ => Ok(()),
        }
    }

    /// The image that is to be made.
    ///
    /// # Errors
    /// Options that its format does not have.
    pub(super) fn new_image(&self) -> Result<NewImage> {
        let mut image = NewImage::parse(&self.target_format, &self.target_options)?;
        if let Some(backing) = &self.backing {
            image.set_backing(backing)?;
        }
        if let Some(format) = &self.backing_format {
            image.set_backing_format(format)?;
        }
        Ok(image)
    }

    /// Whether the target's space is reserved before anything is written.
    pub(super) fn is_preallocated(&self) -> bool {
        !self.skips_creation && self.new_image().is_ok_and(|image| image.is_preallocated())
    }

    /// Whether the target shows a backing file where nothing is written.
    pub(super) fn has_backing(&self) -> Result<bool> {
        Ok(self.backing.is_some() || (!self.skips_creation && self.new_image()?.backing().is_some()))
    }
}

fn parse_bytes(value: &OsStr, option: &str) -> Result<u64> {
    let parsed = value.to_str().map_or(Err(NumberError::Malformed), parse_size);
    parsed.ok().filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(|| {
        invalid(format!("'{}' is no size from 0 to {}", value.display(), i64::MAX)).in_option(option)
    })
}

fn parse_sparse(value: &OsStr) -> Result<u64> {
    let bytes = parse_bytes(value, "sparse-size")?;
    if bytes % SECTOR_BYTES != 0 || bytes > SPARSE_BYTES_MAX {
        let text = format!("{bytes} is no multiple of {SECTOR_BYTES} up to {SPARSE_BYTES_MAX}");
        return Err(invalid(text).in_option("sparse-size"));
    }
    Ok(bytes)
}

fn parse_workers(value: &OsStr) -> Result<usize> {
    let parsed = value.to_str().and_then(|text| parse_number(text).ok());
    let parsed = parsed.and_then(|count| usize::try_from(count).ok());
    parsed.filter(|count| (1..=WORKERS_MAX).contains(count)).ok_or_else(|| {
        invalid(format!("'{}' is no number from 1 to {WORKERS_MAX}", value.display())).in_option("parallel")
    })
}
