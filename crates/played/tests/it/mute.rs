//! A daemon with a disk at a server that answers nothing: it ends when it is told to, and says whom it waited for. The
//! server is one more end of the daemon's played network, so every order of steps is a seed away.

use std::cell::Cell;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::Result;
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_nbd::ExportInfo;
use drystone_nbd::server::{ServerHandshake, Step};
use drystone_played::daemon::{DaemonOptions, SimDaemon, address};
use drystone_sys::{Listener, Receiver, Sender};
use drystone_testkit::sim::{Sim, explore};
use serde_json::json;

async fn shake_hands(lane: &mut Lane, receiver: &mut Receiver, sender: &mut Sender) -> Result<()> {
    let exports = Arc::new(ExportInfo::new(0, "", 1 << 20).unwrap());
    let mut output = Vec::new();
    let mut handshake = ServerHandshake::new(&mut output);
    loop {
        sender.send(lane, &mut [IoSlice::new(&std::mem::take(&mut output))]).await?;
        let (used, step) = handshake.receive(&exports, receiver.buffered(), &mut output).unwrap();
        receiver.consume(used);
        match step {
            Step::Transmission(_) | Step::Aborted => {
                return sender.send(lane, &mut [IoSlice::new(&output)]).await;
            }
            Step::More if output.is_empty() => {
                let count = receiver.buffered().len() + 1;
                receiver.fill(lane, count).await?;
            }
            Step::More => {}
        }
    }
}

/// Takes one client, and whatever it asks, until it goes. `asked` says that there was a request.
async fn serve_mutely(listener: Listener, local: LocalRef, asked: Rc<Cell<bool>>) {
    let mut lane = Lane::new(local);
    let (mut receiver, mut sender) = listener.accept(&mut lane).await.unwrap().split();
    shake_hands(&mut lane, &mut receiver, &mut sender).await.unwrap();
    while let Ok(true) = receiver.fill(&mut lane, 1).await {
        asked.set(true);
        receiver.consume(receiver.buffered().len());
    }
}

fn a_daemon_ends(sim: &Sim) {
    let daemon = SimDaemon::start(sim, DaemonOptions::seeded(sim.seed()));
    let (access, local, asked) = (daemon.access(), sim.io(1), Rc::new(Cell::new(false)));
    let listener = access.network.listen(&address("mute")).unwrap();
    sim.spawn(&local, "mute server", serve_mutely(listener, local.clone(), Rc::clone(&asked)));
    let ended: Result<()> = sim
        .block_on(&local, async {
            let mut one = access.monitor(0, &local).await?;
            let mut two = access.monitor(1, &local).await?;
            let server = json!({ "type": "unix", "path": "mute" });
            let node = json!({ "driver": "nbd", "node-name": "far", "read-only": true, "server": server });
            one.ok("blockdev-add", node).await?;
            // Its header is never read.
            let image = json!({ "driver": "qcow2", "node-name": "disk", "read-only": true, "file": "far" });
            sim.spawn(&local, "monitor", async move { drop(one.call("blockdev-add", image).await) });
            while !asked.get() {
                local.sleep_until(local.now_ns() + 1_000_000).await;
            }
            two.ok("query-named-block-nodes", json!({})).await?;
            two.ok("quit", json!({})).await.map(drop)
        })
        .unwrap();
    ended.unwrap();
    let trace = daemon.trace().clone();
    drop((access, local));
    assert_eq!(daemon.finish(), 1, "{trace}");
    assert!(trace.to_string().contains("have not answered are ended"), "{trace}");
}

#[test]
fn a_server_that_answers_nothing_keeps_no_daemon_for_ever() {
    let explored = explore(0..20, a_daemon_ends);
    assert_eq!(explored.schedules, 20, "{explored}");
}
