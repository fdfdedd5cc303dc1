//! The NBD server under every order of steps that a seed finds: several clients at once, some of which stall or go, while
//! the disk is drained and the export comes and goes.

use std::collections::BTreeSet;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange, Kind};
use drystone_core::runtime::{LocalRef, yield_now};
use drystone_export::nbd::{Limits, Removal, ServerOptions};
use drystone_nbd::{Command, CommandFlags};
use drystone_played::nbd::{Fault, NbdClient};
use drystone_played::visit::{Visitor, join};
use drystone_testkit::client::{Load, Mix, SharedModel, Watched};
use drystone_testkit::sim::{Sim, explore};

use crate::server::{DISK_BYTES, Served, User, WHOLE};

const SECOND_NS: u64 = 1_000_000_000;

/// Connections may occupy little, so that clients wait for room.
fn narrow(sim: &Sim) -> ServerOptions {
    let mut rng = Rng::new(sim.seed() ^ 0x6e61_7272_6f77);
    let requests = u32::try_from(1 + rng.below(6)).unwrap();
    let limits = Limits { requests, bytes: 4096 << rng.below(8) };
    ServerOptions { limits, ..ServerOptions::default() }
}

fn spawn_clients(served: &Served<'_>, count: u16) {
    let sim = served.sim;
    for number in 0..count {
        let (user, model) = (served.user(), Rc::clone(&served.model));
        let mut rng = Rng::new(sim.seed() * 64 + u64::from(number));
        let local = sim.io(1 + number % sim.io_threads());
        let on = Rc::clone(&local);
        sim.spawn(&on, format!("client {number}"), async move {
            let client = user.client(&local).await.unwrap();
            let visitor = Visitor { client: &client, model: &model, local: &local, errors: &[] };
            assert_eq!(visitor.load(1 + rng.below(3), &mut rng).await, Some(()));
            client.leave().await.unwrap();
        });
    }
}

fn several_clients(sim: &Sim) {
    let served = Served::start(sim, narrow(sim));
    spawn_clients(&served, 3);
    let user = served.user();
    sim.block_on(&sim.control(), async {
        while user.server.connections() != (0, 3) {
            user.drain().await;
            yield_now().await;
        }
    })
    .unwrap();
    drop(user);
    let mut image = vec![0; usize::try_from(DISK_BYTES).unwrap()];
    served.disk.image().read(0, &mut image);
    served.model.borrow_mut().check(WHOLE, &image).unwrap();
    served.finish();
}

#[test]
fn several_clients_find_what_was_written_while_the_disk_is_drained() {
    let explored = explore(0..200, several_clients);
    assert_eq!(explored.schedules, 200, "{explored}");
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = |seed| {
        let sim = Sim::seeded(seed);
        several_clients(&sim);
        (sim.steps(), sim.schedule_hash(), sim.now_ns())
    };
    let runs: BTreeSet<_> =
        (0..20).map(|seed| [run(seed), run(seed)]).inspect(|[one, two]| assert_eq!(one, two)).collect();
    assert_eq!(runs.len(), 20);
}

/// A client that comes again and again, and goes in any way.
async fn restless(user: User, local: LocalRef, model: SharedModel, mut rng: Rng) {
    for _ in 0..4 {
        let Ok(client) = user.client(&local).await else {
            // There is no export at the moment.
            local.sleep_until(local.now_ns() + SECOND_NS / 8).await;
            continue;
        };
        Visitor { client: &client, model: &model, local: &local, errors: &[] }.visit(&mut rng).await;
    }
}

#[test]
fn clients_come_and_go_while_the_export_does() {
    let explored = explore(1000..1200, |sim| {
        let options = ServerOptions { connections_max: 2, ..narrow(sim) };
        let served = Served::start(sim, options);
        for number in 0..3 {
            let local = sim.io(1 + number % sim.io_threads());
            let rng = Rng::new(sim.seed() * 64 + u64::from(number));
            let task = restless(served.user(), Rc::clone(&local), Rc::clone(&served.model), rng);
            sim.spawn(&local, format!("client {number}"), task);
        }
        let user = served.user();
        sim.block_on(&sim.control(), async {
            let local = sim.control();
            for turn in 0..4 {
                local.sleep_until(local.now_ns() + 700_000).await;
                let removal = if turn % 2 == 0 { Removal::Safe } else { Removal::Hard };
                match user.remove(removal).await {
                    Ok(()) => user.export().await.unwrap(),
                    Err(error) => assert_eq!((error.kind(), removal), (Kind::InUse, Removal::Safe)),
                }
            }
        })
        .unwrap();
        drop(user);
        served.finish();
    });
    assert_eq!(explored.schedules, 200, "{explored}");
}

/// Asks for more than any buffer holds and receives nothing.
async fn ask_and_stall(client: &NbdClient) -> u64 {
    client.stall();
    let mut asked = 0;
    let range = GuestRange::new(GuestOffset::ZERO, 64 << 10);
    loop {
        let sending = client.send(Command::Read, range, CommandFlags::NONE, &[]);
        match sending.await {
            Ok(_) => asked += 1,
            Err(Fault::Refused(_) | Fault::Lost) => return asked,
            Err(fault) => panic!("{fault:?}"),
        }
        if asked == 40 {
            return asked;
        }
    }
}

#[test]
fn a_client_that_stalls_keeps_neither_a_drain_nor_a_removal_waiting_nor_another_client() {
    explore(2000..2200, |sim| {
        let served = Served::start(sim, narrow(sim));
        let (user, model) = (served.user(), Rc::clone(&served.model));
        sim.block_on(&sim.io(1), async {
            let local = sim.io(1);
            let bad = user.client(&local).await.unwrap();
            let asking = ask_and_stall(&bad);
            let others = async {
                user.drain().await;
                let good = user.client(&sim.io(2)).await.unwrap();
                let mut rng = sim.rng();
                let visitor = Visitor { client: &good, model: &model, local: &local, errors: &[] };
                assert_eq!(visitor.load(2, &mut rng).await, Some(()));
                user.drain().await;
                good.leave().await.unwrap();
                let before_ns = sim.now_ns();
                user.remove(Removal::Hard).await.unwrap();
                assert!(
                    sim.now_ns() - before_ns <= SECOND_NS + 100_000_000,
                    "it takes no longer than its last replies may"
                );
            };
            let both = bad.while_connected(asking);
            join(both, others).await;
            bad.listen();
            bad.lost().await;
        })
        .unwrap();
        drop(user);
        served.finish();
    });
}

#[test]
fn a_client_that_listens_again_gets_every_reply() {
    explore(3000..3100, |sim| {
        let served = Served::start(sim, narrow(sim));
        let (user, model) = (served.user(), Rc::clone(&served.model));
        sim.block_on(&sim.io(1), async {
            let local = sim.io(1);
            let client = user.client(&local).await.unwrap();
            let mix = Mix { reads: 0, ..Mix::ALL };
            let load = Load { mix, ..Load::new(10, DISK_BYTES) };
            load.run(&mut Watched::new(client.clone(), &model), &mut sim.rng(), |error| panic!("{error}"))
                .await;
            client.stall();
            let reading = async {
                let mut watched = Watched::new(client.clone(), &model);
                watched.read(WHOLE).await.unwrap();
            };
            let later = async {
                local.sleep_until(local.now_ns() + 30 * SECOND_NS).await;
                client.listen();
            };
            join(reading, later).await;
            client.leave().await.unwrap();
        })
        .unwrap();
        drop(user);
        served.finish();
    });
}
