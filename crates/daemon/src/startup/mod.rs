//! The start: the options of the command line are carried out one after the other, in their order.
//!
//! An option sees what those in front of it have made, and nothing of those behind it. The first that fails ends the
//! start, and what was made by then is taken down. `--daemonize` and `--pidfile` are about the whole start, wherever they
//! stand.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use drystone_qmp::keyval;
use drystone_qmp::schema::Qapi;
use drystone_qmp::schema::types::blockdev::BlockdevOptions;
use drystone_qmp::schema::types::export::{BlockExportOptions, NbdServerOptions};
use drystone_qmp::schema::types::monitor::{MonitorMode, MonitorOptions};
use drystone_qmp::schema::types::object::ObjectOptions;

use crate::args::{Given, Opt};
use crate::command::{export, node, object};
use crate::daemon::Daemon;
use crate::error::of_qmp;
use crate::main_loop::Terminal;
use crate::monitor;
use crate::monitor::chardev::{Backend, Chardev, Source};
use crate::objects::PROPERTIES;

/// What the options say of the process.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    /// Where the number of the process is written to.
    pub(crate) pid_file: Option<PathBuf>,
    /// It goes into the background.
    pub(crate) is_daemon: bool,
}

/// What the options say of the process.
pub(crate) fn process(options: &[Given]) -> Process {
    let mut process = Process::default();
    for given in options {
        match given.option {
            Opt::Pidfile => process.pid_file = Some(given.value.clone().into()),
            Opt::Daemonize => process.is_daemon = true,
            _ => {}
        }
    }
    process
}

/// What an option that asks for help is answered; the process ends then.
pub(crate) fn help(given: &Given) -> Option<String> {
    if !keyval::asks_for_help(&given.value) {
        return None;
    }
    match given.option {
        Opt::Object if given.value.starts_with("iothread") => {
            let mut names: Vec<&str> = PROPERTIES.iter().map(|property| property.name).collect();
            names.sort_unstable();
            let lines = names.iter().map(|name| format!("  {name}=<int>\n"));
            Some(std::iter::once("iothread options:\n".to_owned()).chain(lines).collect())
        }
        Opt::Object if matches!(&*given.value, "help" | "?") => {
            Some("List of user creatable objects:\n  iothread\n".to_owned())
        }
        Opt::Chardev if matches!(&*given.value, "help" | "?") => {
            Some("Available chardev backend types: \n  stdio\n  socket\n  null\n".to_owned())
        }
        _ => None,
    }
}

/// Carries out options.
pub(crate) struct Startup<'d> {
    daemon: &'d Rc<Daemon>,
    terminal: &'d Terminal,
    is_daemon: bool,
    /// Those that no monitor has taken; `None` once one has.
    chardevs: BTreeMap<String, Option<Source>>,
    /// Monitors whose clients are served once everything is set up, and whether they are told prettily.
    monitors: Vec<(Source, bool)>,
}

impl<'d> Startup<'d> {
    /// Nothing has been carried out yet.
    pub(crate) fn new(daemon: &'d Rc<Daemon>, terminal: &'d Terminal, is_daemon: bool) -> Self {
        Self { daemon, terminal, is_daemon, chardevs: BTreeMap::new(), monitors: Vec::new() }
    }

    /// Carries out one option.
    ///
    /// # Errors
    /// Whatever keeps it from being carried out.
    pub(crate) async fn carry_out(&mut self, given: &Given) -> Result<()> {
        let daemon = self.daemon;
        match given.option {
            Opt::Blockdev => {
                let typed: BlockdevOptions = parse(given, Some("driver"))?;
                node::add_node(daemon, &typed).await
            }
            Opt::Object => {
                let typed: ObjectOptions = parse(given, Some("qom-type"))?;
                object::add(daemon, typed).map(drop).map_err(|error| of_qmp(&error))
            }
            Opt::NbdServer => {
                let typed: NbdServerOptions = parse(given, None)?;
                export::start(daemon, typed).await
            }
            Opt::Export => {
                let typed: BlockExportOptions = parse(given, Some("type"))?;
                export::add_export(daemon, typed).await
            }
            Opt::Chardev => self.chardev(Chardev::parse(&given.value)?, &given.shown).await,
            Opt::Monitor => self.monitor(parse(given, Some("chardev"))?),
            Opt::Pidfile | Opt::Daemonize | Opt::Trace | Opt::Help | Opt::Version => Ok(()),
        }
    }

    async fn chardev(&mut self, chardev: Chardev, shown: &str) -> Result<()> {
        let Chardev { id, backend } = chardev;
        if self.chardevs.contains_key(&id) {
            let text = format!("there is a character device '{id}' already");
            return Err(Error::new(Kind::AlreadyExists, text));
        }
        let mut lane = Lane::new(self.daemon.local.clone());
        let (kind, source) = match backend {
            Backend::Null => ("chardev-null", Source::Once(None)),
            Backend::Stdio if self.is_daemon => {
                let text = "a process in the background has no standard input and output";
                return Err(Error::new(Kind::InvalidInput, text));
            }
            Backend::Stdio => ("chardev-stdio", Source::Once(Some(self.terminal.stdio()?))),
            Backend::Socket(socket) => {
                let waits = socket.waits;
                let mut source = socket.open(&self.daemon.network, &mut lane).await?;
                if waits {
                    self.terminal.complain(&format!("{shown}: waiting for a connection"));
                    source.wait(self.daemon, &mut lane).await?;
                }
                ("chardev-socket", source)
            }
        };
        self.daemon.monitors.add_chardev(&id, kind);
        self.chardevs.insert(id, Some(source));
        Ok(())
    }

    fn monitor(&mut self, typed: MonitorOptions) -> Result<()> {
        if typed.mode == Some(MonitorMode::Readline) {
            let text = "only monitors that speak QMP are supported";
            return Err(Error::new(Kind::Unsupported, text).in_option("mode"));
        }
        let name = &typed.chardev;
        let slot = self
            .chardevs
            .get_mut(name)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("there is no character device '{name}'")))?;
        let source = slot.take().ok_or_else(|| {
            Error::new(Kind::InUse, format!("character device '{name}' has a monitor already"))
        })?;
        self.monitors.push((source, typed.pretty == Some(true)));
        Ok(())
    }

    /// Everything is set up: clients are served.
    pub(crate) fn finish(self) {
        for (source, is_pretty) in self.monitors {
            monitor::start(self.daemon, source, is_pretty);
        }
    }
}

fn parse<T: Qapi>(given: &Given, implied: Option<&str>) -> Result<T> {
    keyval::parse(&given.value, implied).map_err(|error| of_qmp(&error))
}
