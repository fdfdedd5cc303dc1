//! The simulated disk keeps the promises of a disk, and breaks them only as it was told to.

mod durability;
mod faults;
mod order;

use std::rc::Rc;

use drystone_base::Result;

use super::*;
use crate::sim::Sim;

/// Runs `program` with a client of `disk` on the first I/O thread.
fn with<T>(disk: &SimDisk, seed: u64, program: impl AsyncFnOnce(DiskClient) -> T) -> T {
    let sim = Sim::seeded(seed);
    let client = DiskClient::new(disk.clone(), &sim.io(1));
    sim.block_on(&sim.io(1), program(client)).unwrap()
}

/// A disk whose operations end at once.
fn instant(len: u64) -> SimDisk {
    SimDisk::new(Image::new(len), DiskOptions { timing: Timing::Instant, ..DiskOptions::seeded(1) })
}

/// Whether a result is an error with this errno.
fn errno<T>(result: Result<T>) -> i32 {
    result.map_or_else(|error| error.errno(), |_| 0)
}

/// Starts `program` as a task of its own on the first I/O thread.
fn spawn(sim: &Sim, disk: &SimDisk, program: impl AsyncFnOnce(DiskClient) + 'static) {
    let client = DiskClient::new(disk.clone(), &sim.io(1));
    sim.spawn(&sim.io(1), "client", async move { program(client).await });
}

#[test]
fn what_was_written_is_read_at_every_pace() {
    for seed in 0..200 {
        let disk = SimDisk::zeroed(65536, seed);
        with(&disk, seed, async |client| {
            client.write(1000, &[7; 3000]).await.unwrap();
            client.write_zeroes(crate::notation::range("2000..2100"), true).await.unwrap();
            let read = client.read(999, 3002).await.unwrap();
            assert_eq!(
                (read[0], read[1], read[1000], read[1001], read[1101], read[3001]),
                (0, 7, 7, 0, 7, 0)
            );
        });
    }
}

#[test]
fn a_file_grows_and_a_device_does_not() {
    let file = instant(0);
    let device = SimDisk::new(Image::new(4096), DiskOptions { can_grow: false, ..DiskOptions::seeded(1) });
    with(&file, 1, async |client| client.write(8192, b"x").await.unwrap());
    assert_eq!(file.len(), 8193);
    with(&device, 1, async |client| {
        assert_eq!(errno(client.write(4000, &[1; 100]).await), 28);
        assert_eq!(errno(client.truncate(0, drystone_core::disk::Preallocation::Off).await), 95);
        assert_eq!(client.read(4090, 10).await.unwrap(), [0; 10]);
    });
    assert_eq!(device.len(), 4096);
}

#[test]
fn misaligned_requests_are_refused() {
    let disk = SimDisk::new(Image::new(65536), DiskOptions { align_bytes: 512, ..DiskOptions::seeded(1) });
    with(&disk, 1, async |client| {
        assert_eq!(errno(client.read(256, 512).await), 22);
        assert_eq!(errno(client.write(0, &[0; 100]).await), 22);
        assert_eq!(errno(client.write(u64::MAX - 511, &[0; 512]).await), 22);
        assert_eq!(errno(client.read(512, 512).await), 0);
    });
    assert_eq!(disk.trace().len(), 1, "refused requests never began");
}

#[test]
fn the_trace_says_what_was_done_and_in_which_order() {
    let disk = instant(65536);
    with(&disk, 1, async |client| {
        client.write_fua(4096, &[1; 512]).await.unwrap();
        client.flush().await.unwrap();
        client.truncate(32768, drystone_core::disk::Preallocation::Off).await.unwrap();
    });
    let trace = disk.trace();
    let shown: Vec<String> = trace.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["op 0 Write 4K..4608 fua", "op 1 Flush 0..0", "op 2 Truncate 32K..64K"]);
    assert!(trace[0].is_before(&trace[1]));
    assert!(!trace[1].is_before(&trace[0]));
    assert_eq!(trace[0].shard.index(), 1);
    disk.clear_trace();
    assert!(disk.trace().is_empty());
}

#[test]
fn a_discarded_range_holds_whatever_the_device_likes() {
    let held = |discard| {
        let disk = SimDisk::new(
            Image::from_bytes(&[7; 12288]),
            DiskOptions { discard: Some(discard), timing: Timing::Instant, ..DiskOptions::seeded(1) },
        );
        with(&disk, 1, async |client| {
            client.discard(crate::notation::range("4K..1M")).await.unwrap();
            let read = client.read(4096, 8192).await.unwrap();
            assert_eq!(client.read(0, 4096).await.unwrap(), [7; 4096], "only the range was touched");
            assert_eq!(disk.len(), 12288, "advice does not grow the file");
            read
        })
    };
    assert_eq!(held(DiscardAs::Kept), [7; 8192]);
    assert_eq!(held(DiscardAs::Zeroes), [0; 8192]);
    assert_eq!(crate::pattern::identify(&held(DiscardAs::Garbage)), Some((state::GARBAGE, 4096)));
}

#[test]
fn a_disk_does_the_same_again_with_the_same_seeds() {
    let run = |seed| {
        let disk = SimDisk::zeroed(65536, seed);
        let sim = Sim::seeded(seed);
        for (at, fill) in [(0, 1), (2048, 2), (4096, 3)] {
            spawn(&sim, &disk, async move |client| {
                client.write(at, &[fill; 4096]).await.unwrap();
                client.discard(crate::notation::range("1K..6K")).await.unwrap();
            });
        }
        sim.run_to_end().unwrap();
        (disk.image().to_vec(), disk.trace(), sim.schedule_hash())
    };
    for seed in 0..50 {
        assert_eq!(run(seed), run(seed));
    }
}

#[test]
fn a_client_that_goes_away_does_not_stop_the_operation() {
    let disk =
        SimDisk::new(Image::new(4096), DiskOptions { timing: Timing::Deferred, ..DiskOptions::seeded(3) });
    let sim = Sim::seeded(3);
    let client = DiskClient::new(disk.clone(), &sim.io(1));
    let answer = sim.block_on(&sim.io(1), crate::sim::abandon_after(1, client.write(0, &[9; 4096])));
    assert!(answer.unwrap().is_none());
    sim.run_to_end().unwrap();
    assert_eq!(disk.image().to_vec(), [9; 4096]);
}

#[test]
fn any_executor_can_carry_operations_out() {
    use drystone_core::disk::{Disk, DiskOp};
    let sim = Sim::seeded(3);
    let plain: drystone_core::runtime::LocalRef = Rc::new(Renamed(sim.io(1)));
    let disk =
        SimDisk::new(Image::new(4096), DiskOptions { timing: Timing::Deferred, ..DiskOptions::seeded(3) });
    let done = sim.block_on(&sim.io(1), async { disk.submit(&plain, DiskOp::Flush).await.result });
    assert!(done.unwrap().is_ok());
}

/// A thread that does not let itself be recognised as simulated.
struct Renamed(drystone_core::runtime::LocalRef);

impl drystone_core::runtime::Local for Renamed {
    fn shard(&self) -> drystone_core::runtime::Shard {
        self.0.shard()
    }
    fn spawn(&self, task: drystone_core::runtime::LocalFuture<'static, ()>) {
        self.0.spawn(task);
    }
    fn now_ns(&self) -> u64 {
        self.0.now_ns()
    }
    fn sleep_until(&self, at_ns: u64) -> drystone_core::runtime::LocalFuture<'static, ()> {
        self.0.sleep_until(at_ns)
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
