//! Everything at once: tasks on all threads that write and read files, talk over sockets, sleep, block, wake and start
//! each other, in an order that a seed decides. The claim is that all of it ends, with the right bytes.

use std::io::IoSlice;
use std::num::NonZeroUsize;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::rng::Rng;
use drystone_buf::Buf;
use drystone_core::disk::DiskOp;
use drystone_core::lane::Lane;
use drystone_core::runtime::{LocalRef, yield_now};
use drystone_sys::{BlockingQueue, EventFd, File, Stream, SysLocal, ThreadHandle};

use crate::common::{Arrivals, Folder, on_each_engine, open, read, run};

const BLOCK_BYTES: usize = 4096;
const TASKS: usize = 64;
const STEPS: usize = 60;

/// What every task can reach.
#[derive(Clone)]
struct Sky {
    handles: Vec<ThreadHandle>,
    files: Vec<File>,
    queue: BlockingQueue,
    arrivals: Arrivals,
}

/// Bytes that tell where they belong and when they were written.
fn contents(task: usize, step: usize) -> Vec<u8> {
    let word = u32::try_from(task * 1000 + step).unwrap().to_le_bytes();
    word.iter().copied().cycle().take(BLOCK_BYTES).collect()
}

/// Writes the task's own block and reads it again.
async fn store(local: &LocalRef, file: &File, task: usize, step: usize) {
    let at = (task * BLOCK_BYTES) as u64;
    let bytes = contents(task, step);
    let write = DiskOp::Write { at, buf: Buf::copy_of(&bytes), fua: step.is_multiple_of(7) };
    run(local, file, write).await.result.unwrap();
    assert_eq!(read(local, file, at, BLOCK_BYTES).await, bytes);
}

/// Sends a message to another thread and gets it back.
async fn echo(lane: &mut Lane, far: &ThreadHandle, step: usize) {
    let (near, theirs) = Stream::pair().unwrap();
    far.spawn(move |local| async move {
        let mut lane = Lane::new(local);
        let (mut receiver, mut sender) = theirs.split();
        while receiver.fill(&mut lane, 1).await.unwrap() {
            let bytes = receiver.buffered().to_vec();
            receiver.consume(bytes.len());
            sender.send(&mut lane, &mut [IoSlice::new(&bytes)]).await.unwrap();
        }
    })
    .unwrap();
    let (mut receiver, mut sender) = near.split();
    let bytes = contents(step, step);
    sender.send(lane, &mut [IoSlice::new(&bytes)]).await.unwrap();
    let mut back = vec![0; bytes.len()];
    receiver.recv_exact(lane, &mut back).await.unwrap();
    assert_eq!(back, bytes);
}

/// Waits for an event that another thread signals.
async fn signalled(lane: &mut Lane, far: &ThreadHandle) {
    let event = EventFd::new().unwrap();
    let theirs = event.clone();
    far.spawn(move |_| async move { theirs.signal().unwrap() }).unwrap();
    assert_eq!(event.wait(lane).await.unwrap(), 1);
}

async fn live(local: LocalRef, sky: Sky, task: usize, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut lane = Lane::new(Rc::clone(&local));
    for step in 0..STEPS {
        let far = &sky.handles[rng.index(sky.handles.len())];
        match rng.index(7) {
            0 => local.sleep_until(local.now_ns() + rng.below(200_000)).await,
            1 => yield_now().await,
            2 => echo(&mut lane, far, step).await,
            3 => signalled(&mut lane, far).await,
            4 => {
                let call = SysLocal::of(&*local).unwrap().blocking(&sky.queue, move || step);
                assert_eq!(call.await.unwrap(), step);
            }
            index => store(&local, &sky.files[index - 5], task, step).await,
        }
    }
    sky.arrivals.arrive();
}

async fn unleash(local: LocalRef, paths: [&Path; 2], handles: Vec<ThreadHandle>) {
    let files = vec![open(&local, paths[0]).await, open(&local, paths[1]).await];
    let queue = BlockingQueue::new(NonZeroUsize::new(3).unwrap());
    let sky = Sky { handles, files, queue, arrivals: Arrivals::default() };
    for task in 0..TASKS {
        let (sky, seed) = (sky.clone(), task as u64);
        let handle = sky.handles[task % sky.handles.len()].clone();
        handle.spawn(move |local| live(local, sky, task, seed)).unwrap();
    }
    sky.arrivals.wait_for(TASKS).await;
}

#[test]
fn a_storm_of_everything_ends() {
    let (disk, memory) = (Folder::new(), Folder::in_memory());
    let paths = Arc::new([disk.path("disk"), memory.path("disk")]);
    on_each_engine(4, |threads| {
        let handles = threads.handles().to_vec();
        threads.run_here(|local| unleash(local, [&paths[0], &paths[1]], handles));
    });
}
