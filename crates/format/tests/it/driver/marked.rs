//! The mark of damage, cut at every boundary: it is there or not, nothing else has changed, and an image that has it is not
//! opened for writing.

use drystone_base::Kind;
use drystone_format::qcow2::driver::open::Qcow2Options;
use drystone_format::qcow2::feature::IncompatibleBit;
use drystone_testkit::client::{BackendClient, Target};
use drystone_testkit::crash::{CrashPoints, Subject};
use drystone_testkit::disk::{Image, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::sim::Sim;

use super::chain::{Chain, SMALL, header};
use super::state::State;

/// Where version 3 says that an image is damaged, and how.
const INCOMPATIBLE: u64 = 79;
const CORRUPT: u8 = 2;

/// An image of which one entry is damaged.
struct Marked {
    image: Image,
}

impl Marked {
    /// Touches the damage and something else.
    fn touch(&self, sim: &Sim, disks: &[SimDisk]) -> bool {
        let graph = SimGraph::start(sim);
        let Ok(chain) = Chain::open(&graph, disks, SMALL) else { return false };
        let touched = sim.block_on(&sim.io(1), async {
            let mut client = BackendClient::new(&chain.backend, &sim.io(1));
            let damaged = client.write(40 << 10, &[7; 512], false).await;
            let after = client.write(0, &[7; 512], false).await;
            damaged.is_err_and(|error| error.kind() == Kind::Corrupt) && after.is_err()
        });
        let _ = chain.close(&graph);
        touched.unwrap() && !disks[0].power().is_off()
    }
}

impl Subject for Marked {
    /// The mark must be there.
    type Known = bool;

    fn change(&self, sim: &Sim, disks: &[SimDisk]) -> bool {
        self.touch(sim, disks)
    }

    fn verify(&self, sim: &Sim, disks: &[SimDisk], is_marked: &bool) -> bool {
        let found = disks[0].image();
        let has_mark = header(&found).incompatible().has(IncompatibleBit::Corrupt);
        assert!(has_mark || !is_marked, "the mark is gone");
        let mut expected = self.image.clone();
        expected.write(INCOMPATIBLE, &[if has_mark { CORRUPT } else { 0 }]);
        assert!(found == expected, "more than the mark has changed");
        let graph = SimGraph::start(sim);
        assert_eq!(Chain::open(&graph, disks, SMALL).is_err(), has_mark);
        let to_read = Qcow2Options { read_only: true, ..SMALL };
        if has_mark {
            Chain::open_to_read(&graph, &disks[0], to_read).unwrap();
        }
        has_mark
    }

    fn go_on(&self, sim: &Sim, disks: &[SimDisk], was_marked: bool) -> bool {
        self.touch(sim, disks) || was_marked
    }
}

pub(super) fn look_at(name: &str) {
    let state = State::new("64K").after("write 0..4K; write 40K..44K");
    let mut image = state.images[0].clone();
    let l1 = header(&image).l1().at.get();
    let l2 = u64::from_be_bytes(image.bytes(l1..l1 + 8).try_into().unwrap()) & !(1 << 63);
    // The L2 entry at 40K is not aligned.
    let place = l2 + 10 * 8 + 6;
    let good = image.bytes(place..place + 1)[0];
    image.write(place, &[good | 2]);
    CrashPoints::of(name, vec![image.clone()]).look_at(&Marked { image });
}
