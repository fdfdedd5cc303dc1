//! Windows on a child: what is inside, what is outside, and who may change what.

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{ControlThread, NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::driver::{Driver, NodeFacts, WriteFlags, ZeroFlags};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::Role;
use drystone_format::raw::{Raw, RawOptions, len_file_of_new};
use drystone_protocol::memory::{Memory, MemoryOptions};
use drystone_testkit::sim::Sim;

const READ_WRITE: Grant = Grant { perm: Grant::WRITER.perm, shared: Perm::ALL };
const RESIZER: Grant = Grant { perm: Grant::WRITER.perm.with(Perm::RESIZE), shared: Perm::ALL };
const WHOLE: RawOptions = RawOptions { offset_host: 0, len_bytes: None };

const fn window(offset_host: u64, len_bytes: u64) -> RawOptions {
    RawOptions { offset_host, len_bytes: Some(len_bytes) }
}

const fn behind(offset_host: u64) -> RawOptions {
    RawOptions { offset_host, len_bytes: None }
}

/// Runs `test` as a control task of a graph.
fn on_control(test: impl AsyncFnOnce(&mut Task<'_>) + Send + 'static) {
    let sim = Sim::seeded(1);
    let (thread, control) = ControlThread::new(sim.control(), sim.io_threads() + 1);
    sim.spawn(&sim.control(), "control", thread.run());
    let test = sim.block_on(&sim.control(), control.call(async move |task: &mut Task<'_>| test(task).await));
    test.unwrap().unwrap();
}

fn new_node(
    name: &str,
    (driver, facts): (impl Driver, NodeFacts),
    children: Vec<(ChildKey, Role, NodeId)>,
) -> NewNode {
    let name = Some(name.to_owned());
    NewNode { name, driver: Box::new(driver), facts, children, owned: true, force_share: false }
}

/// Nodes 'file' of `len_file` bytes and, on it, 'disk'; a user of each.
async fn open(task: &mut Task<'_>, len_file: u64, options: RawOptions, grant: Grant) -> Result<Users> {
    let mut opening = Opening::new(task);
    let memory = Memory::open(MemoryOptions { len_bytes: len_file })?;
    let file = opening.add(new_node("file", memory, vec![]))?;
    let opened = Raw::open(opening.visit(file).await?.io(), options)?;
    let disk = opening.add(new_node("disk", opened, vec![(ChildKey::File, options.file_role(), file)]))?;
    let mut plan = Plan::new();
    plan.insert(opening);
    let spec = |name: &str, grant| RootSpec { name: name.to_owned(), grant, stays: false };
    let users = Users {
        disk: plan.attach_root(task.gs(), disk, spec("user", grant)),
        file: plan.attach_root(task.gs(), file, spec("other", READ_WRITE)),
    };
    task.apply(plan).await?;
    Ok(users)
}

struct Users {
    disk: Backend<ReadWrite>,
    file: Backend<ReadWrite>,
}

async fn read(task: &mut Task<'_>, from: &Backend<ReadWrite>, at: u64, len: usize) -> Result<Vec<u8>> {
    let (result, buf) = task.enter(from).await.read(GuestOffset::new(at), Buf::zeroed(len)).await;
    result.map(|()| buf.as_slice().to_vec())
}

async fn write(task: &mut Task<'_>, to: &Backend<ReadWrite>, at: u64, bytes: &[u8]) -> Result<()> {
    let mut ticket = task.enter(to).await;
    ticket.write(GuestOffset::new(at), Buf::copy_of(bytes), WriteFlags::default()).await.0
}

async fn len(task: &mut Task<'_>, of: &Backend<ReadWrite>) -> u64 {
    task.enter(of).await.len()
}

fn range(at: u64, len: u64) -> GuestRange {
    GuestRange::new(GuestOffset::new(at), len)
}

fn told<T>(result: Result<T>) -> (Kind, String) {
    let error: Error = result.err().unwrap();
    (error.kind(), error.to_string())
}

#[test]
fn a_child_of_any_length_gives_a_disk_or_a_refusal() {
    for len_child in [0, 1, 511, u64::MAX, u64::MAX - 511, i64::MAX as u64] {
        let len = WHOLE.len_in(len_child).unwrap();
        assert!(len.is_multiple_of(512) && len >= len_child.min(1 << 62), "{len_child}: {len}");
        assert_eq!(window(1, u64::MAX - 511).len_in(len_child).is_ok(), len_child == u64::MAX);
    }
}

#[test]
fn a_window_shows_its_part_of_the_child_and_nothing_else() {
    on_control(async |task| {
        let users = open(task, 4096, window(100, 1024), READ_WRITE).await.unwrap();
        write(task, &users.file, 0, &[1; 4096]).await.unwrap();
        assert_eq!(len(task, &users.disk).await, 1024);
        write(task, &users.disk, 0, &[2; 1024]).await.unwrap();
        let file = read(task, &users.file, 0, 4096).await.unwrap();
        assert_eq!(file[..100], [1; 100]);
        assert_eq!(file[100..1124], [2; 1024]);
        assert_eq!(file[1124..], [1; 2972]);
        assert_eq!(told(read(task, &users.disk, 1023, 2).await).0, Kind::OutOfRange);
        task.enter(&users.disk).await.write_zeroes(range(0, 512), ZeroFlags::default()).await.unwrap();
        task.enter(&users.disk).await.discard(range(512, 512)).await.unwrap();
        assert_eq!(read(task, &users.file, 99, 3).await.unwrap(), [1, 0, 0]);
        assert_eq!(read(task, &users.file, 1123, 2).await.unwrap(), [0, 1]);
    });
}

#[test]
fn the_last_sector_is_whole_and_zeroes_past_the_end_of_the_child() {
    on_control(async |task| {
        let users = open(task, 1000, WHOLE, READ_WRITE).await.unwrap();
        assert_eq!(len(task, &users.disk).await, 1024);
        write(task, &users.file, 0, &[1; 1000]).await.unwrap();
        let mut expected = vec![1; 1000];
        expected.resize(1024, 0);
        assert_eq!(read(task, &users.disk, 0, 1024).await.unwrap(), expected);
        let status = task.enter(&users.disk).await.status(range(1000, 24), 0).await.unwrap();
        assert!(status.zero);
        task.enter(&users.disk).await.discard(range(512, 512)).await.unwrap();
        write(task, &users.disk, 1023, &[3]).await.unwrap();
        assert_eq!(len(task, &users.file).await, 1024);
    });
}

#[test]
fn the_child_is_at_the_same_place_in_block_status() {
    on_control(async |task| {
        let users = open(task, 1 << 20, behind(512), READ_WRITE).await.unwrap();
        write(task, &users.file, 512 << 10, b"data").await.unwrap();
        let whole = range(0, (1 << 20) - 512);
        let hole = task.enter(&users.disk).await.status(whole, 0).await.unwrap();
        assert_eq!((hole.len, hole.zero, hole.offset), ((512 << 10) - 512, true, Some(512)));
        let data = task.enter(&users.disk).await.status(whole.skip(hole.len), 0).await.unwrap();
        assert_eq!((data.data, data.offset, data.depth), (true, Some(512 << 10), 0));
    });
}

#[test]
fn only_a_disk_without_a_size_grows() {
    on_control(async |task| {
        let users = open(task, 2048, behind(512), RESIZER).await.unwrap();
        write(task, &users.disk, 2048, &[1; 512]).await.unwrap();
        assert_eq!((len(task, &users.disk).await, len(task, &users.file).await), (2560, 3072));
        task.enter(&users.disk).await.resize(1024, Default::default()).await.unwrap();
        assert_eq!((len(task, &users.disk).await, len(task, &users.file).await), (1024, 1536));
        let fixed = task.enter(&users.disk).await.resize(u64::MAX, Default::default()).await;
        assert_eq!(told(fixed).0, Kind::OutOfRange);
    });
    on_control(async |task| {
        let users = open(task, 2048, window(512, 512), RESIZER).await.unwrap();
        assert_eq!(told(write(task, &users.disk, 512, &[1]).await).0, Kind::NoSpace);
        let past = range(0, 1024);
        let zeroed = task.enter(&users.disk).await.write_zeroes(past, ZeroFlags::default()).await;
        assert_eq!(told(zeroed).0, Kind::NoSpace);
        let resized = task.enter(&users.disk).await.resize(1024, Default::default()).await;
        assert_eq!(told(resized).0, Kind::Unsupported);
        assert_eq!(len(task, &users.disk).await, 512);
    });
}

#[test]
fn windows_that_are_not_inside_the_file_are_refused() {
    let refused = |len_file, options: RawOptions| {
        on_control(async move |task| {
            let (kind, text) = told(open(task, len_file, options, READ_WRITE).await.map(drop));
            assert_eq!(kind, Kind::InvalidInput, "{options:?}: {text}");
        });
    };
    refused(1024, behind(1025));
    refused(1024, behind(u64::MAX));
    refused(1024, window(0, 1536));
    refused(1024, window(600, 512));
    refused(1024, window(0, 100));
    refused(1024, window(512, !511));
    on_control(async |task| {
        open(task, 1024, behind(1024), READ_WRITE).await.unwrap();
    });
    on_control(async |task| {
        open(task, 1024, window(512, 512), READ_WRITE).await.unwrap();
    });
}

#[test]
fn the_child_is_resized_only_on_behalf_of_a_user_who_may() {
    for (options, grant, resizes) in [
        (WHOLE, READ_WRITE, false),
        (window(0, 512), READ_WRITE, false),
        (behind(512), READ_WRITE, false),
        (behind(512), RESIZER, true),
    ] {
        on_control(async move |task| {
            open(task, 4096, options, grant).await.unwrap();
            let edge = task.gs().with(|graph| graph.node_named("disk").unwrap().edges[0].clone());
            assert_eq!(edge.grant.perm, grant.perm, "{options:?}");
            assert_eq!(edge.grant.perm.has(Perm::RESIZE), resizes);
            assert_eq!(edge.grant.shared.has(Perm::RESIZE), options == WHOLE);
        });
    }
}

#[test]
fn reopening_moves_the_window() {
    on_control(async |task| {
        let users = open(task, 4096, window(0, 512), READ_WRITE).await.unwrap();
        write(task, &users.file, 1024, b"there").await.unwrap();
        let disk = task.gs().find("disk").unwrap();
        let mut plan = Plan::new();
        plan.reopen(disk, Box::new(window(1024, 1024)));
        task.apply(plan).await.unwrap();
        assert_eq!(len(task, &users.disk).await, 1024);
        assert_eq!(read(task, &users.disk, 0, 5).await.unwrap(), b"there");
        let mut plan = Plan::new();
        plan.reopen(disk, Box::new(window(4096, 512)));
        assert_eq!(told(task.apply(plan).await).0, Kind::InvalidInput);
        assert_eq!(read(task, &users.disk, 0, 5).await.unwrap(), b"there", "nothing has changed");
    });
}

#[test]
fn a_new_disk_has_whole_sectors() {
    assert_eq!(len_file_of_new(0).unwrap(), 0);
    assert_eq!(len_file_of_new(1000).unwrap(), 1024);
    assert_eq!(told(len_file_of_new(u64::MAX)).0, Kind::InvalidInput);
}
