//! `img create`: a new image.
//!
//! ```text
//!  arguments ─> options of the format ─> backing file: is it there, how long ─> "Formatting ..." ─> write
//!               (table)                  (may be skipped with -u)                                    (write)
//! ```
//! What is wrong with the command line or the backing file is said before anything is printed or touched; what the format
//! cannot do is said after the line that tells what was understood, as by the C tool.
//!
//! Invariant: the file is not touched before it is locked, and never if the backing chain leads to it.

pub(super) mod table;
mod target;
mod write;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use drystone_base::{Error, Kind, Result};
use drystone_core::disk::Preallocation;
use drystone_core::runtime::LocalRef;
use drystone_sys::FileId;

use self::table::Values;
use self::target::Target;
use super::chain::Chain;
use super::options::{self, text};
use super::spec::{Format, Spec};
use super::{Console, Failure};
use crate::args::UsageError;
use crate::args::getopt::{Flag, Getopt};
use crate::args::list;
use crate::args::number::{NumberError, parse_size};
use crate::tool::object::Secrets;
use crate::tool::{self, Load, Start, Tool};

const FLAGS: &[Flag] = &[
    options::HELP,
    Flag::switch(Some('q'), "quiet"),
    options::FORMAT,
    Flag::value(Some('o'), "options"),
    Flag::value(Some('b'), "backing"),
    Flag::value(Some('F'), "backing-format"),
    Flag::switch(Some('u'), "backing-unsafe"),
    options::OBJECT,
];

const HELP: &str = "\
Makes a new disk image. A file that is there already is overwritten.

  create [OPTION...] FILE [SIZE]

  -f, --format FORMAT         raw (the default) or qcow2
  -o, --options KEY=VALUE,... options of the format; `-o help` lists them
  -b, --backing FILE          the new image shows what FILE holds until it is written to; a relative name is
                              relative to the new image
  -F, --backing-format FORMAT the format of the backing file
  -u, --backing-unsafe        do not look whether the backing file is there
  -q, --quiet                 print errors only
      --object OBJECT         a secret: secret,id=NAME,data=TEXT
  -h, --help                  this text

SIZE is in bytes, or with a suffix (k, M, G, T, P, E: powers of 1024). Without it, the image is as long as its backing
file.
";

/// What the command line says.
#[derive(Default)]
struct Request {
    is_quiet: bool,
    is_unsafe: bool,
    format: Option<String>,
    options: Option<String>,
    backing: Option<OsString>,
    backing_format: Option<String>,
    file: Option<OsString>,
    size: Option<u64>,
    objects: Secrets,
}

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let Some(request) = parse(args)? else {
        console.print(HELP);
        return Ok(0);
    };
    let format = Format::named(request.format.as_deref().unwrap_or("raw"))?;
    let file = request.file.as_deref();
    if request.options.as_deref().is_some_and(list::asks_for_help) {
        console.print(table::help(format, file.is_some()));
        return Ok(0);
    }
    let file = file.ok_or_else(|| usage(UsageError::Other("the file to create is missing".into())))?;
    make(&request, file, format, console).map_err(|error| error.at_path(file))?;
    Ok(0)
}

/// Reads the arguments. `None`: help is asked for.
fn parse(args: Vec<OsString>) -> Result<Option<Request>, Failure> {
    let mut getopt = Getopt::new(FLAGS, args);
    let mut request = Request::default();
    while let Some((name, value)) = getopt.next_option().map_err(usage)? {
        match name {
            "help" => return Ok(None),
            "quiet" => request.is_quiet = true,
            "format" => request.format = Some(text(&value)?.to_owned()),
            "options" => request.options = Some(join(request.options.take(), text(&value)?)?),
            "backing" => request.backing = Some(value),
            "backing-format" => request.backing_format = Some(text(&value)?.to_owned()),
            "backing-unsafe" => request.is_unsafe = true,
            _ => request.objects.define(&value)?,
        }
    }
    let mut free = getopt.into_free().into_iter();
    request.file = free.next();
    request.size = free.next().map(|size| parse_argument(&size)).transpose()?;
    if let Some(extra) = free.next() {
        return Err(usage(UsageError::Other(format!("'{}' is one argument too many", extra.display()))));
    }
    Ok(Some(request))
}

fn usage(error: UsageError) -> Failure {
    Failure::Usage { command: "create", error }
}

/// Several lists are one.
pub(super) fn join(before: Option<String>, list: &str) -> Result<String> {
    if !list::is_joinable(list) {
        let text = format!("'{list}' is no list of options");
        return Err(Error::new(Kind::InvalidInput, text).in_option("options"));
    }
    Ok(before.map_or_else(|| list.to_owned(), |before| format!("{before},{list}")))
}

fn parse_argument(size: &OsStr) -> Result<u64> {
    let parsed = size.to_str().map_or(Err(NumberError::Malformed), parse_size);
    let text = match parsed {
        Ok(bytes) if i64::try_from(bytes).is_ok() => return Ok(bytes),
        Ok(_) | Err(NumberError::Range) => {
            format!("a size of '{}' is not between 0 and {}", size.display(), i64::MAX)
        }
        Err(NumberError::Malformed) => format!("'{}' is no size", size.display()),
    };
    Err(Error::new(Kind::InvalidInput, text))
}

fn make(request: &Request, file: &OsStr, format: Format, console: &mut Console) -> Result<()> {
    let mut values = Values::parse(format, request.options.as_deref().unwrap_or_default())?;
    if let Some(size) = request.size {
        values.set_size(size)?;
    }
    if let Some(backing) = &request.backing {
        values.set_backing(text(backing)?)?;
    }
    if let Some(format) = &request.backing_format {
        values.set_backing_format(format)?;
    }
    let elsewhere = super::run_here(async |local| {
        let chain = look_at_backing(&local, request, file, &mut values).await?;
        values.size().ok_or_else(|| {
            Error::new(Kind::InvalidInput, "the size of the image is missing").in_option("size")
        })?;
        values.check_support()?;
        let target = Target::named(file)?;
        target.refuse_overlap(&local, &chain).await?;
        if !request.is_quiet {
            console.print(formatting(file, format, &values));
        }
        match target {
            Target::File(path) => {
                write::image(&local, &path, format, &values, &chain).await?;
                Ok(None)
            }
            Target::Node(name) => Ok(Some((name, chain))),
        }
    })?;
    let Some((name, chain)) = elsewhere else { return Ok(()) };
    let start = Start { name: console.name, load: Load::Small };
    tool::run(start, async |tool: &Tool| write::at_node(tool, &name, format, &values, &chain).await)
}

/// A new image that another command makes and fills.
pub(super) struct NewImage {
    format: Format,
    values: Values,
}

impl NewImage {
    /// An image in this format with a list of options, of which several are one.
    ///
    /// # Errors
    /// Options that the format does not have and values that are none.
    pub(super) fn parse(format: &str, lists: &[String]) -> Result<Self> {
        let format = Format::named(format)?;
        let joined = lists.iter().try_fold(None, |before, list| join(before, list).map(Some))?;
        Ok(Self { format, values: Values::parse(format, &joined.unwrap_or_default())? })
    }

    /// The list that `-o help` asks for; `None` if it does not.
    ///
    /// # Errors
    /// A format that there is not.
    pub(super) fn help(format: &str, lists: &[String], has_file: bool) -> Result<Option<String>> {
        if !lists.iter().any(|list| list::asks_for_help(list)) {
            return Ok(None);
        }
        Ok(Some(table::help(Format::named(format)?, has_file)))
    }

    /// Sets the backing file.
    ///
    /// # Errors
    /// A format that has none.
    pub(super) fn set_backing(&mut self, name: &OsStr) -> Result<()> {
        self.values.set_backing(text(name)?)
    }

    /// Sets the format of the backing file.
    ///
    /// # Errors
    /// As [`Self::set_backing`].
    pub(super) fn set_backing_format(&mut self, format: &str) -> Result<()> {
        self.values.set_backing_format(format)
    }

    /// The backing file as it will be recorded, and its format.
    pub(super) fn backing(&self) -> Option<(&str, Option<&str>)> {
        Some((self.values.backing()?, self.values.backing_format()))
    }

    /// Whether its space is reserved when it is made.
    pub(super) fn is_preallocated(&self) -> bool {
        self.values.preallocation().is_ok_and(|mode| mode != Preallocation::Off)
    }

    /// Bytes of its clusters, if it has such.
    pub(super) fn cluster_bytes(&self) -> Option<u64> {
        (self.format == Format::Qcow2)
            .then(|| self.values.to_qcow2().ok().map(|options| options.cluster_bytes))?
    }

    /// Makes it where `name` says, for a disk of `len_bytes`. `in_use`: files that it must not be.
    ///
    /// # Errors
    /// What the format does not take, before anything is touched; those of the operating system.
    pub(super) async fn make(
        &mut self,
        tool: &Tool,
        name: &OsStr,
        len_bytes: u64,
        in_use: &BTreeSet<FileId>,
    ) -> Result<()> {
        let target = Target::named(name)?;
        self.values.replace_size(len_bytes)?;
        self.values.check_support()?;
        target.refuse_overlap(tool.local(), in_use).await?;
        match target {
            Target::File(path) => write::image(tool.local(), &path, self.format, &self.values, in_use).await,
            Target::Node(name) => write::at_node(tool, &name, self.format, &self.values, in_use).await,
        }
    }
}

fn formatting(file: &OsStr, format: Format, values: &Values) -> Vec<u8> {
    let mut line = b"Formatting '".to_vec();
    line.extend_from_slice(file.as_bytes());
    line.extend_from_slice(format!("', fmt={} {}\n", format.name(), values.to_words()).as_bytes());
    line
}

/// Opens the backing chain as far as its headers, takes its length as the new image's unless there is one, and returns
/// which files are in it.
async fn look_at_backing(
    local: &LocalRef,
    request: &Request,
    file: &OsStr,
    values: &mut Values,
) -> Result<BTreeSet<FileId>> {
    let Some(recorded) = values.backing().map(str::to_owned) else { return Ok(BTreeSet::new()) };
    if recorded.is_empty() {
        return Err(Error::new(Kind::InvalidInput, "the name of the backing file is empty"));
    }
    if file.as_bytes() == recorded.as_bytes() {
        return Err(Error::new(Kind::InvalidInput, "the image cannot be its own backing file"));
    }
    let format = values.backing_format().map(str::to_owned);
    if request.is_unsafe {
        return if format.is_some() { Ok(BTreeSet::new()) } else { Err(no_backing_format(None)) };
    }
    let folder = Path::new(file).parent();
    let full = drystone_blockdev::name::resolve(OsStr::new(&recorded), folder)?;
    let because = |cause: Error| {
        Error::new(Kind::InvalidInput, "cannot open the backing file (-u creates the image all the same)")
            .because(cause)
    };
    let spec = Spec::of_name(full.as_os_str(), format.as_deref()).map_err(because)?;
    let mut chain = Chain::new(local, spec, true);
    while let Some(image) = chain.next().await.map_err(because)? {
        if format.is_none() {
            return Err(no_backing_format(Some(image.format())));
        }
        values.set_default_size(image.len_guest);
    }
    Ok(chain.into_files())
}

fn no_backing_format(found: Option<&str>) -> Error {
    let found = found.map(|found| format!("; it looks like {found}")).unwrap_or_default();
    Error::new(Kind::InvalidInput, format!("the format of the backing file must be given (-F){found}"))
}
