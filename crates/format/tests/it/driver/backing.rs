//! Another name for the backing file: the old or the new one is found after any power cut, and an error leaves the old one
//! or is repaired by the next try.

use drystone_base::{Error, Result};
use drystone_core::driver::BackingFile;
use drystone_format::qcow2::header::HeaderError;
use drystone_testkit::crash::{FaultSweep, PowerSweep};
use drystone_testkit::disk::{FaultEffect, Image, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::sim::Sim;

use super::chain::{Chain, SMALL, demand_consistent, header};
use super::state::State;

type Named = Option<(Vec<u8>, Option<Vec<u8>>)>;

fn named(image: &Image) -> Named {
    let header = header(image);
    let format = header.extensions().backing_format().map(<[u8]>::to_vec);
    header.backing_name().map(|name| (name.to_vec(), format))
}

fn file(name: &str, format: Option<&str>) -> Named {
    Some((name.as_bytes().to_vec(), format.map(|format| format.as_bytes().to_vec())))
}

/// Changes the name of the image on top of `chain`.
fn rename(graph: &SimGraph<'_>, chain: &Chain, to: &Named) -> Result<()> {
    chain.rename(graph, to.clone().map(|(name, format)| BackingFile { name, format }))
}

/// Names of all lengths, formats that come, go and stay.
fn names() -> Vec<Named> {
    let long = "n".repeat(1000);
    vec![
        None,
        file("other", Some("qcow2")),
        file("a-longer-name.img", Some("raw")),
        file("no-format", None),
        file(&long, Some("qcow2")),
    ]
}

fn states() -> Vec<State> {
    let overlay = |kind: &str| State::new(kind).after("write 0..10K").overlay(kind).after("write 4K..20K");
    vec![overlay("c4K 64K"), overlay("c64K r1 1M"), overlay("c4K v2 64K"), overlay("c512 64K")]
}

fn fits(state: &State, to: &Named) -> bool {
    let image = state.images.last().unwrap();
    let sector = image.bytes(0..512);
    let (name, format) = match to {
        None => (None, None),
        Some((name, format)) => (Some(name.as_slice()), format.as_deref()),
    };
    match header(image).renamed(&sector, name, format) {
        Ok(_) => true,
        Err(HeaderError::DoesNotFit(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_power_cut_leaves_the_old_name_or_the_new_one() {
    for state in states() {
        let old = named(state.images.last().unwrap());
        for to in names().into_iter().filter(|to| fits(&state, to)) {
            let sweep = PowerSweep::new(7, state.images.clone());
            let work = |sim: &Sim, disks: &[SimDisk]| {
                let graph = SimGraph::start(sim);
                Chain::open(&graph, disks, SMALL).and_then(|chain| rename(&graph, &chain, &to)).is_ok()
            };
            let swept = sweep.sweep(work, |sim, disks, done| {
                let image = disks.last().unwrap().image();
                demand_consistent(&image);
                let found = named(&image);
                assert!(found == to || (found == old && !done), "{found:?}");
                let graph = SimGraph::start(sim);
                Chain::open(&graph, disks, SMALL).unwrap().close(&graph).unwrap();
            });
            assert!(swept.ops > 2);
        }
    }
}

#[test]
fn a_failed_change_works_when_it_is_repeated() {
    for state in states() {
        for to in names().into_iter().filter(|to| fits(&state, to)) {
            let old = named(state.images.last().unwrap());
            let sweep = FaultSweep::new(3, state.images.clone(), FaultEffect::Io);
            let work = |sim: &Sim, disks: &[SimDisk]| {
                let graph = SimGraph::start(sim);
                let open = || Chain::open(&graph, disks, SMALL);
                let chain = open().or_else(|_| open()).unwrap();
                let first = rename(&graph, &chain, &to);
                if first.is_err() {
                    // Something else is written: the old header is put back before it is.
                    rename(&graph, &chain, &old).unwrap();
                    assert_eq!(named(&disks.last().unwrap().image()), old);
                }
                rename(&graph, &chain, &to).or_else(|_| rename(&graph, &chain, &to)).unwrap();
                chain.close(&graph).or_else(|_| Ok::<_, Error>(())).unwrap();
            };
            sweep.sweep(work, |_, disks, ()| {
                let image = disks.last().unwrap().image();
                demand_consistent(&image);
                assert_eq!(named(&image), to);
            });
        }
    }
}

#[test]
fn a_name_that_has_no_room_is_refused_and_nothing_changes() {
    let state = State::new("c512 64K").overlay("c512 64K");
    let long = file(&"n".repeat(600), None);
    assert!(!fits(&state, &long));
    let sim = Sim::seeded(1);
    let disks: Vec<SimDisk> = state
        .images
        .iter()
        .map(|image| SimDisk::new(image.clone(), drystone_testkit::disk::DiskOptions::seeded(1)))
        .collect();
    let graph = SimGraph::start(&sim);
    let chain = Chain::open(&graph, &disks, SMALL).unwrap();
    let before = named(&disks.last().unwrap().image());
    rename(&graph, &chain, &long).unwrap_err();
    chain.close(&graph).unwrap();
    assert_eq!(named(&disks.last().unwrap().image()), before);
}
