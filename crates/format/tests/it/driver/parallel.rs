//! Requests that do not wait for each other, and memory that does not grow.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange};
use drystone_format::qcow2::driver::caches::CacheOptions;
use drystone_format::qcow2::driver::open::Qcow2Options;
use drystone_testkit::client::{BackendClient, Target};
use drystone_testkit::disk::{DiskOptions, OpFilter, OpKind, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::sim::Sim;

use super::chain::{Chain, SMALL, demand_clean, header};
use super::kind::Kind;
use super::script::{client, run};
use super::state::{State, instant_disk, read_all};

/// The device holds the data of one new cluster; others get theirs, in the same slice and through a flush.
#[test]
fn an_allocation_does_not_wait_for_the_data_of_another() {
    let sim = Sim::seeded(1);
    let state = State::new("c4K 1M").after("write 0..4K; write 8K..12K");
    let disk = instant_disk(&state.images[0]);
    let model = Rc::new(RefCell::new(state.model.clone()));
    let graph = SimGraph::start(&sim);
    let chain = Chain::open(&graph, std::slice::from_ref(&disk), SMALL).unwrap();
    run(&sim, &chain, &model, "write 100K..104K; flush").unwrap();
    let next = GuestRange::new(GuestOffset::new(disk.len().next_multiple_of(4096)), 4096);
    let hold = disk.hold(OpFilter::of(OpKind::Write).touching(next));
    let is_done = Rc::new(Cell::new(false));
    let (mut first, done) = (client(&sim, 1, &chain, &model), Rc::clone(&is_done));
    sim.spawn(&sim.io(1), "held", async move {
        first.write(GuestRange::new(GuestOffset::new(200 << 10), 4096), false).await.unwrap();
        done.set(true);
    });
    sim.run_until(|| hold.count() == 1).unwrap();
    run(
        &sim,
        &chain,
        &model,
        "write 204K..208K; write 300K..309K & write 196K..200K; discard 0..4K; flush; write 1K..3K",
    )
    .unwrap();
    run(&sim, &chain, &model, "read 204K..208K; read 196K..200K").unwrap();
    assert!(!is_done.get());
    drop(hold);
    sim.run_until(|| is_done.get()).unwrap();
    read_all(&sim, &chain, &model).unwrap();
    chain.close(&graph).unwrap();
    demand_clean(&disk.image());
}

/// Several clusters in a row are wanted, and more blocks of counts must be looked through than fit into memory.
#[test]
fn a_search_for_space_ends_however_small_the_cache_is() {
    let state = State::new("c512 r64 64K").with_full_counts().after("grow 2200K; write 2190K+512");
    assert!(header(&state.images[0]).l1().entries > 64);
}

/// Bytes of memory that this process has resident.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

/// A disk of 1 TiB whose mapping is 128 MiB long is read everywhere, in caches of 1 MiB and of 16 MiB.
#[cfg(target_os = "linux")]
#[test]
fn a_cache_keeps_to_its_bytes() {
    let mut image = Kind { len: 1 << 40, ..Kind::of("c64K r16 1M") }.images().remove(0);
    let l1 = header(&image).l1();
    let tables: Vec<u8> =
        (0..u64::from(l1.entries)).flat_map(|index| ((1 << 41) + (index << 16)).to_be_bytes()).collect();
    image.write(l1.at.get(), &tables);
    image.set_len(1 << 42);
    for cache_bytes in [1 << 20, 16 << 20] {
        let sim = Sim::seeded(1);
        let disk = instant_disk(&image);
        let graph = SimGraph::start(&sim);
        let options = Qcow2Options { caches: CacheOptions::of_bytes(cache_bytes), ..SMALL };
        let chain = Chain::open_to_read(&graph, &disk, options).unwrap();
        let grown = sim.block_on(&sim.io(1), async {
            let mut client = BackendClient::new(&chain.backend, &sim.io(1));
            let mut rng = Rng::new(1);
            let mut before = 0;
            for round in 0..12_000 {
                disk.clear_trace();
                if round == 100 {
                    before = resident_bytes();
                }
                let at = rng.below((1 << 40) - 512);
                client.read(GuestRange::new(GuestOffset::new(at), 512)).await.unwrap();
            }
            resident_bytes().saturating_sub(before)
        });
        let grown = grown.unwrap();
        println!("cache of {cache_bytes} bytes: {grown} bytes more");
        assert!(grown < cache_bytes + (8 << 20), "{grown}");
        chain.close(&graph).unwrap();
    }
}

/// A disk that may answer metadata at once does so now and then, and the disk shows the same; else it is read as ever.
#[test]
fn metadata_that_memory_has_takes_no_operation_of_its_own() {
    let state = State::new("c4K 1M").after("write 0..4K; write 600K..604K");
    let mut counts = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let sim = Sim::seeded(seed);
        let disk = SimDisk::new(state.images[0].clone(), DiskOptions::seeded(seed));
        let model = Rc::new(RefCell::new(state.model.clone()));
        let graph = SimGraph::start(&sim);
        let chain = Chain::open(&graph, std::slice::from_ref(&disk), SMALL).unwrap();
        let before = disk.trace().len();
        run(&sim, &chain, &model, "read 0..4K; read 600K..604K").unwrap();
        counts.insert(disk.trace().len() - before);
        chain.close(&graph).unwrap();
    }
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [2, 3], "two of data, and the table");
}
