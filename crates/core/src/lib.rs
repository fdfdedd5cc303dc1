//! The block graph: nodes between the users of virtual disks and the bytes of images, changed while it is in use.
//!
//! ```text
//!        control thread                              I/O threads 0, 1, 2 ...
//!   Control --> Task --> &Gs                    Lane --enter(&Backend)--> Ticket
//!     |          |        looks, plans                                      |
//!     |          |                                                          v  one request, start to end on its thread
//!     |          +-- Plan .. Change .. commit        gate of the root: counted in, counted out
//!     |                         |                                           |
//!     |                         v writes edges                              v  Io at a node
//!     |              [ node ]--------------edge-------------->[ node ] --edge--> [ node ] --> Disk
//!     |               driver                                   driver             driver
//!     +-- from jobs (`JobCtx::on_control`) and from any thread: closures go there, plain data comes back
//! ```
//! One **control thread** owns the graph and changes it. Any number of **I/O threads** run requests. No node has a lock for
//! its links, or a thread that it belongs to: every node is usable from every I/O thread, at the same time.
//!
//! # What a function may do is in its parameters
//!
//! | parameter | lives | gives the right to |
//! |---|---|---|
//! | [`&Gs`](control::Gs) | on the control thread, lent to control tasks | look at the graph and plan changes, in synchronous closures |
//! | [`&mut Task`](control::Task) | a control task | wait: for a drain, the right to change, a timer, a request of its own |
//! | [`&mut Lane`](lane::Lane) | an I/O thread | wait: for a gate, or for a peer outside the graph |
//! | [`Ticket`](lane::Ticket) | one request in flight; borrows its lane | read, flush, status; with [`ReadWrite`](backend::ReadWrite) also write, zero, discard, resize |
//! | [`Io`](request::io::Io) | a request at a node; lent to drivers | the same at this node, and at its children through [`Io::child`](request::io::Io::child) only |
//! | [`Quiet`](control::Quiet) | the control thread | nothing: it is the proof that no request is in flight below certain roots |
//! | [`Change`](control::Change) | borrows its task | private I/O; then edges, options, permissions and modes of what it declared |
//! | [`&mut JobCtx`](job::JobCtx) | lent to a job on its I/O thread | lanes, pause points, and hops to the control thread |
//!
//! None of these can be kept, copied or sent to another thread where that would break a rule. So without a check at run
//! time: an I/O path does not call a global-state function; no ticket is alive across a drain, a sleep, a pause point, a hop
//! or a socket; a child is not used after the request that reached it; an edge is not written without a change; an unchecked
//! plan is not committed. The programs in `tests/misuse` show each rule by breaking it: they do not compile.
//!
//! What types cannot say is said by ranks (job < control task < right to change < gate < resources of a ticket < device), which
//! [`waits`] asserts where a wait begins, and is looked for by models and simulation.
//!
//! # Where to begin
//!
//! - [`guide::changing_the_graph`]: opening, snapshots, reopening, errors undone, with examples that run
//! - [`guide::functions`]: every public function, and the capability that it needs
//! - [`driver`]: writing a protocol, a format or a filter; [`snapshots`]: one that has internal snapshots
//! - [`runtime`] and [`disk`]: what the core asks of the threads and devices that it runs on
//!
//! | module | what |
//! |---|---|
//! | [`control`] | the control thread: tasks, openings, plans, changes, quiet sections |
//! | [`lane`], [`backend`] | how requests enter |
//! | [`graph`] | nodes, roles, permissions, gates |
//! | [`request`] | the path of a request through layers |
//! | [`job`] | what a job's code is given |
//! | [`bitmap`] | dirty bitmaps |
//! | [`damage`] | who is told that an image is damaged |
//! | [`waits`] | who waits for what |
//! | [`mod@answer`] | one value on its way from one task to another |
//!
//! Invariants: requests enter through gates only; edges are written only while nobody is inside; a request that has entered
//! runs to its end, whoever waits for it. Does not know: formats, JSON, sockets, clocks, executors.
#![deny(unsafe_code)]

pub mod answer;
pub mod backend;
pub mod bitmap;
pub mod control;
pub mod damage;
pub mod disk;
pub mod driver;
pub mod graph;
pub mod guide;
pub mod job;
pub mod lane;
#[cfg(feature = "loom")]
#[doc(hidden)]
pub mod models;
pub mod request;
pub mod runtime;
pub mod snapshots;
mod sync;
pub mod waits;
