//! `drystone serve`: disk images over NBD, until told to stop.
//!
//! ```text
//!  thread 0: control    opens disks, changes the graph, listens to signals, keys and the control socket
//!  threads 1..: I/O     NBD connections and their requests
//!  open disks ─> export them ─> print URIs ─> ... ─> close connections, flush ─> close disks ─> exit 0
//! ```
//! | module | what |
//! |---|---|
//! | [`options`] | the command line |
//! | [`disk`], [`overlay`] | opening what is to be served |
//! | [`session`] | the running disks: snapshots, reports |
//! | [`stop`], [`keys`] | who ends or changes a session from outside |
//!
//! Invariants: URIs are printed when clients can connect; exit status 0 means that everything is on disk; nothing in an
//! image's bytes decides that something raw is written to.

pub(crate) mod disk;
mod keys;
mod options;
pub(crate) mod overlay;
mod session;
mod stop;

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::open::Opener;
use drystone_blockdev::policy::BackingPolicy;
use drystone_blockdev::settings::Settings;
use drystone_core::control::{Control, ControlThread, Task};
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_export::nbd::{ExportOptions, Listen, NbdServer, ServerOptions};
use drystone_protocol::file::Discard;
use drystone_sys::{Address, EngineKind, Keys, Listener, Network, Patience, Signals, ThreadHandle, Threads};

use self::disk::{Disk, DiskRequest, Overlay};
use self::options::Discarding;
pub(crate) use self::options::ServeArgs;
use self::session::{Offered, Session};
use self::stop::Stop;
use crate::console;
use crate::monitor::{self, server::Server as Monitor};

/// I/O threads where nobody says how many.
const THREADS_DEFAULT_MAX: usize = 4;

/// Serves until told to stop.
///
/// # Errors
/// Those of opening images and sockets; what could not be flushed or closed at the end.
pub(crate) fn run(args: ServeArgs) -> Result<()> {
    let signals = Signals::take()?;
    let io_threads = args.threads.map_or_else(default_threads, usize::from);
    let shards = u16::try_from(io_threads + 1).unwrap_or(u16::MAX);
    let mut threads = Threads::start(shards, EngineKind::Auto)?;
    let handles: Vec<ThreadHandle> = threads.handles().iter().skip(1).cloned().collect();
    threads.run_here(|local| async move {
        let (thread, control) = ControlThread::new(local.clone(), shards);
        local.spawn(Box::pin(thread.run()));
        let network = Network::os();
        let session = Rc::new(Session::new(control.clone(), opener(&args, &network)));
        let (stop, keys) = (Stop::default(), Rc::<OnceCell<Keys>>::default());
        let restore = {
            let keys = Rc::clone(&keys);
            move || keys.get().map_or((), Keys::give_back)
        };
        let watch = stop::watch((signals, Lane::new(local.clone())), stop.clone(), control.clone(), restore);
        let serving = Serving { local, args, handles, control, session, stop, network, keys };
        beside(serving.run(), watch).await
    })
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_DEFAULT_MAX))
}

/// Runs `main` to its end, and `side` as long. `side` is dropped then: it may wait for people, not for disks.
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

/// Everything that is there from the first image opened to the last one closed.
struct Serving {
    local: LocalRef,
    args: ServeArgs,
    handles: Vec<ThreadHandle>,
    control: Control,
    session: Rc<Session>,
    stop: Stop,
    /// Where servers of disks are.
    network: Network,
    /// Set once the terminal's keys are ours.
    keys: Rc<OnceCell<Keys>>,
}

impl Serving {
    async fn run(self) -> Result<()> {
        let served = beside(self.open_serve_close(), self.mind_servers()).await;
        served.and(self.network.demand_answered())
    }

    async fn open_serve_close(&self) -> Result<()> {
        let served = match self.open_disks().await {
            Ok(()) => self.serve().await,
            Err(error) => Err(error),
        };
        let disks = self.session.end().await;
        served.and(self.on_control(async move |task| close_all(task, disks).await).await)
    }

    /// Tells of servers of disks that do not answer; ends the connections to them some time after the end was asked for.
    async fn mind_servers(&self) {
        let patience = async {
            self.stop.asked().await;
            let tell =
                || console::note("drystone: the connections to servers that have not answered are ended");
            self.network.lose_patience(&self.local, Patience::OF_SERVICES, tell).await;
        };
        let tell = |peer: &str| console::note(format_args!("drystone: {peer} has not answered for a while"));
        beside(patience, self.network.watch(&self.local, tell)).await;
    }

    async fn on_control<T: Send + 'static>(
        &self,
        work: impl for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.control.call(work).await.and_then(|done| done)
    }

    async fn open_disks(&self) -> Result<()> {
        let requests = requests(&self.args)?;
        let names = export_names(&self.args)?;
        for (request, export) in requests.into_iter().zip(names) {
            let (image, opener) = (request.image.clone(), opener(&self.args, &self.network));
            let opened = self.on_control(async move |task| request.open(task, &opener).await).await;
            let disk = opened.map_err(|error| error.at_path(image))?;
            disk.notes.iter().for_each(|note| console::note(format_args!("drystone: {note}")));
            self.session.add(Offered { export, disk, is_busy: false });
        }
        Ok(())
    }

    /// From the first connection to the last.
    async fn serve(&self) -> Result<()> {
        let address = self.address().await?;
        let control_path = self.args.control.clone().unwrap_or_else(|| control_path(&address));
        let monitor = Listener::bind(&Address::Unix(control_path.clone()))?;
        let options = ServerOptions { connections_max: 0, ..ServerOptions::default() };
        let server = NbdServer::bind(&self.handles, Listen::At(address), options)?;
        let (server, exported) = self.export(server).await;
        let exported = match exported.and_then(|()| server.open()) {
            Ok(()) => {
                let run = Rc::clone(&self.session);
                let monitor =
                    Monitor::start(&self.local, monitor, move |request| Rc::clone(&run).run(request));
                self.announce(&server, &control_path);
                self.wait().await;
                monitor.close();
                self.session.settle().await;
                Ok(())
            }
            Err(error) => Err(error),
        };
        exported.and(self.on_control(async move |task| server.stop(task).await).await)
    }

    async fn export(&self, server: NbdServer) -> (NbdServer, Result<()>) {
        let exports = self.session.exports();
        let exported = self.control.call(async move |task: &mut Task<'_>| {
            let mut result = Ok(());
            for (index, (export, top)) in exports.into_iter().enumerate() {
                let node = task.gs().with(|graph| graph.node(top));
                let Some(node) = node else { continue };
                let options = ExportOptions {
                    node: node.name,
                    name: export,
                    writable: !node.read_only,
                    is_default: index == 0,
                    ..ExportOptions::default()
                };
                result = result.and(server.add_export(task, options).await.map(drop));
            }
            (server, result)
        });
        exported.await.expect("the control thread lives as long as its handle")
    }

    async fn address(&self) -> Result<Address> {
        match (&self.args.socket, &self.args.listen) {
            (Some(path), _) => Ok(Address::Unix(path.clone())),
            (None, Some(text)) => tcp_address(&mut Lane::new(self.local.clone()), text).await,
            (None, None) => {
                let name = format!("drystone-{}.sock", std::process::id());
                Ok(Address::Unix(runtime_folder().join(name)))
            }
        }
    }

    /// Tells where everything is: URIs to standard output, one a line, all else to standard error.
    fn announce(&self, server: &NbdServer, control: &Path) {
        let exports = self.session.exports();
        let names = exports.iter().map(|(name, _)| if exports.len() == 1 { "" } else { name });
        let uris: String = names.map(|name| format!("{}\n", server.uri(name))).collect();
        if let Err(error) = console::print(&uris) {
            console::complain(&error);
        }
        console::note(format_args!("control socket: {}", control.display()));
    }

    /// Waits for the end, and follows keys meanwhile.
    async fn wait(&self) {
        if let Some(keys) = Keys::take() {
            console::note(keys::HELP);
            let _ = self.keys.set(keys);
        }
        let keys = self.keys.get();
        beside(self.stop.asked(), keys::follow(keys, &self.local, &self.session, &self.stop)).await;
        if let Some(keys) = keys {
            keys.give_back();
        }
    }
}

async fn close_all(task: &mut Task<'_>, disks: Vec<Disk>) -> Result<()> {
    let mut result = Ok(());
    for mut disk in disks {
        result = result.and(disk.close(task).await);
    }
    result
}

fn opener(args: &ServeArgs, network: &Network) -> Opener {
    let policy = match (&args.backing_below, args.no_backing) {
        (Some(folder), _) => BackingPolicy::OnlyBelow(folder.clone()),
        (None, true) => BackingPolicy::Deny,
        (None, false) => BackingPolicy::Allow,
    };
    Opener { policy, network: network.clone(), ..Opener::trusting() }
}

fn requests(args: &ServeArgs) -> Result<Vec<DiskRequest>> {
    let overlay = match &args.overlay {
        None => Overlay::None,
        Some(_) if args.read_only => {
            let text = "there is nothing to put into an overlay if nobody writes";
            return Err(Error::new(Kind::InvalidInput, text).in_option("overlay"));
        }
        Some(None) => Overlay::Temporary,
        Some(Some(_)) if args.images.len() > 1 => {
            let text = "one file cannot be the overlay of several images";
            return Err(Error::new(Kind::InvalidInput, text).in_option("overlay"));
        }
        Some(Some(file)) => Overlay::File(file.clone()),
    };
    let settings = Settings {
        read_only: args.read_only,
        auto_read_only: !args.read_only,
        cache_direct: args.cache_direct,
        discard: match args.discard {
            Discarding::Unmap => Discard::Unmap,
            Discarding::Ignore => Discard::Ignore,
        },
        ..Settings::default()
    };
    let request = |image: &OsString| DiskRequest {
        image: image.clone(),
        format: args.format.clone(),
        settings,
        overlay: overlay.clone(),
    };
    Ok(args.images.iter().map(request).collect())
}

/// What the exports are called: as said, else as their files, with numbers behind names that occur twice.
fn export_names(args: &ServeArgs) -> Result<Vec<String>> {
    if args.export_name.len() > args.images.len() {
        let text = "there are more names than images";
        return Err(Error::new(Kind::InvalidInput, text).in_option("export-name"));
    }
    let mut taken: BTreeSet<String> = args.export_name.iter().cloned().collect();
    let mut names = args.export_name.clone();
    for image in args.images.iter().skip(names.len()) {
        let file = Path::new(image).file_name().unwrap_or(image).to_string_lossy().into_owned();
        let mut candidates =
            std::iter::once(file.clone()).chain((2_u64..).map(|number| format!("{file}-{number}")));
        names.extend(candidates.find(|name| taken.insert(name.clone())));
    }
    Ok(names)
}

async fn tcp_address(lane: &mut Lane, text: &str) -> Result<Address> {
    if let Ok(address) = text.parse() {
        return Ok(Address::Tcp(address));
    }
    let invalid = || Error::new(Kind::InvalidInput, format!("'{text}' is no ADDR:PORT")).in_option("listen");
    let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
    let port = port.parse().map_err(|_| invalid())?;
    let addresses = Address::resolve(lane, host, port).await?;
    addresses.into_iter().next().ok_or_else(invalid)
}

/// Where sockets of this user belong.
fn runtime_folder() -> PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(std::env::temp_dir, PathBuf::from)
}

/// The control socket that belongs to an NBD socket.
fn control_path(nbd: &Address) -> PathBuf {
    match nbd {
        Address::Unix(path) => monitor::beside(path),
        Address::Tcp(_) => runtime_folder().join(format!("drystone-{}.ctl", std::process::id())),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn args(line: &str) -> ServeArgs {
        Command::parse_from(std::iter::once("serve").chain(line.split(' '))).serve
    }

    #[test]
    fn exports_are_called_like_their_files_and_never_alike() {
        let names = |line| export_names(&args(line)).unwrap().join(" ");
        assert_eq!(names("a/disk.qcow2 b/disk.qcow2 other"), "disk.qcow2 disk.qcow2-2 other");
        assert_eq!(names("a b --export-name b"), "b b-2");
        assert!(export_names(&args("a --export-name b --export-name c")).is_err());
    }

    #[test]
    fn an_overlay_has_a_name_or_none() {
        let overlay = |line| requests(&args(line)).map(|requests| requests[0].overlay.clone());
        assert_eq!(overlay("a").unwrap(), Overlay::None);
        assert_eq!(overlay("--overlay a").unwrap(), Overlay::Temporary);
        assert_eq!(overlay("--overlay=x a").unwrap(), Overlay::File("x".into()));
        assert!(overlay("--overlay=x a b").is_err());
        assert!(overlay("--overlay --read-only a").is_err());
    }
}
