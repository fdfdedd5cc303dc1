//! The NBD client driver against the NBD server, under every order of steps that a seed finds: both are nodes of one graph,
//! `remote` stands on nothing but a played socket, whose other end serves `disk`.

use std::cell::Cell;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_base::{Error, Kind, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{NewNode, Opening, Plan, Task};
use drystone_core::lane::Lane;
use drystone_core::runtime::{LocalRef, yield_now};
use drystone_export::nbd::{Limits, Removal, ServerOptions};
use drystone_protocol::nbd::{NbdClient, NbdOptions};
use drystone_testkit::client::{BackendClient, Load, SharedModel, Watched};
use drystone_testkit::graph::insert_with_user;
use drystone_testkit::sim::{Sim, explore};

use crate::server::{DISK_BYTES, Served, User, WHOLE};

const MS: u64 = 1_000_000;
const HOUR_NS: u64 = 3_600_000 * MS;
const WORKERS: u16 = 3;

/// Opens `remote`, with somebody who uses it.
async fn open(user: &User, reconnect_delay_ns: u64) -> Result<Backend<ReadWrite>> {
    let network = user.network.clone();
    let options = NbdOptions { reconnect_delay_ns, ..NbdOptions::unix("nbd.sock", "disk") };
    user.call(async move |task: &mut Task<'_>| {
        let mut lane = Lane::new(task.local_ref().clone());
        let (driver, facts) = NbdClient::open(&mut lane, &network, options).await?;
        assert_eq!((facts.len, facts.read_only), (DISK_BYTES, false));
        let mut opening = Opening::new(task);
        let (name, driver) = (Some("remote".to_owned()), Box::new(driver));
        let new = NewNode { name, driver, facts, children: Vec::new(), owned: false, force_share: false };
        let node = opening.add(new)?;
        insert_with_user(task, opening, node, "user of remote".to_owned()).await
    })
    .await
}

/// Takes the user away, and the node with it.
async fn close(user: &User, backend: Backend<ReadWrite>) {
    let root = backend.id();
    let detach = async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        plan.detach_root(root);
        task.apply(plan).await
    };
    user.call(detach).await.unwrap();
}

/// One of several who read and write at the same time, with what it made of errors.
async fn work(
    backend: Backend<ReadWrite>,
    (local, model): (LocalRef, SharedModel),
    mut rng: Rng,
    on_error: impl Fn(Error),
) {
    let mut client = Watched::new(BackendClient::new(&backend, &local), &model);
    for _ in 0..3 {
        Load::new(1 + rng.below(4), DISK_BYTES).run(&mut client, &mut rng, &on_error).await;
        if let Err(error) = client.status(WHOLE).await {
            on_error(error);
        }
    }
}

fn options(sim: &Sim) -> ServerOptions {
    let mut rng = Rng::new(sim.seed() ^ 0x7265_6d6f_7465);
    let limits = Limits { requests: u32::try_from(1 + rng.below(6)).unwrap(), bytes: 4096 << rng.below(8) };
    ServerOptions { limits, ..ServerOptions::default() }
}

/// With every other seed, there is one connection for all threads. Runs workers on `remote`; `meanwhile` happens beside them, on the control thread. How many requests failed.
fn with_workers<F: Future<Output = ()>>(
    sim: &Sim,
    reconnect_delay_ns: u64,
    meanwhile: impl FnOnce(User, LocalRef, Rc<Cell<u16>>) -> F,
) -> u64 {
    let served = Served::start_for(sim, options(sim), u32::from(sim.seed() % 2 == 1));
    let user = served.user();
    let backend = sim.block_on(&sim.control(), open(&user, reconnect_delay_ns)).unwrap().unwrap();
    let (left, failed) = (Rc::new(Cell::new(WORKERS)), Rc::new(Cell::new(0)));
    for number in 0..WORKERS {
        let local = sim.io(1 + number % sim.io_threads());
        let rng = Rng::new(sim.seed() * 64 + u64::from(number));
        let (left, failed) = (Rc::clone(&left), Rc::clone(&failed));
        let (backend, with) = (backend.clone(), (local.clone(), Rc::clone(&served.model)));
        sim.spawn(&local, format!("worker {number}"), async move {
            let on_error = |error: Error| {
                assert_eq!(error.kind(), Kind::Disconnected, "{}", error.report());
                failed.set(failed.get() + 1);
            };
            work(backend, with, rng, on_error).await;
            left.set(left.get() - 1);
        });
    }
    sim.block_on(&sim.control(), async {
        let local = sim.control();
        meanwhile(user.clone(), local.clone(), Rc::clone(&left)).await;
        while left.get() > 0 {
            user.drain_node("remote").await;
            local.sleep_until(local.now_ns() + MS).await;
        }
        close(&user, backend).await;
        // The client has said goodbye, or its connection was cut.
        while user.server.connections().0 > 0 {
            local.sleep_until(local.now_ns() + MS).await;
        }
    })
    .unwrap();
    drop(user);
    let mut image = vec![0; usize::try_from(DISK_BYTES).unwrap()];
    served.disk.image().read(0, &mut image);
    served.model.borrow_mut().check(WHOLE, &image).unwrap();
    served.finish();
    failed.get()
}

#[test]
fn what_several_threads_write_by_one_server_is_there() {
    let explored = explore(0..60, |sim| {
        let failed = with_workers(sim, 0, |user, _, left| async move {
            while left.get() > 0 {
                user.drain_node("remote").await;
                yield_now().await;
            }
        });
        assert_eq!(failed, 0);
    });
    assert_eq!(explored.schedules, 60, "{explored}");
}

/// The export goes, the disk is drained while it is away, and it comes again.
async fn comes_and_goes(user: User, local: LocalRef, turns: u64) {
    for turn in 0..turns {
        local.sleep_until(local.now_ns() + (300 + 200 * turn) * MS / 1000).await;
        user.remove(Removal::Hard).await.unwrap();
        user.drain_node("remote").await;
        local.sleep_until(local.now_ns() + (turn % 3) * 40 * MS).await;
        user.drain_node("remote").await;
        user.export().await.unwrap();
    }
}

#[test]
fn requests_wait_for_a_server_that_comes_again_and_drains_do_not() {
    let explored = explore(1000..1060, |sim| {
        let failed = with_workers(sim, HOUR_NS, |user, local, _| comes_and_goes(user, local, 5));
        assert_eq!(failed, 0);
    });
    assert_eq!(explored.schedules, 60, "{explored}");
}

#[test]
fn without_patience_requests_fail_and_later_ones_find_the_server_again() {
    let failures = Cell::new(0);
    let explored = explore(2000..2050, |sim| {
        let failed = with_workers(sim, 0, |user, local, _| comes_and_goes(user, local, 3));
        failures.set(failures.get() + failed);
    });
    assert_eq!(explored.schedules, 50, "{explored}");
    assert!(failures.get() > 0, "no connection was lost under a request");
}

#[test]
fn patience_ends() {
    let explored = explore(3000..3020, |sim| {
        let served = Served::start(sim, options(sim));
        let (user, local) = (served.user(), sim.control());
        sim.block_on(&sim.control(), async {
            let backend = open(&user, 100 * MS).await.unwrap();
            let mut client = Watched::new(BackendClient::new(&backend, &local), &served.model);
            client.write(WHOLE, false).await.unwrap();
            user.remove(Removal::Hard).await.unwrap();
            let since = local.now_ns();
            let error = client.read(WHOLE).await.unwrap_err();
            let waited = local.now_ns() - since;
            assert_eq!(error.kind(), Kind::Disconnected, "{}", error.report());
            assert!((90 * MS..1000 * MS).contains(&waited), "{waited}");
            assert!(error.report().contains("there is no export 'disk'"), "{}", error.report());
            let since = local.now_ns();
            client.read(WHOLE).await.unwrap_err();
            assert!(local.now_ns() - since < 50 * MS, "it does not wait twice");
            user.export().await.unwrap();
            while client.read(WHOLE).await.is_err() {
                local.sleep_until(local.now_ns() + 100 * MS).await;
            }
            drop(client);
            close(&user, backend).await;
        })
        .unwrap();
        drop(user);
        served.finish();
    });
    assert_eq!(explored.schedules, 20, "{explored}");
}

#[test]
fn the_only_connection_goes_to_the_thread_that_uses_it() {
    let explored = explore(4000..4030, |sim| {
        let served = Served::start_for(sim, options(sim), 1);
        let (user, local) = (served.user(), sim.control());
        sim.block_on(&sim.control(), async {
            let backend = open(&user, 0).await.unwrap();
            for (turn, count) in [(1, 1), (2, 60), (1, 60), (2, 3), (1, 30)] {
                let io = sim.io(turn);
                let (done, model) = (Rc::new(Cell::new(false)), Rc::clone(&served.model));
                let (over, backend, on) = (Rc::clone(&done), backend.clone(), io.clone());
                let mut rng = Rng::new(sim.seed() + u64::from(turn));
                sim.spawn(&io, format!("turn of {turn}"), async move {
                    let mut client = Watched::new(BackendClient::new(&backend, &on), &model);
                    let mut load = Load::new(count, DISK_BYTES);
                    load.len_max = 1024;
                    load.run(&mut client, &mut rng, |error| panic!("{}", error.report())).await;
                    over.set(true);
                });
                while !done.get() {
                    user.drain_node("remote").await;
                    local.sleep_until(local.now_ns() + MS / 10).await;
                }
            }
            assert_eq!(user.server.connections(), (1, 1));
            close(&user, backend).await;
        })
        .unwrap();
        drop(user);
        served.finish();
    });
    assert_eq!(explored.schedules, 30, "{explored}");
}
