//! The state of a machine behind the disk: kept, found again, and never seen in the disk.

use drystone_base::{GuestRange, Kind, Result};
use drystone_core::disk::Preallocation;
use drystone_testkit::client::{BackendClient, Target};
use drystone_testkit::disk::{Image, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::sim::Sim;

use super::chain::{Chain, SMALL, demand_clean, header};
use super::state::{State, instant_disk};

/// What one user does with the images, which are closed and looked at afterwards.
fn with(images: &[Image], act: impl AsyncFnOnce(&mut BackendClient) -> Result<()> + 'static) -> Vec<Image> {
    with_snapshots(images, "", act)
}

/// As [`with`], after a change of internal snapshots.
fn with_snapshots(
    images: &[Image],
    change: &str,
    act: impl AsyncFnOnce(&mut BackendClient) -> Result<()> + 'static,
) -> Vec<Image> {
    let sim = Sim::seeded(0);
    let disks: Vec<SimDisk> = images.iter().map(instant_disk).collect();
    let graph = SimGraph::start(&sim);
    let chain = Chain::open(&graph, &disks, SMALL).unwrap();
    if !change.is_empty() {
        chain.change_snapshots(&graph, change).unwrap();
    }
    let mut client = BackendClient::new(&chain.backend, &sim.io(1));
    sim.block_on(&sim.io(1), async move { act(&mut client).await }).unwrap().unwrap();
    chain.close(&graph).unwrap();
    let images: Vec<Image> = disks.iter().map(SimDisk::image).collect();
    demand_clean(images.last().unwrap());
    images
}

async fn disk_is(client: &mut BackendClient, at: u64, byte: u8, len: u64) {
    let range = GuestRange::checked(at, len).unwrap();
    let read = client.read(range).await.unwrap();
    assert!(read.iter().all(|&read| read == byte), "the disk has other bytes than {byte} at {at}");
}

async fn state_is(client: &mut BackendClient, at: u64, byte: u8, len: usize) {
    let read = client.read_state(at, len).await.unwrap();
    assert_eq!(read, vec![byte; len], "the state at {at}");
}

#[test]
fn a_state_is_found_again_and_the_disk_shows_nothing_of_it() {
    for kind in ["c512 64K", "c64K 1M", "c16K x 128K", "v2 64K", "data 64K", "c1K r1 48K"] {
        let images = State::new(kind).after("write 0..48K").images;
        let entries = header(images.last().unwrap()).l1().entries;
        let images = with(&images, async |client| {
            state_is(client, 0, 0, 700).await;
            client.write_state(0, &[5; 5000]).await?;
            client.write_state(100, &[6; 10]).await?;
            client.write_state(70_000, &[7; 512]).await?;
            client.write_state(3, &[]).await
        });
        assert!(header(images.last().unwrap()).l1().entries > entries, "{kind}");
        with(&images, async |client| {
            state_is(client, 0, 5, 100).await;
            state_is(client, 100, 6, 10).await;
            state_is(client, 110, 5, 4890).await;
            state_is(client, 5000, 0, 65_000).await;
            state_is(client, 70_000, 7, 512).await;
            state_is(client, 1 << 50, 0, 10).await;
            let past = client.read(GuestRange::checked(1 << 20, 512).unwrap()).await;
            assert_eq!(past.unwrap_err().kind(), Kind::OutOfRange);
            Ok(())
        });
    }
}

#[test]
fn a_state_is_gone_where_the_disk_grows_over_it() {
    let images = State::new("c512 64K").images;
    let images = with(&images, async |client| client.write_state(0, &[5; 100_000]).await);
    let images = with(&images, async |client| {
        client.resize_with(80 << 10, Preallocation::Off).await?;
        disk_is(client, 0, 0, 80 << 10).await;
        // Byte 0 is further behind now.
        state_is(client, 0, 5, 1000).await;
        client.resize_with(10 << 10, Preallocation::Off).await?;
        state_is(client, 0, 0, 100_000).await;
        client.resize_with(1 << 20, Preallocation::Off).await?;
        disk_is(client, 0, 0, 1 << 20).await;
        Ok(())
    });
    drop(images);
}

#[test]
fn a_state_stays_where_the_disk_grows_before_it() {
    let images = State::new("c64K 64K").images;
    with(&images, async |client| {
        client.write_state(0, &[5; 4096]).await?;
        client.resize_with(1 << 20, Preallocation::Off).await?;
        state_is(client, 0, 5, 4096).await;
        Ok(())
    });
}

#[test]
fn snapshots_bring_their_state_along() {
    let images = State::new("c512 64K").after("write 0..48K").images;
    let images = with(&images, async |client| client.write_state(0, &[5; 3000]).await);
    let images = with_snapshots(&images, "take one", async |client| {
        state_is(client, 0, 5, 3000).await;
        client.write_state(1000, &[6; 40_000]).await
    });
    let images = with_snapshots(&images, "apply 1", async |client| {
        state_is(client, 0, 5, 3000).await;
        state_is(client, 3072, 0, 40_000).await;
        client.write_state(2000, &[7; 100]).await
    });
    with_snapshots(&images, "delete 1", async |client| {
        state_is(client, 0, 5, 2000).await;
        state_is(client, 2000, 7, 100).await;
        state_is(client, 2100, 5, 900).await;
        Ok(())
    });
}

#[test]
fn a_state_past_the_largest_table_is_refused() {
    let images = State::new("64K").images;
    with(&images, async |client| {
        for at in [1 << 50, u64::MAX - 10, u64::MAX] {
            assert_eq!(client.write_state(at, &[1; 4]).await.unwrap_err().kind(), Kind::TooLarge);
            state_is(client, at, 0, 4).await;
        }
        Ok(())
    });
}
