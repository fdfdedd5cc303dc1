//! The path of a request: from a ticket through any number of layers to a device and back.
//!
//! | module | what |
//! |---|---|
//! | `presence` | how a request is inside the graph |
//! | `run` | running it to its end, whoever waits for it |
//! | [`io`] | a request at a node: what drivers are lent |
//! | `resolve` | where the bytes are |
//! | `straight` | requests that are one operation on one device |
//! | `read`, `write`, `zero`, `status`, `flush` | the operations |
//! | [`press`] | compressed writes in two steps |
//! | [`event`] | what is about to happen, for nodes that inject errors |
//! | `offload` | copies that a device makes |
//! | `device` | alignment and bouncing |
//! | `serialise` | range locks |
//! | [`observe`] | who is told of writes |
//! | `chain` | what is remembered of layers that cannot change |

pub(crate) mod chain;
pub(crate) mod device;
pub mod event;
pub(crate) mod flush;
pub mod io;
pub mod observe;
pub(crate) mod offload;
pub(crate) mod presence;
pub mod press;
pub(crate) mod read;
pub(crate) mod resolve;
pub(crate) mod run;
pub mod serialise;
pub(crate) mod status;
pub(crate) mod straight;
pub(crate) mod write;
pub(crate) mod zero;
