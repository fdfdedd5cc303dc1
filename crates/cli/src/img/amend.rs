//! `img amend`: options of an image that can be changed after it was made.
//!
//! ```text
//!  version up ─► width of refcounts ─► data file raw ─► lazy refcounts ─► size ─► name of the data file ─► version down
//!                                                                       each durable before the next begins
//! ```
//! A step that changes how the image is to be read ends with the image being closed, and the next one opens it again. So
//! after a failure in the middle the image is whole, with the steps before it done.
//!
//! Not here: how a format changes.

use std::ffi::OsString;

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::backing;
use drystone_core::disk::Preallocation;
use drystone_core::driver::Amendment;
use drystone_format::qcow2::Header;
use drystone_format::qcow2::driver::Qcow2;
use drystone_format::qcow2::header::Version;

use super::line::{self, Line, PROGRESS, QUIET, cache_mode};
use super::{Console, Failure, options};
use crate::args::getopt::Flag;
use crate::args::list;
use crate::args::number::{parse_number, parse_size, parse_switch};
use crate::tool::image::{CacheMode, ImageArgs};
use crate::tool::{self, Load, Tool};

const FLAGS: &[Flag] = &[
    options::HELP,
    QUIET,
    PROGRESS,
    options::FORMAT,
    options::IMAGE_OPTS,
    Flag::value(Some('t'), "cache"),
    Flag::value(Some('o'), "options"),
    Flag::switch(None, "force"),
    options::OBJECT,
];

const HELP: &str = "\
Changes options of an image.

  amend [OPTION...] -o OPTIONS IMAGE

  -o, --options OPTIONS   a list KEY=VALUE,...; '-o help' shows what can be changed
  -f, --format FORMAT     of IMAGE; without it, the first bytes decide
      --image-opts        IMAGE is a list of options: driver=qcow2,file.filename=PATH
  -t, --cache MODE        how the page cache is used: none, writeback, unsafe, directsync or writethrough
      --force             accepted; concerns encrypted images only
  -p, --progress          show how far it is
  -q, --quiet             print errors only
      --object OBJECT     a secret
  -h, --help              this text
";

/// What `-o help` lists.
const OPTIONS: &[(&str, &str)] = &[
    ("backing_file=<str>", "cannot be changed here, see rebase"),
    ("backing_fmt=<str>", "cannot be changed here, see rebase"),
    ("compat=<str>", "version of the format: 1.1 (v3) or 0.10 (v2)"),
    ("data_file=<str>", "another name of the external data file"),
    ("data_file_raw=<bool (on/off)>", "off: the data file need not be a raw image any more"),
    ("encrypt.iter-time=<num>", "not supported yet"),
    ("encrypt.keyslot=<num>", "not supported yet"),
    ("encrypt.new-secret=<str>", "not supported yet"),
    ("encrypt.old-secret=<str>", "not supported yet"),
    ("encrypt.state=<str>", "not supported yet"),
    ("lazy_refcounts=<bool (on/off)>", "writers may postpone refcounts"),
    ("refcount_bits=<num>", "bits of a refcount, a power of two up to 64"),
    ("size=<size>", "bytes of the disk"),
];

/// What is to become of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wish {
    version: Option<Version>,
    refcount_bits: Option<u64>,
    lazy_refcounts: Option<bool>,
    len: Option<u64>,
    backing_name: Option<String>,
    backing_format: Option<String>,
    data_file: Option<String>,
    data_file_raw: Option<bool>,
}

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let (mut lists, mut cache) = (Vec::new(), CacheMode::default());
    let line = Line::read("amend", FLAGS, args, |name, value| {
        match name {
            "cache" => cache = cache_mode(name, value)?,
            "options" => lists.push(options::text(value)?.to_owned()),
            _ => {}
        }
        Ok(())
    })?;
    let Some(line) = line else {
        console.print(HELP);
        return Ok(0);
    };
    if lists.is_empty() {
        return Err(line.usage("what to change is missing (-o)"));
    }
    if let Some(bad) = lists.iter().find(|text| !list::is_joinable(text)) {
        return Err(Error::new(Kind::InvalidInput, format!("'{bad}' is no list of options")).into());
    }
    let wanted = lists.join(",");
    let asks_for_help = list::asks_for_help(&wanted);
    if let (true, Some(format)) = (asks_for_help, &line.format) {
        print_options(format, console)?;
        return Ok(0);
    }
    let image = ImageArgs { cache, ..line.only_image()? };
    let show = line.shows_progress();
    let format = tool::run(line::start(console, Load::Small), async |tool: &Tool| {
        let done = async {
            let format = format_of(tool, &image).await?;
            if !asks_for_help {
                demand_amendable(&format)?;
                amend(tool, &image, &parse(&wanted)?, show).await?;
            }
            Ok(format)
        };
        done.await.map_err(|error: Error| error.at_path(&image.name))
    })?;
    if asks_for_help {
        print_options(&format, console)?;
    }
    Ok(0)
}

fn print_options(format: &str, console: &mut Console) -> Result<()> {
    demand_amendable(format)?;
    console.print(format!("Amend options for '{format}':\n"));
    for (option, about) in OPTIONS {
        console.print(format!("  {option:<22} - {about}\n"));
    }
    Ok(())
}

fn demand_amendable(format: &str) -> Result<()> {
    if format == "qcow2" {
        return Ok(());
    }
    Err(Error::new(Kind::Unsupported, format!("images in format '{format}' cannot be amended")))
}

async fn format_of(tool: &Tool, image: &ImageArgs) -> Result<String> {
    let disk = tool.open_reader(&ImageArgs { force_share: true, ..image.clone() }).await?;
    let node = disk.node;
    let format = tool.on_control(async move |task| {
        let name = |graph: &drystone_core::control::GraphView<'_>| {
            graph.views().find(|view| view.id() == node).map(|view| view.node().driver().format_name())
        };
        Ok(task.gs().with(name).unwrap_or_default().to_owned())
    });
    let format = format.await?;
    tool.close(disk).await?;
    Ok(format)
}

fn parse(text: &str) -> Result<Wish> {
    let mut wish = Wish::default();
    for (key, value) in list::split(text) {
        let bad = |text: String| Error::new(Kind::InvalidInput, text).in_option(&key);
        let (key, value) = match (value, key.strip_prefix("no")) {
            (Some(value), _) => (key.as_str(), value),
            (None, Some(positive)) => (positive, "off".to_owned()),
            (None, None) => (key.as_str(), "on".to_owned()),
        };
        let switch =
            || parse_switch(&value).ok_or_else(|| bad(format!("'{value}' is neither 'on' nor 'off'")));
        match key {
            "compat" => {
                let version = Version::from_compat(&value);
                wish.version = Some(version.ok_or_else(|| bad(format!("there is no '{value}'")))?);
            }
            "refcount_bits" => {
                let bits = parse_number(&value).map_err(|_| bad(format!("'{value}' is no number")))?;
                wish.refcount_bits = Some(bits);
            }
            "lazy_refcounts" => wish.lazy_refcounts = Some(switch()?),
            "size" => wish.len = Some(parse_size(&value).map_err(|_| bad(format!("'{value}' is no size")))?),
            "backing_file" => wish.backing_name = Some(value),
            "backing_fmt" => wish.backing_format = Some(value),
            "data_file_raw" => wish.data_file_raw = Some(switch()?),
            "data_file" => wish.data_file = Some(value),
            _ if OPTIONS.iter().any(|(option, _)| option.split('=').next() == Some(key)) => {
                let text = "encrypted images are not supported yet";
                return Err(Error::new(Kind::Unsupported, text).in_option(key));
            }
            _ => return Err(bad("an image that exists has no such option".into())),
        }
    }
    wish.demand_sense()?;
    Ok(wish)
}

impl Wish {
    fn demand_sense(&self) -> Result<()> {
        let is_v2 = self.version == Some(Version::V2);
        let no = |option: &str| {
            let text = "it needs version 3 of the format (compat=1.1)";
            Err(Error::new(Kind::InvalidInput, text).in_option(option))
        };
        match self.refcount_bits {
            Some(bits) if is_v2 && bits != 16 => no("refcount_bits"),
            _ => Ok(()),
        }
    }

    /// Another backing file is the business of another command. Whoever says the name that it has says the format, too.
    fn demand_backing(&self, header: &Header) -> Result<()> {
        if self.backing_name.is_none() && self.backing_format.is_none() {
            return Ok(());
        }
        let is = |wanted: &Option<String>, has: Option<&[u8]>| {
            wanted.as_ref().is_some_and(|wanted| Some(wanted.as_bytes()) == has)
        };
        let format = header.extensions().backing_format();
        if !is(&self.backing_name, header.backing_name()) || !is(&self.backing_format, format) {
            let text = "the backing file is changed by 'rebase'";
            return Err(Error::new(Kind::Unsupported, text).in_option("backing_file"));
        }
        Ok(())
    }

    /// What concerns an external data file is refused before anything is changed.
    fn demand_data_file(&self, header: &Header) -> Result<()> {
        let no = |option: &str, text: &str| Err(Error::new(Kind::Unsupported, text).in_option(option));
        if self.data_file_raw == Some(true) && !header.is_data_raw() {
            return no("data_file_raw", "it cannot be switched on for an image that exists");
        }
        if self.data_file.is_some() && !header.l2().has_data_file() {
            return no("data_file", "the image has no external data file");
        }
        Ok(())
    }

    /// The steps for an image that is of `version`, and which of them take another opening.
    fn steps(&self, version: Version) -> Vec<Step> {
        let upgrades = self.version == Some(Version::V3) && version == Version::V2;
        let downgrades = self.version == Some(Version::V2) && version == Version::V3;
        let steps = [
            upgrades.then_some(Step::Amend(Amendment::Version(3))),
            self.refcount_bits.map(|bits| Step::Amend(Amendment::RefcountBits(bits))),
            self.data_file_raw.map(|is_on| Step::Amend(Amendment::DataFileRaw(is_on))),
            // Version 2 has no such bit.
            if downgrades { Some(false) } else { self.lazy_refcounts }
                .map(|is_on| Step::Amend(Amendment::LazyRefcounts(is_on))),
            // As release 10.0 of the C tool has it, no bytes are no wish.
            self.len.filter(|len| *len > 0).map(Step::Resize),
            // The other file is not looked at, so all that has to be done to the data comes before.
            self.data_file
                .as_ref()
                .map(|name| Step::Amend(Amendment::DataFileName(name.as_bytes().to_vec()))),
            downgrades.then_some(Step::Amend(Amendment::Version(2))),
        ];
        steps.into_iter().flatten().collect()
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Amend(Amendment),
    Resize(u64),
}

async fn amend(tool: &Tool, image: &ImageArgs, wish: &Wish, show: bool) -> Result<()> {
    if show {
        tool.progress().show();
    }
    let header = header_of(tool, image).await?;
    wish.demand_backing(&header)?;
    wish.demand_data_file(&header)?;
    let steps = wish.steps(header.version());
    let count = steps.len() as u64;
    for (done, step) in (1..).zip(steps) {
        take(tool, image, step).await?;
        tool.progress().set(done, count);
    }
    tool.progress().finish();
    Ok(())
}

async fn header_of(tool: &Tool, image: &ImageArgs) -> Result<Header> {
    let disk = tool.open_writer(image, true).await?;
    let node = disk.node;
    let header = tool.on_control(async move |task| {
        let header = task.gs().with(|graph| {
            let view = graph.views().find(|view| view.id() == node)?;
            Some(view.node().driver_as::<Qcow2>()?.header_now())
        });
        header.ok_or_else(|| Error::new(Kind::Unsupported, "the image is not one of format 'qcow2'"))
    });
    let header = header.await?;
    tool.close(disk).await?;
    Ok(header)
}

async fn take(tool: &Tool, image: &ImageArgs, step: Step) -> Result<()> {
    let disk = tool.open_writer(image, true).await?;
    match step {
        Step::Resize(len) => {
            tool.lane().enter(&disk.backend).await.resize(len, Preallocation::Off).await?;
        }
        Step::Amend(what) => {
            let node = disk.node;
            tool.on_control(async move |task| backing::amend(task, node, what).await).await?;
        }
    }
    tool.close(disk).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_change_first_upwards_and_last_downwards() {
        let steps = |list: &str, version| parse(list).unwrap().steps(version);
        let amend = Step::Amend;
        assert_eq!(
            steps("size=1M,refcount_bits=8,compat=1.1", Version::V2),
            [amend(Amendment::Version(3)), amend(Amendment::RefcountBits(8)), Step::Resize(1 << 20)]
        );
        assert_eq!(
            steps("compat=v2,refcount_bits=16", Version::V3),
            [
                amend(Amendment::RefcountBits(16)),
                amend(Amendment::LazyRefcounts(false)),
                amend(Amendment::Version(2))
            ]
        );
        assert_eq!(steps("compat=v3", Version::V3), []);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (list, name) in [
            ("compat=2", "compat"),
            ("compat=v2,refcount_bits=8", "refcount_bits"),
            ("refcount_bits=x", "refcount_bits"),
            ("cluster_size=4k", "cluster_size"),
            ("size=", "size"),
            ("data_file_raw=x", "data_file_raw"),
            ("encrypt.state=active", "encrypt.state"),
        ] {
            let error = parse(list).unwrap_err().report();
            assert!(error.contains(&format!("option '{name}'")), "{list}: {error}");
        }
        assert_eq!(parse("nodata_file_raw").unwrap().data_file_raw, Some(false));
    }
}
