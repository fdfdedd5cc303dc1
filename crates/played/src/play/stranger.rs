//! The stranger: has the daemon use a disk at a server that does odd things, and goes before it is understood.
//!
//! ```text
//!   listen ─► blockdev-add nbd ─► block-export-add ─► a client reads and writes ─► block-export-del ─► blockdev-del
//!      server: right, late, torn, refused, other cookies and lengths, noise, or nothing at all
//! ```
//! What the client is told is not looked at: the server may say anything. But it is told something or loses its connection,
//! the disk can be taken away again within a bounded time, and nobody else notices.

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_nbd::{Command, CommandFlags};
use serde_json::{Value, json};

use super::PAUSE_NS;
use super::people::Person;
use crate::daemon::address;
use crate::far::{Far, Oddity};
use crate::monitor::Monitor;
use crate::nbd::{Entry, NbdClient};
use crate::wait::unless;

/// Bytes of its disk.
const LEN_BYTES: u64 = 64 << 10;
/// Taking an export or a node away takes no longer, in nanoseconds: a silent server has half a minute each time that it is
/// waited for, and one that answers other things some ten.
const PATIENCE_NS: u64 = 3_600_000_000_000;
/// So often a disk may refuse to go because its server refuses the last flush.
const DELETIONS_MAX: u64 = 30;

impl Person {
    /// Comes again and again.
    pub(super) async fn be_stranger(mut self) {
        let talked = self.estrange().await;
        self.run.demand_talk(talked);
    }

    async fn estrange(&mut self) -> Result<()> {
        let mut monitor = self.run.access.monitor(3, &self.local).await?;
        let mut round = 0;
        while !self.run.is_over.get() {
            round += 1;
            let place = format!("far-{round}");
            let listener = self.run.access.network.listen(&address(&place))?;
            let seed = self.rng.next_u64();
            let far = Far::start(listener, &self.local, (LEN_BYTES, seed), Box::new(odd(seed)));
            let visited = self.use_far(&mut monitor, &place, &far).await;
            far.close();
            self.run.counts.event("requests to an odd server", far.asked());
            visited?;
            self.pause().await;
        }
        Ok(())
    }

    async fn use_far(&mut self, monitor: &mut Monitor, place: &str, far: &Far) -> Result<()> {
        let server = json!({ "type": "unix", "path": place });
        let node = json!({
            "driver": "nbd", "node-name": "far", "server": server, "reconnect-delay": self.rng.below(2),
        });
        if !self.tell(monitor, "blockdev-add", node).await? {
            return Ok(());
        }
        let export =
            json!({ "type": "nbd", "id": "stray", "name": "stray", "node-name": "far", "writable": true });
        if self.tell(monitor, "block-export-add", export).await? {
            let until_ns = self.local.now_ns() + self.rng.below(20 * PAUSE_NS);
            let late = self.local.sleep_until(until_ns);
            unless(self.be_guest(far), late).await;
            monitor.forget_events();
            let since_ns = self.local.now_ns();
            // The last flush may fail; the export is gone all the same.
            self.tell(monitor, "block-export-del", json!({ "id": "stray", "mode": "hard" })).await?;
            self.demand_soon(since_ns, "block-export-del");
        }
        // A last flush that the server refuses is told, and the disk stays.
        for _ in 0..DELETIONS_MAX {
            let since_ns = self.local.now_ns();
            let deleted = monitor.call("blockdev-del", json!({ "node-name": "far" })).await?;
            self.run.counts.command("blockdev-del", deleted.is_ok());
            self.demand_soon(since_ns, "blockdev-del");
            match deleted {
                Ok(_) => return Ok(()),
                Err(text) => assert!(text.contains("reported an error"), "a disk cannot be deleted: {text}"),
            }
        }
        panic!("a disk at an odd server cannot be deleted");
    }

    /// Carries a command out; whether it was done.
    async fn tell(&self, monitor: &mut Monitor, command: &str, arguments: Value) -> Result<bool> {
        let is_done = monitor.call(command, arguments).await?.is_ok();
        self.run.counts.command(command, is_done);
        Ok(is_done)
    }

    fn demand_soon(&self, since_ns: u64, what: &str) {
        let took_ns = self.local.now_ns() - since_ns;
        assert!(took_ns < PATIENCE_NS, "{what} took {} s", took_ns / 1_000_000_000);
    }

    /// Uses the export, some requests at a time.
    async fn be_guest(&mut self, far: &Far) {
        let (network, at) = (&self.run.access.network, address("nbd"));
        let Ok(client) = NbdClient::enter(network, &at, &Entry::to("stray"), &self.local).await else {
            return;
        };
        let mut asked = Vec::new();
        for number in 0..4 + self.rng.below(30) {
            if let Ok(cookie) = ask(&client, &mut self.rng).await {
                asked.push(cookie);
            }
            if number == 7 && self.rng.one_in(4) {
                far.shrink(LEN_BYTES / 2);
            }
            if asked.len() >= 4 {
                let _ = client.reply(asked.remove(0)).await;
            }
        }
        for cookie in asked {
            let _ = client.reply(cookie).await;
        }
        if self.rng.one_in(2) {
            let _ = client.leave().await;
        }
        client.vanish();
    }
}

async fn ask(client: &NbdClient, rng: &mut Rng) -> Result<u64, crate::nbd::Fault> {
    let start = 512 * rng.below(LEN_BYTES / 512);
    let len = (512 * (1 + rng.below(16))).min(LEN_BYTES - start);
    let range = GuestRange::new(GuestOffset::new(start), len);
    let data = vec![u8::try_from(rng.below(256)).unwrap_or(0); usize::try_from(len).unwrap_or(0)];
    let none = CommandFlags::NONE;
    match rng.below(6) {
        0 | 1 => client.send(Command::Read, range, none, &[]).await,
        2 | 3 => client.send(Command::Write, range, none, &data).await,
        4 => client.send(Command::Flush, GuestRange::new(GuestOffset::ZERO, 0), none, &[]).await,
        _ => client.send(Command::BlockStatus, range, none, &[]).await,
    }
}

/// A server that is odd at times, and in one of five runs mute from some request on.
fn odd(seed: u64) -> impl FnMut(&drystone_nbd::Request) -> Oddity {
    let mut rng = Rng::new(seed);
    let one_in = 2 + rng.below(12);
    let mute_from = if rng.one_in(5) { rng.below(20) } else { u64::MAX };
    let loses = rng.one_in(6);
    let mut count = 0;
    move |_| {
        count += 1;
        match () {
            () if count > mute_from => Oddity::Mute,
            () if loses && rng.one_in(20) => Oddity::Lost,
            () if rng.one_in(one_in) => Oddity::draw(&mut rng),
            () => Oddity::None,
        }
    }
}
