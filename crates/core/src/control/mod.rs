//! The control thread: looking at the graph and changing it.
//!
//! ```text
//!   Plan --check--> Checked --stage--> StagedPlan --admit--> Change --settle--> Settled --commit--> After --finish-->
//!           pure              gates open            drained          private I/O         synchronous     gates open
//! ```
//! | phase | what | if it fails |
//! |---|---|---|
//! | check | the resulting graph is allowed, and with which permissions | nothing has happened |
//! | stage | drivers open, lock and allocate | staged work is undone |
//! | admit | no conflicting change; then nobody inside what is written | as above |
//! | settle | last stores and flushes | as above; what was stored is valid for the old state, too |
//! | commit | edges, permissions, modes | cannot fail |
//! | after | removed nodes close | reported, changes nothing |
//!
//! A value of each phase is consumed by the next, so phases cannot be skipped or repeated; dropping one is an abort.

mod change;
mod commit;
mod gs;
mod mailbox;
mod opening;
mod outlook;
mod patience;
mod plan;
mod quiet;
mod rights;
mod step;
mod task;
mod visit;

pub use change::{Change, PrivateIo, Settled, StagedPlan};
pub use commit::After;
pub use gs::{EdgeInfo, GraphView, Gs, NodeInfo, NodeView, RootInfo};
pub use mailbox::{Control, ControlThread, PlainData};
pub use opening::{NewNode, Opening};
pub use plan::{Checked, Plan, RootSpec};
pub use quiet::Quiet;
pub use step::Demand;
pub use task::Task;
pub use visit::Visit;
