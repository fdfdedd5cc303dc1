//! What Drystone needs from an operating system: I/O threads, files, sockets, image locks.
//!
//! ```text
//!   Threads ─┬─ thread 0 (the caller's)     tasks ── wake list ── engine (io_uring | epoll + pool)
//!            ├─ thread 1                    each: one executor, one engine, timers
//!            └─ ...                         shared: a pool of threads that may block
//!   File: core's Disk on a descriptor
//! ```
//! | module | what |
//! |---|---|
//! | `threads`, `local` | the threads, and the loop of each |
//! | `task`, `wake`, `inbox` | tasks, the list of woken ones, what other threads see |
//! | `engine`, `pool` | who carries operations out |
//! | `file` | [`File`]: a [`drystone_core::disk::Disk`] |
//! | `lock` | [`ImageLock`]: who may use an image beside us |
//! | `net`, `event` | sockets, eventfds, signals |
//! | `terminal` | [`Keys`]: key presses |
//! | `activation` | sockets that a service manager has opened for us |
//! | `process` | going into the background, [`PidFile`] |
//! | `played` | with the feature `sim`: threads and sockets that a simulation plays |
//! | `calendar` | [`LocalTime`]: a moment where the machine is |
//! | [`path`] | what is done by name |
//!
//! Invariants: an I/O thread blocks in one place, its engine's turn, unless it is one of a program that serves nobody
//! ([`EngineKind`]); waking never blocks and never allocates; file I/O is never cancelled, and its buffer belongs to the
//! operation until the kernel is done. Which thread code runs on is a parameter, never a thread-local. Does not know: graphs,
//! formats, permissions, protocols.

mod activation;
mod calendar;
mod engine;
mod event;
mod file;
mod inbox;
mod local;
mod lock;
mod net;
pub mod path;
#[cfg(feature = "sim")]
pub mod played;
mod pool;
mod process;
mod slots;
mod task;
mod terminal;
mod threads;
mod timer;
mod wake;

pub use activation::{activated_count, take_activated};
pub use calendar::{LocalTime, local_time};
pub use engine::EngineKind;
pub use event::{EventFd, Signal, Signals, Watched};
pub use file::{Create, File, FileExtent, FileHints, FileId, OpenOptions, Reopened};
pub use local::SysLocal;
pub use lock::{ImageLock, Locking, Prepared};
pub use net::{Address, Closer, Listener, Network, Patience, Receiver, Sender, Stdio, Stream};
pub use pool::BlockingQueue;
pub use process::{Background, Forked, PidFile, go_into_background, load_file, raise, time_of_day};
pub use terminal::Keys;
pub use threads::{ThreadHandle, ThreadStarter, Threads};
