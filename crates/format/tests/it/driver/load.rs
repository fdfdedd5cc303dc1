//! Random requests from several threads against the byte model; afterwards the image is clean and nothing leaks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_base::{Error, GuestOffset, GuestRange};
use drystone_format::qcow2::driver::passes::PassDiscard;
use drystone_testkit::client::{Load, Mix, SharedModel};
use drystone_testkit::disk::{DiskOptions, Image, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::model::{ByteModel, DiscardRule};
use drystone_testkit::sim::{Sim, explore};

use super::chain::{Chain, SMALL, demand_clean, is_data};
use super::kind::Kind;
use super::script::client;
use super::snapshot;
use super::state::{State, demand_raw_data, read_all};
use super::tracked::Tracked;

/// Requests of all kinds to a chain like `kind`.
pub(crate) fn load_of(kind: Kind, requests: u64) -> Load {
    Load { len_max: kind.cluster_bytes * 4, discard: DiscardRule::OldOrZero, ..Load::new(requests, kind.len) }
}

/// Runs three clients on two threads to their end.
pub(crate) fn run_clients(
    sim: &Sim,
    chain: &Chain,
    model: &SharedModel,
    load: &Load,
    on_error: impl Fn(Error) + Copy + 'static,
) {
    let running = Rc::new(Cell::new(3));
    let mut seeds = Rng::new(sim.seed() ^ 0xc11e);
    for thread in [1, 1, 2] {
        let (mut client, load, running) =
            (client(sim, thread, chain, model), load.clone(), Rc::clone(&running));
        let mut rng = Rng::new(seeds.next_u64());
        sim.spawn(&sim.io(thread), "client", async move {
            load.run(&mut client, &mut rng, on_error).await;
            running.set(running.get() - 1);
        });
    }
    sim.run_until(|| running.get() == 0).unwrap();
}

fn no_error(error: Error) {
    panic!("{}", error.report());
}

/// Disks that hold `images`.
pub(crate) fn disks(images: &[Image], rng: &mut Rng) -> Vec<SimDisk> {
    images.iter().map(|image| SimDisk::new(image.clone(), DiskOptions::seeded(rng.next_u64()))).collect()
}

/// Load on a chain, then a clean close; what was written is there when it is opened again.
pub(crate) fn load_state(sim: &Sim, state: &State, load: &Load) -> Vec<Image> {
    let disks = disks(&state.images, &mut sim.rng());
    let model = Rc::new(RefCell::new(state.model.clone()));
    let graph = SimGraph::start(sim);
    let chain = Chain::open(&graph, &disks, state.options).unwrap();
    run_clients(sim, &chain, &model, load, no_error);
    read_all(sim, &chain, &model).unwrap();
    chain.close(&graph).unwrap();
    disks.iter().filter(|disk| !is_data(disk)).for_each(|disk| demand_clean(&disk.image()));
    let chain = Chain::open(&graph, &disks, state.options).unwrap();
    demand_raw_data(&disks, &read_all(sim, &chain, &model).unwrap());
    disks.iter().map(SimDisk::image).collect()
}

fn drawn(rng: &mut Rng) -> PassDiscard {
    PassDiscard { request: rng.one_in(2), snapshot: rng.one_in(2), other: rng.one_in(2) }
}

fn load_new(sim: &Sim, layers: usize, requests: u64) {
    let mut rng = sim.rng();
    let kinds: Vec<Kind> =
        (0..layers).map(|index| Kind { is_overlay: index > 0, ..Kind::drawn(&mut rng) }).collect();
    let top = kinds[layers - 1];
    let options =
        drystone_format::qcow2::driver::open::Qcow2Options { pass_discard: drawn(&mut rng), ..SMALL };
    let state = State {
        bitmaps: Tracked::default(),
        images: kinds.iter().flat_map(Kind::images).collect(),
        model: ByteModel::zeroed(top.len),
        options,
        leaks: 0,
    };
    load_state(sim, &state, &load_of(top, requests));
}

#[test]
fn random_requests_agree_with_the_model_and_leave_a_clean_image() {
    println!("{}", explore(0..300, |sim| load_new(sim, 1, 30)));
}

#[test]
fn random_requests_to_an_overlay_agree_with_the_model() {
    println!("{}", explore(0..100, |sim| load_new(sim, 2, 30)));
}

/// Few clusters, which are written, given up, flushed and taken again all the time.
fn race(sim: &Sim) {
    let mut rng = sim.rng();
    let cluster_bytes = [512, 4096][rng.index(2)];
    let kind = Kind { cluster_bytes, len: 8 * cluster_bytes, ..Kind::of("c512 r16") };
    let state = State::of(kind).with(|options| options.pass_discard = drawn(&mut rng));
    let mix = Mix { reads: 3, writes: 8, zeroes: 3, discards: 4, flushes: 3 };
    let load = Load { mix, len_max: 2 * cluster_bytes, ..load_of(kind, 40) };
    load_state(sim, &state, &load);
}

#[test]
fn writes_race_with_discards_and_flushes() {
    println!("{}", explore(0..400, race));
}

#[test]
fn what_a_snapshot_holds_stays_as_it_was() {
    let kinds = ["c512 r2 40K", "c4K r64 100K", "c1K r16 v2 30K", "c64K r16 1M"];
    let states = kinds.map(|kind| {
        let len = Kind::of(kind).len;
        State::new(kind).after(&format!("write 0..{}; write {}+1000", len / 2, len - 2000)).snapshot()
    });
    let held = states.each_ref().map(|state| state.with_top(snapshot::view).contents());
    println!(
        "{}",
        explore(0..120, |sim| {
            let index = usize::try_from(sim.seed() % 4).unwrap();
            let images = load_state(sim, &states[index], &load_of(Kind::of(kinds[index]), 20));
            let after = State { images, ..states[index].clone() };
            assert_eq!(after.with_top(snapshot::view).contents(), held[index], "{}", kinds[index]);
        })
    );
}

#[test]
fn a_full_disk_fails_requests_until_it_has_room() {
    println!(
        "{}",
        explore(0..60, |sim| {
            let mut rng = sim.rng();
            let kind = Kind { cluster_bytes: [512, 4096][rng.index(2)], len: 256 << 10, ..Kind::of("") };
            let disks = disks(&kind.images(), &mut rng);
            disks[0].set_space(disks[0].image().allocated_bytes() + 16384 + rng.below(65536));
            let model = Rc::new(RefCell::new(ByteModel::zeroed(kind.len)));
            let graph = SimGraph::start(sim);
            let chain = Chain::open(&graph, &disks, SMALL).unwrap();
            let load = Load { len_max: 16384, ..load_of(kind, 40) };
            run_clients(sim, &chain, &model, &load, |error| {
                assert_eq!(error.errno(), 28, "{}", error.report())
            });
            disks[0].set_space(1 << 30);
            run_clients(sim, &chain, &model, &Load { requests: 10, ..load }, no_error);
            read_all(sim, &chain, &model).unwrap();
            chain.close(&graph).unwrap();
            demand_clean(&disks[0].image());
        })
    );
}

#[test]
fn freed_space_is_found_again_on_a_full_disk() {
    let state = State::new("c4K 256K").after("write 0..200K");
    for seed in 0..20 {
        let sim = Sim::seeded(seed);
        let disks = disks(&state.images, &mut sim.rng());
        disks[0].set_space(disks[0].image().allocated_bytes());
        let model = Rc::new(RefCell::new(state.model.clone()));
        let graph = SimGraph::start(&sim);
        let chain = Chain::open(&graph, &disks, SMALL).unwrap();
        super::script::run(&sim, &chain, &model, "discard 0..40K; write 210K..240K & read 0..200K").unwrap();
        read_all(&sim, &chain, &model).unwrap();
        chain.close(&graph).unwrap();
        demand_clean(&disks[0].image());
    }
}

#[test]
fn the_whole_disk_is_given_up_and_written_again() {
    let all = |kind: &Kind| GuestRange::new(GuestOffset::ZERO, kind.len);
    for words in ["c512 r1 300K", "c4K r16 v2 300K", "c64K r64 3M"] {
        let kind = Kind::of(words);
        let text = format!("{}..{}", all(&kind).start().get(), all(&kind).end().get());
        let script = format!(
            "write {text}; discard {text}; flush; write {text}; unmap {text}; write {text}; zero {text}"
        );
        let state = State::new(words).after(&script);
        let used = demand_consistent_len(&state);
        assert!(used < kind.len * 5 / 2, "{used} bytes: freed space is used again");
    }
}

fn demand_consistent_len(state: &State) -> u64 {
    super::chain::demand_consistent(&state.images[0]).image_end_offset
}
