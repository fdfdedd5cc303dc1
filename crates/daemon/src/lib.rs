//! The storage daemon: one graph, and everything that a program outside can do with it through QMP.
//!
//! ```text
//!   command line ──► startup ──► Daemon ◄── commands ◄── monitors ◄── clients
//!                                  │ nodes (blockdev), exports, objects, jobs
//!                                  └── events ──► monitors
//! ```
//! | module | what |
//! |---|---|
//! | `args`, `startup` | the command line: its grammar, and doing what it says, option by option |
//! | `daemon` | what there is, and taking it down |
//! | `monitor` | clients that send commands and are told of events |
//! | `command` | one file per family of commands: parse, call, encode |
//! | `exports`, `objects` | what commands add and remove beside nodes |
//! | `events`, `stop`, `turn` | what is told to all clients; the end; one after the other |
//!
//! Threads: all of this runs on thread 0, the control thread. Exports are served by the threads that are there from the
//! start, or by those of the `iothread` objects that they name.
//!
//! Invariants: a change that has begun runs to its end, whatever becomes of the client that asked for it; a client that
//! breaks the rules or does not listen loses its own connection, and nobody else notices; exit status 0 means that
//! everything is on disk; a start that fails leaves nothing behind.
#![forbid(unsafe_code)]

mod args;
mod command;
mod daemon;
mod error;
mod events;
mod exports;
mod main_loop;
mod monitor;
mod objects;
mod startup;
mod stop;
mod turn;

pub use daemon::Surroundings;
pub use events::Clock;
pub use main_loop::{Console, Launch, run, run_within};
