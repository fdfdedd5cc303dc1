//! Every size of clusters with every width of counts and both versions, in chains of one to four images with data in
//! each: random requests agree with the model, and every image is clean.

use drystone_base::rng::Rng;
use drystone_format::qcow2::header::Version;
use drystone_testkit::sim::Sim;

use super::kind::Kind;
use super::load::{load_of, load_state};
use super::state::State;

/// Most clusters of a disk, and most bytes that decide over fewer.
const SIZES: (u64, u64) = (40, 6 << 20);

fn drawn(cluster_bytes: u64, (version, refcount_bits): (Version, u64), rng: &mut Rng) -> Kind {
    let clusters = SIZES.0.min(SIZES.1 / cluster_bytes);
    let len = cluster_bytes * (2 + rng.below(clusters)) - 512 * rng.below(2);
    let is_extended = version == Version::V3 && cluster_bytes >= 16384 && rng.one_in(2);
    let words = if version == Version::V2 { "v2 " } else { "" };
    Kind { refcount_bits, is_extended, ..Kind::of(&format!("c{cluster_bytes} {words}{len}")) }
}

/// A chain of `depth` images, of which that on top is a `kind` and the others differ.
fn chain(kind: Kind, depth: u64, rng: &mut Rng) -> State {
    let mut state: Option<State> = None;
    for below in (0..depth).rev() {
        let version = if rng.one_in(3) { (Version::V2, 16) } else { (Version::V3, 1 << rng.below(7)) };
        let layer =
            if below == 0 { kind } else { drawn(kind.cluster_bytes.min(4096) << rng.below(3), version, rng) };
        let empty = match state {
            None => State::of(layer),
            Some(below) => below.overlay(&layer.to_string()),
        };
        let script: Vec<String> = (0..3)
            .map(|_| {
                let start = rng.below(layer.len / 512) * 512;
                let end = layer.len.min(start + 512 + rng.below(layer.cluster_bytes * 3));
                let verb = ["write", "write", "unmap"][rng.index(3)];
                format!("{verb} {start}..{end}")
            })
            .collect();
        state = Some(if below == 0 { empty } else { empty.after(&script.join("; ")) });
    }
    state.unwrap()
}

fn run(cluster_bits: std::ops::RangeInclusive<u32>) {
    let widths = (0..7).map(|order| (Version::V3, 1 << order)).chain([(Version::V2, 16)]);
    let kinds = cluster_bits.flat_map(|bits| widths.clone().map(move |width| (bits, width)));
    for (index, (bits, width)) in (0..).zip(kinds) {
        // Chains of small clusters in every depth, of large ones in turn.
        let depths = if bits <= 12 { 1..=4 } else { 1 + index % 4..=1 + index % 4 };
        for depth in depths {
            let sim = Sim::seeded(index * 4 + depth);
            let mut rng = sim.rng();
            let kind = drawn(1 << bits, width, &mut rng);
            println!("{kind}, {depth} deep");
            let state = chain(kind, depth, &mut rng);
            load_state(
                &sim,
                &state,
                &load_of(Kind { cluster_bytes: kind.cluster_bytes.min(16384), ..kind }, 12),
            );
        }
    }
}

#[test]
fn small_clusters_in_every_way() {
    run(9..=12);
}

#[test]
fn clusters_of_middle_size_in_every_way() {
    run(13..=17);
}

#[test]
fn large_clusters_in_every_way() {
    run(18..=21);
}
