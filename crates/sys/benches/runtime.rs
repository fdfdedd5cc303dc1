//! What the runtime costs: `cargo bench -p drystone-sys [-- wakes] [files] [sockets]`.
//!
//! Prints nanoseconds by the clock, and of processor time of the thread that is looked at, which says more on a busy
//! machine. Pin it (`taskset -c 0`) for steady figures.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "a benchmark")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::poll_fn;
use std::io::{IoSlice, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use drystone_buf::Buf;
use drystone_core::disk::{Disk, DiskOp};
use drystone_core::lane::Lane;
use drystone_core::runtime::{LocalRef, yield_now};
use drystone_sys::{Create, EngineKind, File, OpenOptions, Stream, Threads};

const REPLY_BYTES: usize = 4112;
const REQUEST_BYTES: usize = 28;

/// Counts allocations.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's demands.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A moment, on the clock and in the calling thread's processor time.
#[derive(Clone, Copy)]
struct Start {
    clock: Instant,
    cpu: Duration,
    allocations: u64,
}

impl Start {
    fn now() -> Self {
        Self { allocations: ALLOCATIONS.load(Ordering::Relaxed), clock: Instant::now(), cpu: cpu_time() }
    }
}

fn cpu_time() -> Duration {
    Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)).unwrap()
}

fn report(what: &str, count: u64, start: Start) {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap() / count;
    let (wall_ns, cpu_ns) = (ns(start.clock.elapsed()), ns(cpu_time() - start.cpu));
    let allocations = (ALLOCATIONS.load(Ordering::Relaxed) - start.allocations) as f64 / count as f64;
    println!("{what:<58} {wall_ns:>8} ns {cpu_ns:>8} ns cpu {allocations:>6.2} allocations");
}

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_asked = |part: &str| asked.is_empty() || asked.iter().any(|word| word == part);
    for kind in [EngineKind::Uring, EngineKind::Pool] {
        println!("engine {kind:?}");
        if is_asked("wakes") {
            wakes(kind);
        }
        if is_asked("files") {
            files(kind, "/dev/shm");
            files(kind, "/tmp");
        }
        if is_asked("sockets") {
            sockets(kind, 1);
            sockets(kind, 32);
        }
    }
    if is_asked("sockets") {
        blocking_sockets(1);
        blocking_sockets(32);
    }
}

fn wakes(kind: EngineKind) {
    let mut threads = Threads::start(2, kind).unwrap();
    const COUNT: u64 = 1_000_000;
    let start = Start::now();
    threads.run_here(|_| async {
        for _ in 0..COUNT {
            yield_now().await;
        }
    });
    report("a task wakes itself", COUNT, start);
    let start = Start::now();
    threads.run_here(|local| async move {
        let left = Rc::new(Cell::new(100));
        for _ in 0..100 {
            let left = Rc::clone(&left);
            local.spawn(Box::pin(async move {
                for _ in 0..COUNT / 100 {
                    yield_now().await;
                }
                left.set(left.get() - 1);
            }));
        }
        while left.get() > 0 {
            yield_now().await;
        }
    });
    report("100 tasks wake themselves", COUNT, start);
    remote_wakes(&mut threads, 1);
    remote_wakes(&mut threads, 1000);
}

/// Pairs of tasks on two threads that wake each other in turn.
#[derive(Default)]
struct Ball {
    state: Mutex<(usize, [Option<Waker>; 2])>,
}

impl Ball {
    async fn play(&self, side: usize, rounds: u64) {
        for _ in 0..rounds {
            poll_fn(|cx| {
                let mut state = self.state.lock().unwrap();
                if state.0 != side {
                    state.1[side] = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                state.0 = 1 - side;
                if let Some(other) = state.1[1 - side].take() {
                    other.wake();
                }
                Poll::Ready(())
            })
            .await;
        }
    }
}

fn remote_wakes(threads: &mut Threads, pairs: u64) {
    let rounds = 100_000 / pairs;
    let balls: Arc<Vec<Ball>> = Arc::new((0..pairs).map(|_| Ball::default()).collect());
    let far = Arc::clone(&balls);
    let start = Start::now();
    threads.handles()[1]
        .spawn(move |local| async move {
            for index in 0..far.len() {
                let far = Arc::clone(&far);
                local.spawn(Box::pin(async move { far[index].play(1, rounds).await }));
            }
        })
        .unwrap();
    threads.run_here(|local| async move {
        let left = Rc::new(Cell::new(balls.len()));
        let done: Rc<Cell<Option<Waker>>> = Rc::default();
        for index in 0..balls.len() {
            let (balls, left, done) = (Arc::clone(&balls), Rc::clone(&left), Rc::clone(&done));
            local.spawn(Box::pin(async move {
                balls[index].play(0, rounds).await;
                left.set(left.get() - 1);
                if left.get() == 0
                    && let Some(waker) = done.take()
                {
                    waker.wake();
                }
            }));
        }
        poll_fn(|cx| {
            done.set(Some(cx.waker().clone()));
            if left.get() == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    });
    report(&format!("a wake from the other thread, {pairs} pairs of tasks"), 2 * rounds * pairs, start);
}

fn at(index: u64) -> u64 {
    (index * 7919 % 16384) * 4096
}

fn files(kind: EngineKind, folder: &str) {
    const COUNT: u64 = 50_000;
    let path = std::path::Path::new(folder).join("drystone-bench");
    std::fs::write(&path, vec![7; 64 << 20]).unwrap();
    let plain = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut block = [0; 4096];
    let start = Start::now();
    for index in 0..COUNT {
        plain.read_exact_at(&mut block, at(index)).unwrap();
    }
    report(&format!("{folder} 4 KiB pread"), COUNT, start);
    let start = Start::now();
    for index in 0..COUNT {
        plain.write_all_at(&block, at(index)).unwrap();
    }
    report(&format!("{folder} 4 KiB pwrite"), COUNT, start);
    let mut threads = Threads::start(1, kind).unwrap();
    threads.run_here(|local| async move {
        for direct in [false, true] {
            let options = OpenOptions { writable: true, direct, create: Create::No };
            let Ok(file) = File::open(&*local, &path, options).await else { continue };
            for (is_write, depth) in [(false, 1), (true, 1), (false, 32), (true, 32)] {
                disk(&local, &file, folder, is_write, depth).await;
            }
        }
        std::fs::remove_file(&path).unwrap();
    });
}

async fn disk(local: &LocalRef, file: &File, folder: &str, is_write: bool, depth: u64) {
    let count: u64 = 20_000;
    let start = Start::now();
    let mut bufs: Vec<Buf> = (0..depth).map(|_| Buf::zeroed(4096)).collect();
    for round in 0..count / depth {
        let pending: Vec<_> = bufs
            .drain(..)
            .zip(0..)
            .map(|(buf, index)| {
                let at = at(round * depth + index);
                let op =
                    if is_write { DiskOp::Write { at, buf, fua: false } } else { DiskOp::Read { at, buf } };
                file.submit(local, op)
            })
            .collect();
        for completion in pending {
            bufs.push(completion.await.buf.unwrap());
        }
    }
    let what = if is_write { "write" } else { "read" };
    let how = if file.is_direct() { "direct" } else { "buffered" };
    report(&format!("{folder} 4 KiB File {what}, {how}, depth {depth}"), count, start);
}

fn rounds(depth: usize) -> usize {
    if depth == 1 { 50_000 } else { 8_000 }
}

/// The client: plain blocking calls. Returns when the server has answered everything.
fn client(mut socket: UnixStream, depth: usize) {
    let request = vec![0; REQUEST_BYTES * depth];
    let mut reply = vec![0; REPLY_BYTES * depth];
    for _ in 0..rounds(depth) {
        socket.write_all(&request).unwrap();
        socket.read_exact(&mut reply).unwrap();
    }
}

fn sockets(kind: EngineKind, depth: usize) {
    let (near, far) = UnixStream::pair().unwrap();
    let mut threads = Threads::start(1, kind).unwrap();
    let start = Start::now();
    let thread = std::thread::spawn(move || client(near, depth));
    threads.run_here(|local| async move {
        let (mut receiver, mut sender) = Stream::from_fd(far.into()).unwrap().split();
        let mut lane = Lane::new(local);
        let payload = vec![0; REPLY_BYTES];
        while receiver.fill(&mut lane, REQUEST_BYTES).await.unwrap() {
            let requests = receiver.buffered().len() / REQUEST_BYTES;
            receiver.consume(requests * REQUEST_BYTES);
            let mut parts: Vec<_> = (0..requests).map(|_| IoSlice::new(&payload)).collect();
            sender.send(&mut lane, &mut parts).await.unwrap();
        }
    });
    report(
        &format!("socket, 28 B there and 4 KiB back, depth {depth}"),
        (rounds(depth) * depth) as u64,
        start,
    );
    thread.join().unwrap();
}

fn blocking_sockets(depth: usize) {
    let (near, mut far) = UnixStream::pair().unwrap();
    let start = Start::now();
    let thread = std::thread::spawn(move || client(near, depth));
    let mut requests = vec![0; 64 << 10];
    let payload = vec![0; REPLY_BYTES];
    let mut have = 0;
    loop {
        let moved = far.read(&mut requests).unwrap();
        if moved == 0 {
            break;
        }
        have += moved;
        let mut parts: Vec<_> = (0..have / REQUEST_BYTES).map(|_| IoSlice::new(&payload)).collect();
        have %= REQUEST_BYTES;
        let mut rest = &mut parts[..];
        while !rest.is_empty() {
            let moved = far.write_vectored(rest).unwrap();
            IoSlice::advance_slices(&mut rest, moved);
        }
    }
    report(&format!("the same with blocking calls, depth {depth}"), (rounds(depth) * depth) as u64, start);
    thread.join().unwrap();
}
