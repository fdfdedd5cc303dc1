//! [`run`]: from the command line to the exit status; [`run_within`]: the same inside of a process that has threads already.
//!
//! ```text
//!   arguments ─► (background) ─► threads ─► options, one by one ─► pid file ─► parent ends ─► ... quit, signal
//!                                                │ one fails                                       │
//!                                                └──────────► everything is taken down ◄───────────┘
//! ```

use std::cell::Cell;
use std::ffi::OsString;
use std::future::{Future, poll_fn};
use std::io::Write;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use drystone_base::{Error, Kind, Result};
use drystone_core::control::{Control, ControlThread};
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_sys::{
    Background, EngineKind, Forked, Network, Patience, PidFile, Signals, Stdio, Stream, ThreadHandle,
    Threads, go_into_background, time_of_day,
};

use crate::args::{self, Asked, Given};
use crate::command;
use crate::daemon::{Daemon, Surroundings};
use crate::startup::{self, Process, Startup};
use crate::stop;

/// I/O threads that serve exports which name none.
const THREADS_DEFAULT_MAX: usize = 4;
/// I/O threads that objects can have; more objects share them. Users of the graph count per thread, so this is not free.
const THREADS_OF_OBJECTS: u16 = 32;

/// What is run, and for whom.
pub struct Launch {
    /// What the program is called in messages.
    pub name: String,
    /// The arguments behind the name.
    pub args: Vec<OsString>,
    /// Where it prints, and who its `stdio` is.
    pub console: Console,
}

/// Standard input, output and error.
pub enum Console {
    /// Those of the process, whose signals are taken too.
    Process,
    /// Inside of another program: this connection, and somebody who is told what goes wrong.
    Within(Stream, Box<dyn Fn(&str)>),
}

/// The console in use.
pub(crate) struct Terminal {
    name: String,
    is_process: bool,
    stream: Cell<Option<Stream>>,
    stdio: Cell<Option<Stdio>>,
    complain: Complain,
}

/// Who is told what goes wrong.
type Complain = Box<dyn Fn(&str)>;

impl Terminal {
    fn new(name: String, console: Console) -> Self {
        let (stream, complain): (_, Complain) = match console {
            Console::Process => (None, Box::new(|text| drop(std::io::stderr().write_all(text.as_bytes())))),
            Console::Within(stream, complain) => (Some(stream), complain),
        };
        let is_process = stream.is_none();
        Self { name, is_process, stream: Cell::new(stream), stdio: Cell::new(None), complain }
    }

    /// Takes standard input and output.
    ///
    /// # Errors
    /// [`Kind::InUse`] the second time; those of the operating system.
    pub(crate) fn stdio(&self) -> Result<Stream> {
        let taken = || Error::new(Kind::InUse, "standard input and output are in use already");
        if !self.is_process {
            return self.stream.take().ok_or_else(taken);
        }
        let before = self.stdio.take();
        if before.is_some() {
            self.stdio.set(before);
            return Err(taken());
        }
        let (stream, stdio) = Stdio::take()?;
        self.stdio.set(Some(stdio));
        Ok(stream)
    }

    /// Says what is wrong.
    pub(crate) fn complain(&self, text: &str) {
        (self.complain)(&format!("{}: {text}\n", self.name));
    }

    fn print(&self, text: &str) {
        if self.is_process {
            let _ = std::io::stdout().write_all(text.as_bytes());
        }
    }
}

/// Runs the daemon until its end; the exit status.
#[must_use]
pub fn run(launch: Launch) -> u8 {
    let (terminal, options) = match read(launch) {
        Ok(read) => read,
        Err(status) => return status,
    };
    match start(&terminal, options) {
        Ok(status) => status,
        Err(error) => {
            terminal.complain(&error.report());
            1
        }
    }
}

/// Runs the daemon as a task of the thread `local`, where `control` changes the graph, until its end; the exit status. What
/// `around` it is, and what is in the graph already, comes from the caller; what is in the graph is gone at the end.
pub async fn run_within(local: LocalRef, control: Control, around: Surroundings, launch: Launch) -> u8 {
    let (terminal, options) = match read(launch) {
        Ok(read) => read,
        Err(status) => return status,
    };
    let process = startup::process(&options);
    let main = Main { terminal: &terminal, options, process, background: None };
    main.run(local, control, around, None).await
}

/// Takes the command line apart. The exit status, if there is nothing to run.
fn read(launch: Launch) -> Result<(Terminal, Vec<Given>), u8> {
    let Launch { name, args, console } = launch;
    let terminal = Terminal::new(name, console);
    match args::parse(args) {
        Ok(Asked::Help) => {
            terminal.print(&args::help(&terminal.name));
            Err(0)
        }
        Ok(Asked::Version) => {
            let version = command::version();
            let qemu = version.qemu;
            let numbers = format!("{}.{}.{}", qemu.major, qemu.minor, qemu.micro);
            terminal.print(&format!("{} version {numbers} ({})\n", terminal.name, version.package));
            Err(0)
        }
        Ok(Asked::Run(options)) => Ok((terminal, options)),
        Err(text) => {
            terminal.complain(&text);
            Err(1)
        }
    }
}

fn start(terminal: &Terminal, options: Vec<Given>) -> Result<u8> {
    let process = startup::process(&options);
    let mut background = None;
    if process.is_daemon {
        match go_into_background()? {
            Forked::Parent { is_ready } => return Ok(u8::from(!is_ready)),
            Forked::Child(child) => background = Some(child),
        }
    }
    let signals = if terminal.is_process { Some(Signals::take()?) } else { None };
    let default =
        std::thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_DEFAULT_MAX));
    let count = u16::try_from(default + 1).unwrap_or(u16::MAX);
    let count_max = count.saturating_add(THREADS_OF_OBJECTS);
    let mut threads = Threads::start_with_room(count, count_max, EngineKind::Auto)?;
    let handles: Vec<ThreadHandle> = threads.handles().iter().skip(1).cloned().collect();
    let around = Surroundings {
        threads: handles,
        starter: threads.starter(),
        network: Network::os(),
        clock: Arc::new(time_of_day),
    };
    let main = Main { terminal, options, process, background };
    let status = threads.run_here(|local| {
        let (thread, control) = ControlThread::new(local.clone(), count_max);
        local.spawn(Box::pin(thread.run()));
        main.run(local, control, around, signals)
    });
    drop(threads);
    if let Some(stdio) = terminal.stdio.take() {
        stdio.finish();
    }
    Ok(status)
}

/// Everything between the start of the threads and their end.
struct Main<'t> {
    terminal: &'t Terminal,
    options: Vec<Given>,
    process: Process,
    background: Option<Background>,
}

impl Main<'_> {
    async fn run(
        self,
        local: LocalRef,
        control: Control,
        around: Surroundings,
        signals: Option<Signals>,
    ) -> u8 {
        let daemon = Rc::new(Daemon::new(local.clone(), control, around));
        let pump = tell_events(&daemon);
        let terminal = self.terminal;
        let main = self.serve(&daemon);
        match signals {
            None => beside(main, pump).await,
            Some(signals) => {
                let explain = async || terminal.complain(&daemon.waits().await);
                let watch = stop::watch(signals, Lane::new(local.clone()), daemon.stop.clone(), explain);
                let tell = |peer: &str| terminal.complain(&format!("{peer} has not answered for a while"));
                let peers = daemon.opener.network.watch(&local, tell);
                beside(beside(beside(main, pump), watch), peers).await
            }
        }
    }

    async fn serve(mut self, daemon: &Rc<Daemon>) -> u8 {
        let terminal = self.terminal;
        let mut status = 0;
        let mut fail = |text: &str| {
            terminal.complain(text);
            status = 1;
        };
        let mut pid_file = None;
        match self.set_up(daemon).await {
            Ok(SetUp::Runs(file)) => {
                pid_file = file;
                daemon.stop.asked().await;
            }
            Ok(SetUp::Ends) => {}
            Err(text) => fail(&text),
        }
        daemon.stop.ask();
        let servers = &daemon.opener.network;
        let patience = servers.lose_patience(&daemon.local, Patience::OF_SERVICES, || {
            terminal.complain("the connections to servers that have not answered are ended");
        });
        let taken_down = beside(daemon.take_down(), patience).await;
        if let Err(error) = taken_down.and(servers.demand_answered()) {
            fail(&error.report());
        }
        daemon.monitors.close(daemon).await;
        drop(pid_file);
        status
    }

    async fn set_up(&mut self, daemon: &Rc<Daemon>) -> Result<SetUp, String> {
        let mut startup = Startup::new(daemon, self.terminal, self.process.is_daemon);
        for given in std::mem::take(&mut self.options) {
            if let Some(text) = startup::help(&given) {
                self.terminal.print(&text);
                return Ok(SetUp::Ends);
            }
            let carried_out = startup.carry_out(&given).await;
            carried_out.map_err(|error| format!("{}: {}", given.shown, error.report()))?;
        }
        let file = self.process.pid_file.as_deref().map(PidFile::create).transpose();
        let file = file.map_err(|error| error.report())?;
        if let Some(background) = self.background.take() {
            background.ready().map_err(|error| error.report())?;
        }
        startup.finish();
        Ok(SetUp::Runs(file))
    }
}

/// How a start has gone that did not fail.
enum SetUp {
    /// The daemon runs; its number is in this file.
    Runs(Option<PidFile>),
    /// An option has asked for help.
    Ends,
}

/// Hands events to clients as they happen, for as long as it is polled.
async fn tell_events(daemon: &Rc<Daemon>) {
    loop {
        daemon.events.wait().await;
        daemon.monitors.tell(daemon);
    }
}

/// Runs `main` to its end, and `side` as long. `side` is dropped then: it waits for people and events, not for disks.
async fn beside<T>(main: impl Future<Output = T>, side: impl Future<Output = ()>) -> T {
    let (mut main, mut side) = (pin!(main), pin!(side));
    let mut is_over = false;
    poll_fn(|cx| {
        if let Poll::Ready(value) = main.as_mut().poll(cx) {
            return Poll::Ready(value);
        }
        is_over = is_over || side.as_mut().poll(cx).is_ready();
        Poll::Pending
    })
    .await
}
