//! A daemon with disks at servers that answer nothing, or take their time over a flush: it ends when it is told to, changes
//! of its graph end, and it says whom it waited for. The server is one more end of the daemon's played network, so every
//! order of steps is a seed away.

use std::cell::Cell;
use std::rc::Rc;

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_core::runtime::LocalRef;
use drystone_nbd::{Command, CommandFlags};
use drystone_played::daemon::{Access, DaemonOptions, SimDaemon, address};
use drystone_played::far::{Decide, Far, Oddity};
use drystone_played::monitor::Monitor;
use drystone_played::nbd::{Entry, NbdClient};
use drystone_testkit::sim::{Sim, explore};
use serde_json::{Value, json};

const SECOND_NS: u64 = 1_000_000_000;
const LEN_BYTES: u64 = 1 << 20;

/// Who talks to a daemon that has a disk at an odd server.
struct Talk {
    access: Access,
    local: LocalRef,
    far: Far,
    monitor: Monitor,
}

/// Plays a daemon whose `far` is at a server that decides like that. The exit status, and what was said.
fn with_server<F: Future<Output = Result<()>>>(
    sim: &Sim,
    decide: Decide,
    talk: impl FnOnce(Talk) -> F,
) -> (u8, String) {
    let daemon = SimDaemon::start(sim, DaemonOptions::seeded(sim.seed()));
    let (access, local) = (daemon.access(), sim.io(1));
    let listener = access.network.listen(&address("far")).unwrap();
    let far = Far::start(listener, &local, (LEN_BYTES, sim.seed()), decide);
    let ended: Result<()> = sim
        .block_on(&local, async {
            let monitor = access.monitor(0, &local).await?;
            let (access, local, far) = (access.clone(), Rc::clone(&local), far.clone());
            talk(Talk { access, local, far, monitor }).await
        })
        .unwrap();
    let trace = daemon.trace().clone();
    ended.unwrap_or_else(|error| panic!("{}\n{trace}", error.report()));
    far.close();
    drop((access, local, far));
    let status = daemon.finish();
    (status, trace.to_string())
}

fn mute() -> Decide {
    Box::new(|_| Oddity::Mute)
}

fn far_node(read_only: bool) -> Value {
    let server = json!({ "type": "unix", "path": "far" });
    json!({ "driver": "nbd", "node-name": "far", "read-only": read_only, "server": server })
}

impl Talk {
    /// Offers `far` for writing, and enters.
    async fn offer(&mut self) -> Result<NbdClient> {
        self.monitor.ok("blockdev-add", far_node(false)).await?;
        let at = json!({ "addr": { "type": "unix", "data": { "path": "nbd" } } });
        self.monitor.ok("nbd-server-start", at).await?;
        let export = json!({ "type": "nbd", "id": "e", "name": "far", "node-name": "far", "writable": true });
        self.monitor.ok("block-export-add", export).await?;
        NbdClient::enter(&self.access.network, &address("nbd"), &Entry::to("far"), &self.local).await
    }

    /// Writes as a client of the daemon, and does not wait for the reply.
    async fn write(&self, client: &NbdClient) {
        let range = GuestRange::new(GuestOffset::ZERO, 4096);
        client.send(Command::Write, range, CommandFlags::NONE, &[1; 4096]).await.unwrap();
    }

    /// A command, and how many seconds it took.
    async fn timed(&mut self, command: &str, arguments: Value) -> Result<(bool, u64)> {
        let since_ns = self.local.now_ns();
        let is_done = self.monitor.call(command, arguments).await?.is_ok();
        Ok((is_done, (self.local.now_ns() - since_ns) / SECOND_NS))
    }
}

#[test]
fn an_image_at_a_server_that_answers_nothing_is_not_opened_for_ever() {
    let explored = explore(0..20, |sim| {
        let (status, said) = with_server(sim, mute(), |mut talk| async move {
            talk.monitor.ok("blockdev-add", far_node(true)).await?;
            // Its header is never read.
            let image = json!({ "driver": "qcow2", "node-name": "disk", "read-only": true, "file": "far" });
            let (is_done, seconds) = talk.timed("blockdev-add", image).await?;
            assert!(!is_done);
            assert!((30..70).contains(&seconds), "{seconds}");
            talk.monitor.ok("blockdev-del", json!({ "node-name": "far" })).await?;
            talk.monitor.ok("quit", json!({})).await.map(drop)
        });
        assert_eq!(status, 0, "{said}");
        assert!(said.contains("has not answered for too long"), "{said}");
    });
    assert_eq!(explored.schedules, 20, "{explored}");
}

#[test]
fn a_disk_at_a_server_that_answers_nothing_can_be_deleted() {
    let explored = explore(100..120, |sim| {
        let (status, said) = with_server(sim, mute(), |mut talk| async move {
            let client = talk.offer().await?;
            talk.write(&client).await;
            while talk.far.asked() == 0 {
                talk.local.sleep_until(talk.local.now_ns() + SECOND_NS / 1000).await;
            }
            client.vanish();
            drop(client);
            // It goes, and says that the last flush has failed.
            let export = json!({ "id": "e", "mode": "hard" });
            let (is_done, seconds) = talk.timed("block-export-del", export).await?;
            assert!(!is_done && (30..130).contains(&seconds), "{is_done}, {seconds}");
            let left = talk.monitor.ok("query-block-exports", json!({})).await?;
            assert_eq!(left, json!([]));
            let (is_done, seconds) = talk.timed("blockdev-del", json!({ "node-name": "far" })).await?;
            assert!(is_done && seconds < 70, "{is_done}, {seconds}");
            talk.monitor.ok("quit", json!({})).await.map(drop)
        });
        // What was written is lost, and the end says so.
        assert_eq!(status, 1, "{said}");
    });
    assert_eq!(explored.schedules, 20, "{explored}");
}

#[test]
fn a_server_that_answers_nothing_keeps_no_daemon_for_ever() {
    let explored = explore(200..220, |sim| {
        let (status, said) = with_server(sim, mute(), |mut talk| async move {
            let client = talk.offer().await?;
            talk.write(&client).await;
            talk.monitor.ok("quit", json!({})).await?;
            client.lost().await;
            Ok(())
        });
        assert_eq!(status, 1, "{said}");
        assert!(said.contains("not answer"), "{said}");
    });
    assert_eq!(explored.schedules, 20, "{explored}");
}

/// A flush takes four minutes; whatever else is asked is answered.
#[test]
fn a_server_that_takes_its_time_over_the_last_flush_is_waited_for() {
    let explored = explore(300..320, |sim| {
        let flushes = Rc::new(Cell::new(0));
        let counted = Rc::clone(&flushes);
        let decide: Decide = Box::new(move |request| match request.command {
            Command::Flush => {
                counted.set(counted.get() + 1);
                Oddity::Late(240 * SECOND_NS)
            }
            _ => Oddity::None,
        });
        let (status, said) = with_server(sim, decide, |mut talk| async move {
            let client = talk.offer().await?;
            let range = GuestRange::new(GuestOffset::ZERO, 4096);
            client.request(Command::Write, range, CommandFlags::NONE, &[1; 4096]).await.unwrap();
            talk.monitor.ok("quit", json!({})).await?;
            client.lost().await;
            Ok(())
        });
        assert_eq!(status, 0, "{said}");
        assert!(flushes.get() > 0);
    });
    assert_eq!(explored.schedules, 20, "{explored}");
}
