//! A process with a graph, I/O threads and a server, inside the test.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};

use drystone_base::Result;
use drystone_core::control::{Control, ControlThread, NewNode, Opening, Plan, Task};
use drystone_core::driver::NodeFacts;
use drystone_export::nbd::{ExportOptions, Listen, NbdServer, Removal, ServerOptions};
use drystone_sys::{Address, EngineKind, ThreadHandle, Threads};

use crate::disk::{Ram, RamDriver};

/// Waits for a future on a thread that has nothing else to do.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

/// A folder that is gone after the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("drystone-export-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What is served, and by what.
pub(crate) struct Setup {
    pub(crate) engine: EngineKind,
    pub(crate) threads: u16,
    pub(crate) options: ServerOptions,
    pub(crate) is_tcp: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let options = ServerOptions::default();
        Self { engine: EngineKind::Auto, threads: 2, options, is_tcp: false }
    }
}

/// Runs `test` on both engines, as far as the kernel has them.
pub(crate) fn on_both_engines(mut test: impl FnMut(Setup)) {
    for engine in [EngineKind::Uring, EngineKind::Pool] {
        match Threads::start(1, engine) {
            Ok(threads) => drop(threads),
            Err(error) => {
                eprintln!("engine {engine:?} left out: {}", error.report());
                continue;
            }
        }
        eprintln!("engine {engine:?}");
        test(Setup { engine, ..Setup::default() });
    }
}

/// A graph with a server. Dropping it stops the server.
pub(crate) struct Daemon {
    control: Option<Control>,
    server: Option<Arc<NbdServer>>,
    thread: Option<JoinHandle<()>>,
    handles: Vec<ThreadHandle>,
    pub(crate) folder: Folder,
}

impl Daemon {
    pub(crate) fn start(setup: Setup) -> Self {
        let (control, handles, thread) = start_threads(setup.engine, setup.threads);
        let folder = Folder::new();
        let address = if setup.is_tcp {
            Address::Tcp("127.0.0.1:0".parse().unwrap())
        } else {
            Address::Unix(folder.path("nbd.sock"))
        };
        let server = NbdServer::start(&handles, Listen::At(address), setup.options).unwrap();
        Self { control: Some(control), server: Some(Arc::new(server)), thread: Some(thread), handles, folder }
    }

    /// The I/O threads, the control thread first.
    pub(crate) fn threads(&self) -> &[ThreadHandle] {
        &self.handles
    }

    /// A server with a disk of `len` bytes, exported writable as `disk` and as the default.
    pub(crate) fn with_disk(setup: Setup, len: u64) -> (Self, Ram) {
        let daemon = Self::start(setup);
        let ram = daemon.add_disk("disk", len);
        daemon.export(ExportOptions { is_default: true, ..writable("disk") }).unwrap();
        (daemon, ram)
    }

    pub(crate) fn server(&self) -> &Arc<NbdServer> {
        self.server.as_ref().unwrap()
    }

    pub(crate) fn address(&self) -> Address {
        self.server().address().clone()
    }

    /// The URI of an export, as the tools take it.
    pub(crate) fn uri(&self, export: &str) -> String {
        self.server().uri(export).to_string()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        match self.address() {
            Address::Unix(path) => path,
            Address::Tcp(_) => panic!("a server on TCP"),
        }
    }

    /// Runs `work` as a control task, and waits for it.
    pub(crate) fn call<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) -> T + Send + 'static,
    {
        wait(self.control().call(work)).unwrap()
    }

    pub(crate) fn control(&self) -> &Control {
        self.control.as_ref().unwrap()
    }

    /// A node with a disk in memory.
    pub(crate) fn add_disk(&self, name: &str, len: u64) -> Ram {
        let ram = Ram::new(len);
        self.add_node(
            name,
            RamDriver(ram.clone()),
            NodeFacts { len, request_alignment: 1, read_only: false },
        );
        ram
    }

    pub(crate) fn add_node(&self, name: &str, driver: impl drystone_core::driver::Driver, facts: NodeFacts) {
        let name = Some(name.to_owned());
        let driver = Box::new(driver);
        let node = NewNode { name, driver, facts, children: vec![], owned: true, force_share: false };
        self.call(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            opening.add(node).unwrap();
            let mut plan = Plan::new();
            plan.insert(opening);
            task.apply(plan).await.unwrap();
        });
    }

    pub(crate) fn export(&self, options: ExportOptions) -> Result<()> {
        let server = Arc::clone(self.server());
        self.call(async move |task: &mut Task<'_>| server.add_export(task, options).await.map(drop))
    }

    pub(crate) fn unexport(&self, name: &str, removal: Removal) -> Result<()> {
        let (server, name) = (Arc::clone(self.server()), name.to_owned());
        self.call(async move |task: &mut Task<'_>| server.remove_export(task, &name, removal).await)
    }

    /// Stops the server and waits for it.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let server = self.server.take().unwrap();
        self.call(async move |task: &mut Task<'_>| server.stop(task).await)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        if self.server.is_some() {
            self.stop().unwrap();
        }
        self.control = None;
        self.thread.take().unwrap().join().unwrap();
    }
}

pub(crate) fn writable(node: &str) -> ExportOptions {
    ExportOptions { node: node.into(), name: node.into(), writable: true, ..ExportOptions::default() }
}

fn start_threads(engine: EngineKind, count: u16) -> (Control, Vec<ThreadHandle>, JoinHandle<()>) {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let mut threads = Threads::start(count, engine).unwrap();
        let handles = threads.handles().to_vec();
        threads.run_here(|local| {
            let (thread, control) = ControlThread::new(local, count);
            sender.send((control, handles)).unwrap();
            thread.run()
        });
    });
    let (control, handles) = receiver.recv().unwrap();
    (control, handles, thread)
}

/// Runs a shell command and returns what it printed; fails if it does, or takes longer than a minute.
pub(crate) fn shell(command: &str) -> String {
    let (code, text) = try_shell(command);
    assert_eq!(code, Some(0), "{command}\n{text}");
    text
}

/// As [`shell`], with the exit code.
pub(crate) fn try_shell(command: &str) -> (Option<i32>, String) {
    let mut shell = std::process::Command::new("timeout");
    let output = shell.args(["60", "bash", "-c", command]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

pub(crate) fn display(path: &Path) -> String {
    path.display().to_string()
}
