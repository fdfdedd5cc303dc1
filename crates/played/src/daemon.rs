//! [`SimDaemon`]: a daemon from its command line to its end.
//!
//! ```text
//!   shard 0: the daemon and its control thread     1 .. threads: serve exports, run jobs     above: `iothread` objects
//!   disks:   protocol nodes on SimDisks, there from the start; files of the host do not exist
//!   qmp-0, qmp-1, ...  sockets of its monitors       nbd-server-start, chardevs: any address of its network
//! ```

use std::cell::Cell;
use std::ffi::OsString;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use drystone_base::Result;
use drystone_core::control::{Control, ControlThread, Opening, Plan, Task};
use drystone_core::runtime::LocalRef;
use drystone_daemon::{Clock, Console, Launch, Surroundings, run_within};
use drystone_sys::played::{PlayedNetwork, WireOptions, starter, thread};
use drystone_sys::{Address, Network, ThreadHandle};
use drystone_testkit::disk::SimDisk;
use drystone_testkit::graph::SimDriver;
use drystone_testkit::sim::Sim;

use crate::monitor::Monitor;
use crate::trace::Trace;

/// The time of day at the start of every run.
const START_OF_TIME: Duration = Duration::from_secs(1_000_000_000);

/// What a daemon is started with.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// How many of the simulation's I/O threads serve exports and run jobs; the others are for `iothread` objects.
    pub threads: u16,
    /// How many monitors there are.
    pub monitors: u16,
    /// Protocol nodes, by name.
    pub disks: Vec<(String, SimDisk)>,
    /// Further options of the command line.
    pub args: Vec<String>,
    /// What its sockets are like.
    pub wires: WireOptions,
}

impl DaemonOptions {
    /// Two threads, two monitors, no disks, and sockets as `seed` decides.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        let wires = WireOptions::seeded(seed);
        Self { threads: 2, monitors: 2, disks: Vec::new(), args: Vec::new(), wires }
    }
}

/// A running daemon.
pub struct SimDaemon<'s> {
    sim: &'s Sim,
    control: Control,
    network: Network,
    status: Rc<Cell<Option<u8>>>,
    trace: Trace,
}

impl<'s> SimDaemon<'s> {
    /// Starts a daemon on the threads of `sim`. Its command line may still be in work.
    ///
    /// # Panics
    /// If a disk has no valid name, or `sim` has fewer threads.
    #[must_use]
    pub fn start(sim: &'s Sim, options: DaemonOptions) -> Self {
        let DaemonOptions { threads, monitors, disks, args, wires } = options;
        assert!((1..=sim.io_threads()).contains(&threads), "{threads} of {} threads", sim.io_threads());
        let local = sim.control();
        let (control_thread, control) = ControlThread::new(local.clone(), sim.io_threads() + 1);
        sim.spawn(&local, "control thread", control_thread.run());
        add_disks(sim, &control, disks);

        let handles = |from: u16, to: u16| -> Vec<ThreadHandle> {
            (from..=to).map(|index| thread(&sim.io(index))).collect()
        };
        let played = PlayedNetwork::new(wires);
        let (trace, status) = (Trace::default(), Rc::new(Cell::new(None)));
        let around = Surroundings {
            threads: handles(1, threads),
            starter: starter(handles(threads + 1, sim.io_threads())),
            network: played.network(),
            clock: clock(),
        };
        let told = trace.clone();
        let launch = Launch {
            name: "daemon".into(),
            args: (0..monitors).flat_map(monitor_args).chain(args).map(OsString::from).collect(),
            console: Console::Within(played.pair().0, Box::new(move |text| told.note(text.trim_end()))),
        };
        let (ended, daemon) =
            (Rc::clone(&status), run_within(local.clone(), control.clone(), around, launch));
        sim.spawn(&local, "daemon", async move { ended.set(Some(daemon.await)) });
        Self { sim, control, network: played.network(), status, trace }
    }

    /// Where its sockets are.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What was said so far.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Its graph.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// For the tasks of clients.
    #[must_use]
    pub fn access(&self) -> Access {
        Access { network: self.network.clone(), trace: self.trace.clone() }
    }

    /// Runs until the daemon, which was told to, has ended and nothing is left of it; the exit status.
    ///
    /// # Panics
    /// If the simulation gets stuck.
    #[must_use]
    pub fn finish(self) -> u8 {
        let Self { sim, control, network, status, trace } = self;
        drop((control, network));
        if let Err(stuck) = sim.run_to_end() {
            panic!("{stuck}\n{trace}");
        }
        let Some(status) = status.get() else { panic!("a daemon without an end\n{trace}") };
        status
    }
}

/// The way to a daemon's monitors.
#[derive(Clone)]
pub struct Access {
    /// Where its sockets are.
    pub network: Network,
    /// What was said so far.
    pub trace: Trace,
}

impl Access {
    /// A client of monitor `number`, as a task of `local`. Waits until the daemon listens.
    ///
    /// # Errors
    /// [`drystone_base::Kind::Disconnected`] if the daemon hangs up.
    pub async fn monitor(&self, number: u16, local: &LocalRef) -> Result<Monitor> {
        let (address, name) = (address(&format!("qmp-{number}")), format!("m{number}"));
        loop {
            let connected = Monitor::connect(&self.network, &address, local, (&name, &self.trace)).await;
            match connected {
                Err(error) if error.errno() == CONNECTION_REFUSED => {
                    local.sleep_until(local.now_ns().saturating_add(1_000_000)).await;
                }
                other => return other,
            }
        }
    }
}

/// `ECONNREFUSED`.
const CONNECTION_REFUSED: i32 = 111;

/// A unix socket of that name.
#[must_use]
pub fn address(name: &str) -> Address {
    Address::Unix(PathBuf::from(name))
}

fn monitor_args(number: u16) -> [String; 4] {
    let chardev = format!("socket,id=qmp-{number},path=qmp-{number},server=on,wait=off");
    ["--chardev".into(), chardev, "--monitor".into(), format!("qmp-{number}")]
}

/// A microsecond passes with each look.
fn clock() -> Clock {
    let looks = AtomicU64::new(0);
    Arc::new(move || START_OF_TIME + Duration::from_micros(looks.fetch_add(1, Ordering::Relaxed)))
}

fn add_disks(sim: &Sim, control: &Control, disks: Vec<(String, SimDisk)>) {
    let nodes: Vec<_> = disks.iter().map(|(name, disk)| SimDriver::node(name, disk)).collect();
    let add = async move |task: &mut Task<'_>| {
        for node in nodes {
            let mut opening = Opening::new(task);
            opening.add(node)?;
            let mut plan = Plan::new();
            plan.insert(opening);
            task.apply(plan).await?;
        }
        Ok::<_, drystone_base::Error>(task.gs().waits().clone())
    };
    match sim.block_on(&sim.control(), control.call(add)) {
        Ok(Ok(Ok(waits))) => sim.explain_waits(move || waits.report()),
        Ok(Ok(Err(error)) | Err(error)) => panic!("cannot add a disk: {}", error.report()),
        Err(stuck) => panic!("{stuck}"),
    }
}
