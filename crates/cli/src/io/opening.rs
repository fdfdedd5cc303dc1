//! The commands that open, close and reopen the image.

use std::ffi::OsString;
use std::rc::Rc;

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::draft::change;
use drystone_blockdev::given::Given;
use drystone_blockdev::name::{self, Name};
use drystone_blockdev::options::Options;
use drystone_blockdev::request::{BackingChoice, OpenRequest, ProbedRaw, Source};
use drystone_blockdev::settings::Settings;
use drystone_core::control::Task;
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_protocol::file::{Aio, Discard};
use serde_json::Value;

use super::image::{Image, Wish, with_options};
use super::session::{Fault, Session};
use super::words::Words;
use crate::args::list;
use crate::args::number::parse_switch;
use crate::tool::image::CacheMode;

/// How an image is to be opened, as the command line of the program or of `open` says it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manner {
    pub(super) is_read_only: bool,
    pub(super) is_snapshot: bool,
    pub(super) is_copy_on_read: bool,
    pub(super) force_share: bool,
    pub(super) cache: CacheMode,
    /// What becomes of discards. The tool passes them on.
    pub(super) ignores_discards: bool,
    pub(super) aio: Aio,
}

impl Manner {
    /// Sets what a letter of the command line says; both have the same.
    ///
    /// # Errors
    /// A value without a meaning.
    pub(super) fn set(&mut self, letter: char, value: &str) -> Result<()> {
        let invalid = |what: &str| Err(Error::new(Kind::InvalidInput, format!("'{value}' is no {what}")));
        match letter {
            'r' => self.is_read_only = true,
            's' => self.is_snapshot = true,
            'C' => self.is_copy_on_read = true,
            'U' => self.force_share = true,
            'n' => self.cache = CacheMode { is_direct: true, is_writethrough: false, ..self.cache },
            'k' => self.aio = Aio::Native,
            'i' => match value {
                "threads" => self.aio = Aio::Threads,
                "native" => self.aio = Aio::Native,
                "io_uring" => self.aio = Aio::IoUring,
                _ => return invalid("way to do I/O: threads, native or io_uring"),
            },
            't' => match CacheMode::named(value) {
                Some(cache) => self.cache = cache,
                None => return invalid("cache mode"),
            },
            'd' => match value {
                "ignore" | "off" => self.ignores_discards = true,
                "unmap" | "on" => self.ignores_discards = false,
                _ => return invalid("way to treat discards: ignore or unmap"),
            },
            _ => {}
        }
        Ok(())
    }

    /// What is to be opened.
    pub(super) fn wish(self, source: Source, format: Option<String>, user: &'static str) -> Wish {
        let mut request = OpenRequest::of(source);
        request.format = format;
        request.backing = BackingChoice::AsRecorded;
        request.probed_raw = ProbedRaw::Guard;
        request.settings = Settings {
            read_only: self.is_read_only,
            force_share: self.force_share,
            cache_direct: self.cache.is_direct,
            cache_no_flush: self.cache.no_flush,
            discard: if self.ignores_discards { Discard::Ignore } else { Discard::Unmap },
            aio: self.aio,
            ..Settings::default()
        };
        let (is_snapshot, is_copy_on_read) = (self.is_snapshot, self.is_copy_on_read);
        Wish { request, cache: self.cache, is_snapshot, is_copy_on_read, user }
    }
}

/// Options as command lines write them; one without a value is switched on, or off if `no` comes before it.
///
/// # Errors
/// Keys that exclude each other.
pub(super) fn parse_options(text: &str) -> Result<Options> {
    let mut options = Options::default();
    for (key, value) in list::split(text) {
        match (value, key.strip_prefix("no")) {
            (Some(value), _) => options.set(&key, Value::String(value))?,
            (None, Some(key)) => options.set(key, "off")?,
            (None, None) => options.set(&key, "on")?,
        }
    }
    Ok(options)
}

pub(super) async fn open(session: &mut Session<'_>, words: &Words) -> Result<(), Fault> {
    let mut manner = Manner::default();
    for letter in ['r', 's', 'C', 'U', 'n', 'k', 'i', 't', 'd'] {
        for value in words.values(letter) {
            manner.set(letter, value)?;
        }
    }
    let mut options: Option<Options> = None;
    for text in words.values('o') {
        let more = parse_options(text)?;
        options = Some(match options {
            Some(options) => with_options(&options, &more)?,
            None => more,
        });
    }
    let path = match &words.free[..] {
        [] if options.is_some() => None,
        [path] => Some(path),
        _ => return Err(Fault::Usage),
    };
    let source = match (path, session.opens_options) {
        (Some(path), true) => {
            Source::Options(with_options(&parse_options(path)?, &options.unwrap_or_default())?)
        }
        (path, _) => source(path, options)?,
    };
    open_wish(session, manner.wish(source, None, session.user())).await
}

/// Opens what is wished, unless something is open.
///
/// # Errors
/// Those of opening.
pub(super) async fn open_wish(session: &mut Session<'_>, wish: Wish) -> Result<(), Fault> {
    if session.image.is_some() {
        return Err(Fault::Complain("file open already, try 'help close'".into()));
    }
    session.image = Some(Image::open(session.tool, wish).await?);
    Ok(())
}

/// A name and options of the image together.
fn source(path: Option<&String>, options: Option<Options>) -> Result<Source> {
    match (path, options) {
        (Some(path), None) => Ok(Source::Name(OsString::from(path))),
        (None, options) => Ok(Source::Options(options.unwrap_or_default())),
        (Some(path), Some(options)) => {
            let named = match name::parse(path.as_ref())? {
                Name::Options(named) => named,
                Name::Node(file) => {
                    let mut named = Options::default();
                    named.set_nested("file", file)?;
                    named
                }
                Name::Path { path, driver } => {
                    let mut named = Options::default();
                    named.set("file.filename", path.to_string_lossy().into_owned())?;
                    if let Some(driver) = driver {
                        named.set("file.driver", driver)?;
                    }
                    named
                }
            };
            Ok(Source::Options(with_options(&named, &options)?))
        }
    }
}

/// Waits for what is in flight and closes the image.
pub(super) async fn close(session: &mut Session<'_>) -> Result<(), Fault> {
    session.settle().await?;
    match session.image.take() {
        Some(image) => Ok(image.close(session.tool).await?),
        None => Ok(()),
    }
}

pub(super) async fn reopen(session: &mut Session<'_>, words: &Words) -> Result<(), Fault> {
    let complain = |text: &str| Err(Fault::Complain(text.to_owned()));
    let is_read_only = match (words.count('r'), words.count('w')) {
        (0, 0) => None,
        (1, 0) => Some(true),
        (0, 1) => Some(false),
        _ => return complain("only one of -r and -w can be given, and once"),
    };
    let cache = match words.value('c') {
        None => None,
        Some(name) => match CacheMode::named(name) {
            None => return Err(Fault::Complain(format!("'{name}' is no cache mode"))),
            mode => mode,
        },
    };
    if !words.free.is_empty() {
        return Err(Fault::Usage);
    }
    let options = words.value('o').map(parse_options).transpose()?.unwrap_or_default();
    let flat = options.flat();
    if is_read_only.is_some() && ["read-only", "auto-read-only"].iter().any(|key| flat.contains_key(*key)) {
        return complain("-r and -w exclude the option 'read-only'");
    }
    if cache.is_some() && flat.keys().any(|key| key.starts_with("cache.")) {
        return complain("-c excludes the options of the cache");
    }
    session.settle().await?;
    let (tool, image) = (session.tool, session.image.as_mut());
    let Some(image) = image else { return Err(Fault::Silent) };
    if is_read_only == Some(true) {
        image.give_up_writing(tool).await?;
    }
    let change = Change { node: image.node, is_read_only, cache: cache.unwrap_or(image.cache), options };
    change.apply(session).await
}

/// What a reopening changes.
struct Change {
    node: NodeId,
    is_read_only: Option<bool>,
    cache: CacheMode,
    options: Options,
}

impl Change {
    async fn apply(self, session: &mut Session<'_>) -> Result<(), Fault> {
        let (opener, cache) = (session.tool.opener().clone(), self.cache);
        let reopen = session.tool.on_control(async move |task| {
            let wanted = self.wanted(task)?;
            change(task, &opener, async |draft, task| draft.reopen_node(task, self.node, wanted)).await
        });
        reopen.await?;
        if let Some(image) = session.image.as_mut() {
            image.cache = cache;
        }
        Ok(())
    }

    /// All options of the node: what it was given, and what is different now.
    fn wanted(&self, task: &Task<'_>) -> Result<Options> {
        let gone = || Error::new(Kind::NotFound, "the image has gone");
        let (given, node, children) = task.gs().with(|graph| {
            let node = graph.node_handle(self.node).ok_or_else(gone)?;
            let name = |key| Some(graph.node_handle(graph.child(self.node, key)?)?.name().to_owned());
            let children = [("file", name(ChildKey::File)), ("backing", name(ChildKey::Backing))];
            Ok::<_, Error>((Given::of(graph, self.node), node, children))
        })?;
        let given: Rc<Given> = given.ok_or_else(|| {
            Error::new(Kind::Unsupported, "it was not opened by options, and cannot be reopened")
        })?;
        let mut said = Options::default();
        let switch = |on: bool| if on { "on" } else { "off" };
        said.set("read-only", switch(self.is_read_only.unwrap_or_else(|| node.is_read_only())))?;
        said.set("cache.direct", switch(self.cache.is_direct))?;
        said.set("cache.no-flush", switch(self.cache.no_flush))?;
        said.set("discard", if given.settings.discard == Discard::Ignore { "ignore" } else { "unmap" })?;
        if given.settings.force_share {
            said.set("force-share", "on")?;
        }
        for (key, name) in children {
            if let Some(name) = name.filter(|_| !self.options.has(key)) {
                said.set(key, name)?;
            }
        }
        let mut wanted = with_options(&with_options(&given.explicit, &said)?, &self.options)?;
        // A switch may be written in four ways, and a comparison knows one.
        if let Some(on) = self.options.flat().get("read-only").and_then(|text| parse_switch(text)) {
            wanted = wanted.without(&["read-only"]);
            wanted.set("read-only", switch(on))?;
        }
        Ok(wanted)
    }
}
