//! `img bench`: how fast requests of one kind are.
//!
//! ```text
//!  requests left      100 99 98 97 | 96 ...           | every FLUSH_INTERVAL: all are awaited, then a flush;
//!  in flight          at most DEPTH                     with --no-drain, a flush among them
//! ```
//! Requests begin in order, each STEP behind the last, and start again at the front of the disk when they reach its end.
//!
//! Not here: how our figures are measured (docs/performance.md).

use std::cell::{Cell, RefCell};
use std::ffi::{OsStr, OsString};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use drystone_base::{Error, GuestOffset, Kind, Result};
use drystone_buf::Buf;
use drystone_core::answer::{Answer, answer};
use drystone_core::backend::{Backend, Mode, ReadOnly, ReadWrite};
use drystone_core::driver::WriteFlags;
use drystone_core::lane::Lane;
use drystone_protocol::file::Aio;

use super::line::{self, Line, QUIET, SIZE_MAX, cache_mode, count_between, size_between};
use super::{Console, Failure, options};
use crate::args::getopt::Flag;
use crate::args::number::parse_number;
use crate::tool::disk::Disk;
use crate::tool::image::{CacheMode, ImageArgs};
use crate::tool::{self, Load, Tool};

const FLAGS: &[Flag] = &[
    options::HELP,
    QUIET,
    options::FORMAT,
    options::IMAGE_OPTS,
    Flag::value(Some('t'), "cache"),
    Flag::value(Some('c'), "count"),
    Flag::value(Some('d'), "depth"),
    Flag::value(Some('o'), "offset"),
    Flag::value(Some('s'), "buffer-size"),
    Flag::value(Some('S'), "step-size"),
    Flag::value(Some('i'), "aio"),
    Flag::switch(Some('n'), "native"),
    Flag::switch(Some('w'), "write"),
    Flag::value(None, "pattern"),
    Flag::value(None, "flush-interval"),
    Flag::switch(None, "no-drain"),
    options::FORCE_SHARE,
];

const HELP: &str = "\
Sends requests to a disk and says how long they took.

  bench [OPTION...] IMAGE

  -c, --count N           so many requests (75000)
  -d, --depth N           so many at once (64)
  -s, --buffer-size N     so many bytes each (4096)
  -o, --offset N          the first one there (0)
  -S, --step-size N       each next one so far behind (the buffer size)
  -w, --write             write; without it, read
      --pattern BYTE      what is written (0)
      --flush-interval N  flush whenever so many more are done
      --no-drain          do not wait for the requests before a flush
  -t, --cache MODE        none, writeback, writethrough, directsync or unsafe (writeback)
  -i, --aio MODE          threads, native or io_uring
  -n, --native            the same as --aio native
  -f, --format FORMAT     raw or qcow2; without it, the first bytes decide
      --image-opts        IMAGE is a list of options: driver=qcow2,file.filename=PATH
  -U, --force-share       look at an image that somebody else writes to
  -q, --quiet             without effect
  -h, --help              this text
";

const NUMBER_MAX: u64 = i32::MAX as u64;
/// More requests than these are never under way at once.
const LANES_MAX: u64 = 4096;

/// What is to be done.
#[derive(Debug, Clone)]
struct Request {
    count: u64,
    depth: u64,
    offset: u64,
    buffer_bytes: u64,
    step_bytes: Option<u64>,
    is_write: bool,
    pattern: u8,
    flush_interval: u64,
    waits_for_flush: bool,
    cache: CacheMode,
    aio: Aio,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            count: 75_000,
            depth: 64,
            offset: 0,
            buffer_bytes: 4096,
            step_bytes: None,
            is_write: false,
            pattern: 0,
            flush_interval: 0,
            waits_for_flush: true,
            cache: CacheMode::WRITEBACK,
            aio: Aio::default(),
        }
    }
}

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let mut request = Request::default();
    let line = Line::read("bench", FLAGS, args, |name, value| Ok(request.take(name, value)?))?;
    let Some(line) = line else {
        console.print(HELP);
        return Ok(0);
    };
    let image = line.only_image()?;
    request.check(&image)?;
    let image = ImageArgs { cache: request.cache, aio: request.aio, ..image };
    tool::run(line::start(console, Load::Heavy), async |tool: &Tool| {
        let elapsed = if request.is_write {
            let disk = tool.open_writer(&image, false).await?;
            announce(&request, console);
            let job = Job::new(&request, &disk);
            write(tool, job, disk.flags).await
        } else {
            let disk = tool.open_reader(&image).await?;
            announce(&request, console);
            let job = Job::new(&request, &disk);
            read(tool, job).await
        }?;
        console.print(format!("Run completed in {elapsed:.3} seconds.\n"));
        Ok(())
    })?;
    Ok(0)
}

impl Request {
    fn take(&mut self, name: &'static str, value: &OsStr) -> Result<()> {
        let number = |least| size_between(name, value, (least, NUMBER_MAX));
        match name {
            "cache" => self.cache = cache_mode(name, value)?,
            "count" => self.count = count_between(name, value, (1, NUMBER_MAX))?,
            "depth" => self.depth = count_between(name, value, (1, NUMBER_MAX))?,
            "offset" => self.offset = size_between(name, value, (0, SIZE_MAX))?,
            "buffer-size" => self.buffer_bytes = number(1)?,
            "step-size" => self.step_bytes = Some(number(0)?).filter(|step| *step > 0),
            "aio" => self.aio = parse_aio(value)?,
            "native" => self.aio = Aio::Native,
            "write" => self.is_write = true,
            "pattern" => self.pattern = parse_pattern(value)?,
            "flush-interval" => self.flush_interval = count_between(name, value, (0, NUMBER_MAX))?,
            _ => self.waits_for_flush = false,
        }
        Ok(())
    }

    fn check(&self, image: &ImageArgs) -> Result<()> {
        let invalid = |option: &str, text: &str| Err(Error::new(Kind::InvalidInput, text).in_option(option));
        if !self.is_write && self.flush_interval > 0 {
            return invalid("flush-interval", "only what is written is flushed");
        }
        if self.flush_interval > 0 && self.flush_interval < self.depth {
            return invalid("flush-interval", "it is less than the number of requests at once");
        }
        if self.is_write && image.force_share {
            return invalid("force-share", "somebody who writes cannot let others write");
        }
        Ok(())
    }
}

fn parse_aio(value: &OsStr) -> Result<Aio> {
    match value.to_str() {
        Some("threads") => Ok(Aio::Threads),
        Some("native") => Ok(Aio::Native),
        Some("io_uring") => Ok(Aio::IoUring),
        _ => {
            let text = format!("'{}' is none of threads, native, io_uring", value.display());
            Err(Error::new(Kind::InvalidInput, text).in_option("aio"))
        }
    }
}

fn parse_pattern(value: &OsStr) -> Result<u8> {
    let byte = value.to_str().and_then(|text| parse_number(text).ok()).and_then(|n| u8::try_from(n).ok());
    byte.ok_or_else(|| {
        let text = format!("'{}' is no byte from 0 to 255", value.display());
        Error::new(Kind::InvalidInput, text).in_option("pattern")
    })
}

fn announce(request: &Request, console: &mut Console) {
    let Request { count, depth, offset, buffer_bytes, .. } = request;
    let kind = if request.is_write { "write" } else { "read" };
    let step = request.step_bytes.unwrap_or(*buffer_bytes);
    console.print(format!(
        "Sending {count} {kind} requests, {buffer_bytes} bytes each, {depth} in parallel (starting at offset {offset}, \
         step size {step})\n"
    ));
    if request.flush_interval > 0 {
        console.print(format!("Sending flush every {} requests\n", request.flush_interval));
    }
}

/// Requests on their way, of one thread.
struct Job<M: Mode> {
    backend: Backend<M>,
    request: Request,
    len_bytes: u64,
    left: Cell<u64>,
    offset: Cell<u64>,
    in_flight: Cell<u64>,
    failed: RefCell<Option<Error>>,
    /// Whoever waits until nothing is in flight, and whoever waits for that to be over.
    waiting: RefCell<Vec<Waker>>,
    is_draining: Cell<bool>,
}

impl<M: Mode> Job<M> {
    fn new(request: &Request, disk: &Disk<M>) -> Rc<Self> {
        Rc::new(Self {
            backend: disk.backend.clone(),
            request: request.clone(),
            len_bytes: disk.len_bytes,
            left: Cell::new(request.count),
            offset: Cell::new(request.offset),
            in_flight: Cell::new(0),
            failed: RefCell::default(),
            waiting: RefCell::default(),
            is_draining: Cell::new(false),
        })
    }

    /// The offset of the next request, once it may begin; `None` if there is none.
    async fn next(&self) -> Option<u64> {
        poll_fn(|cx| {
            if self.is_draining.get() {
                self.waiting.borrow_mut().push(cx.waker().clone());
                return Poll::Pending;
            }
            if self.left.get() == 0 || self.failed.borrow().is_some() {
                return Poll::Ready(None);
            }
            let at = self.offset.get();
            let step = self.request.step_bytes.unwrap_or(self.request.buffer_bytes);
            self.offset.set(at.saturating_add(step).checked_rem(self.len_bytes).unwrap_or(0));
            self.left.set(self.left.get() - 1);
            self.in_flight.set(self.in_flight.get() + 1);
            Poll::Ready(Some(at))
        })
        .await
    }

    /// A request has ended.
    fn end(&self, result: Result<()>) {
        self.in_flight.set(self.in_flight.get() - 1);
        if let Err(error) = result {
            self.failed.borrow_mut().get_or_insert(error);
        }
        self.wake();
    }

    fn wake(&self) {
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// Whether a flush is due, seen by the request that begins now.
    fn is_flush_due(&self) -> bool {
        let interval = self.request.flush_interval;
        interval > 0 && self.left.get().is_multiple_of(interval)
    }

    /// Waits until no request is in flight. New ones wait meanwhile.
    async fn drained(&self) {
        poll_fn(|cx| {
            if self.in_flight.get() == 0 {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn result(&self) -> Result<()> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Runs one task for each request that may be under way, and says how long that took, in seconds.
    async fn run<F: Future<Output = ()> + 'static>(
        self: Rc<Self>,
        tool: &Tool,
        work: impl Fn(Rc<Self>, Lane) -> F,
    ) -> Result<f64> {
        let start_ns = tool.local().now_ns();
        let tasks: Vec<Answer<()>> = (0..self.request.depth.min(self.request.count).min(LANES_MAX))
            .map(|_| {
                let (done, is_done) = answer();
                let task = work(Rc::clone(&self), tool.lane());
                tool.local().spawn(Box::pin(async move {
                    task.await;
                    done.send(());
                }));
                is_done
            })
            .collect();
        for task in tasks {
            task.wait().await;
        }
        self.result()?;
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let elapsed_s = (tool.local().now_ns() - start_ns) as f64 / 1e9;
        Ok(elapsed_s)
    }
}

async fn read(tool: &Tool, job: Rc<Job<ReadOnly>>) -> Result<f64> {
    job.run(tool, |job, mut lane| async move {
        let mut buf = Buf::empty();
        while let Some(at) = job.next().await {
            let at = checked(at, job.request.buffer_bytes, job.len_bytes);
            let result = match at {
                Ok(at) => {
                    // Not before it is known that the request makes sense.
                    buf = if buf.is_empty() { buffer(&job.request) } else { buf };
                    let result;
                    (result, buf) = lane.enter(&job.backend).await.read(at, buf).await;
                    result
                }
                Err(error) => Err(error),
            };
            job.end(result);
        }
    })
    .await
}

async fn write(tool: &Tool, job: Rc<Job<ReadWrite>>, flags: WriteFlags) -> Result<f64> {
    job.run(tool, move |job, mut lane| async move {
        let mut buf = Buf::empty();
        while let Some(at) = job.next().await {
            let due = job.is_flush_due();
            let result = match checked(at, job.request.buffer_bytes, job.len_bytes) {
                Ok(at) => {
                    // Not before it is known that the request makes sense.
                    buf = if buf.is_empty() { buffer(&job.request) } else { buf };
                    let result;
                    (result, buf) = lane.enter(&job.backend).await.write(at, buf, flags).await;
                    result
                }
                Err(error) => Err(error),
            };
            job.end(result);
            if due {
                flush(&job, &mut lane).await;
            }
        }
    })
    .await
}

/// A flush among the requests, or with all others done.
async fn flush(job: &Job<ReadWrite>, lane: &mut Lane) {
    let waits = job.request.waits_for_flush;
    if waits {
        job.is_draining.set(true);
        job.drained().await;
    }
    let result = lane.enter(&job.backend).await.flush().await;
    if let Err(error) = result {
        job.failed.borrow_mut().get_or_insert(error);
    }
    if waits {
        job.is_draining.set(false);
        job.wake();
    }
}

fn buffer(request: &Request) -> Buf {
    let len = usize::try_from(request.buffer_bytes).unwrap_or(0);
    let mut buf = Buf::zeroed(len);
    if request.pattern != 0 {
        buf.as_mut_slice().fill(request.pattern);
    }
    buf
}

/// The offset, if the request lies in the disk.
fn checked(at: u64, len: u64, len_bytes: u64) -> Result<GuestOffset> {
    let end = at.checked_add(len).filter(|end| *end <= len_bytes);
    end.and_then(|_| GuestOffset::checked(at)).ok_or_else(|| {
        let text = format!("{len} bytes at {at} are not in the {len_bytes} bytes of the disk");
        Error::new(Kind::OutOfRange, text)
    })
}
