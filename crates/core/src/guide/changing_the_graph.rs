//! How the graph is opened, changed and repaired while requests run.
//!
//! ```text
//!      'guest'        'backup'            roots: users, each behind a gate
//!         |               |               root edges: what a user wants, and what it lets others do
//!    [ overlay ]          |
//!      |      \ backing   |               edges: the same for a parent node
//!      | file  \--> [    base   ]
//!   [ file ]        [ base-file ]         nodes: a driver each
//! ```
//! The graph is changed by [`Plan`]s. A plan collects changes; nothing happens until it is *applied*, and then it happens
//! as a whole or not at all:
//!
//! ```text
//!   Plan --check--> Checked --stage--> StagedPlan --admit--> Change --settle--> Settled --commit--> After --finish--> ()
//! ```
//! [`Task::apply`] goes all the way. Whoever must do something in the middle takes the steps one by one; each consumes the
//! value of the one before, so that none is left out or taken twice, and dropping the value is an abort.
//!
//! # Opening a node
//!
//! Opening is not a change of the graph. An [`Opening`] builds nodes beside it, and closes them if it is dropped. A plan
//! takes them in, and attaches users:
//!
//! ```
//! use drystone_base::{Error, GuestOffset};
//! use drystone_buf::Buf;
//! use drystone_core::backend::{Backend, ReadWrite};
//! use drystone_core::control::{Opening, Plan, RootSpec, Task};
//! use drystone_core::driver::WriteFlags;
//! use drystone_core::graph::permission::Grant;
//! use drystone_core::lane::Lane;
//! use drystone_testkit::{disk::SimDisk, graph::{SimDriver, SimGraph}, sim::Sim};
//!
//! let sim = Sim::seeded(1);
//! let graph = SimGraph::start(&sim);
//! let disk = SimDisk::zeroed(1 << 20, 1);
//! let guest: Backend<ReadWrite> = graph.call(async move |task: &mut Task<'_>| {
//!     let mut opening = Opening::new(task);
//!     let node = opening.add(SimDriver::node("disk", &disk))?;
//!     let mut plan = Plan::new();
//!     plan.insert(opening);
//!     let spec = RootSpec { name: "guest".to_owned(), grant: Grant::WRITER, stays: false };
//!     let guest = plan.attach_root(task.gs(), node, spec);
//!     task.apply(plan).await?;
//!     Ok::<_, Error>(guest)
//! })?;
//!
//! // The backend goes to an I/O thread, where a lane enters the graph with it.
//! let io = sim.io(1);
//! let mut lane = Lane::new(io.clone());
//! sim.block_on(&io, async {
//!     let mut ticket = lane.enter(&guest).await;
//!     let data = Buf::copy_of(b"dry stone");
//!     ticket.write(GuestOffset::ZERO, data, WriteFlags::default()).await.0?;
//!     ticket.flush().await
//! })
//! .unwrap()?;
//! # Ok::<(), Error>(())
//! ```
//!
//! Formats read their headers through [`Opening::visit`] before they are added, and claim a file ([`Opening::claim`])
//! before they read from it what must stay true. `blockdev` does all that by name.
//!
//! # A snapshot: insert and replace
//!
//! A live snapshot is two steps of one plan: bring in an overlay whose backing child is the disk, and move the disk's users
//! to it. The guest goes on writing meanwhile. Its requests wait at their gate for the moment of the commit; which of them
//! are in the old layer and which in the new one is decided there, and none is lost.
//!
//! ```
//! # use drystone_base::{Error, GuestOffset};
//! # use drystone_buf::Buf;
//! # use drystone_core::lane::Lane;
//! use drystone_core::control::{Opening, Plan, Task};
//! use drystone_testkit::overlay::SimOverlay;
//! # use drystone_testkit::{disk::SimDisk, graph::{SimDriver, SimGraph}, sim::Sim};
//! # let sim = Sim::seeded(1);
//! # let graph = SimGraph::start(&sim);
//! # let old = SimDisk::zeroed(1 << 20, 1);
//! # let (_, guest) = graph.open_disk("disk", &old);
//! # let new = SimDisk::zeroed(1 << 20, 2);
//!
//! graph.call(async move |task: &mut Task<'_>| {
//!     let disk = task.gs().find("disk")?;
//!     let mut opening = Opening::new(task);
//!     let file = opening.add(SimDriver::node("overlay-file", &new))?;
//!     let overlay = opening.add(SimOverlay::node("overlay", 1 << 20, file, Some(disk)))?;
//!     let mut plan = Plan::new();
//!     plan.insert(opening);
//!     plan.replace(disk, overlay);
//!     task.apply(plan).await?;
//!
//!     let users = task.gs().with(|graph| (graph.parents_of(disk), graph.parents_of(overlay)));
//!     assert_eq!(users, (vec!["overlay".to_owned()], vec!["user of disk".to_owned()]));
//!     Ok::<_, Error>(())
//! })?;
//!
//! let io = sim.io(1);
//! let mut lane = Lane::new(io.clone());
//! # let before = old.image().to_vec();
//! sim.block_on(&io, async {
//!     let mut ticket = lane.enter(&guest).await; // the same backend as before
//!     ticket.write(GuestOffset::ZERO, Buf::copy_of(b"new"), Default::default()).await.0
//! })
//! .unwrap()?;
//! # assert_eq!(old.image().to_vec(), before, "the old layer is left alone");
//! # Ok::<(), Error>(())
//! ```
//!
//! # Reopening read-only
//!
//! Read-only, active, options, permissions of users: all are steps of a plan, in any mixture. What is checked is the graph
//! that results, not the steps on the way, so the order of steps that belong together does not matter:
//!
//! ```
//! # use drystone_base::{Error, Kind};
//! use drystone_core::control::{Plan, Task};
//! use drystone_core::graph::permission::Grant;
//! # use drystone_testkit::{disk::SimDisk, graph::SimGraph, sim::Sim};
//! # let sim = Sim::seeded(1);
//! # let graph = SimGraph::start(&sim);
//! # let (_, guest) = graph.open_disk("disk", &SimDisk::zeroed(1 << 20, 1));
//!
//! graph.call(async move |task: &mut Task<'_>| {
//!     let disk = task.gs().find("disk")?;
//!     let mut plan = Plan::new();
//!     plan.set_read_only(disk, true);
//!     let refused = task.apply(plan).await.unwrap_err(); // the guest writes to it
//!     assert_eq!(refused.kind(), Kind::ReadOnly);
//!
//!     let mut plan = Plan::new();
//!     plan.set_read_only(disk, true);
//!     plan.set_grant(guest.id(), Grant::READER);
//!     task.apply(plan).await?;
//!     assert!(task.gs().with(|graph| graph.node(disk).unwrap().read_only));
//!     Ok::<_, Error>(())
//! })?;
//! # Ok::<(), Error>(())
//! ```
//!
//! What the node holds in memory is stored on the way, by its driver ([`Driver::store`]), while nobody is inside.
//!
//! # An error, undone
//!
//! A plan that is refused, or that fails while drivers prepare or store, leaves the graph, its permissions and its files as
//! they were, and closes what it would have brought in before the command answers. A conflict names both users:
//!
//! ```
//! # use drystone_base::{Error, Kind};
//! use drystone_core::backend::{Backend, ReadWrite};
//! use drystone_core::control::{Opening, Plan, RootSpec, Task};
//! # use drystone_core::graph::permission::Grant;
//! # use drystone_testkit::{disk::SimDisk, graph::{SimDriver, SimGraph}, overlay::SimOverlay, sim::Sim};
//! # let sim = Sim::seeded(1);
//! # let graph = SimGraph::start(&sim);
//! # let (_, guest) = graph.open_disk("disk", &SimDisk::zeroed(1 << 20, 1));
//! # let new = SimDisk::zeroed(1 << 20, 2);
//!
//! graph.call(async move |task: &mut Task<'_>| {
//!     let disk = task.gs().find("disk")?;
//!     let mut opening = Opening::new(task);
//!     let file = opening.add(SimDriver::node("overlay-file", &new))?;
//!     let overlay = opening.add(SimOverlay::node("overlay", 1 << 20, file, Some(disk)))?;
//!     let mut plan = Plan::new();
//!     plan.insert(opening);
//!     plan.replace(disk, overlay);
//!     let spec = RootSpec { name: "import".to_owned(), grant: Grant::WRITER, stays: false };
//!     let _second: Backend<ReadWrite> = plan.attach_root(task.gs(), overlay, spec);
//!
//!     let refused = task.apply(plan).await.unwrap_err();
//!     assert_eq!(refused.kind(), Kind::InUse);
//!     let text = refused.report();
//!     assert!(text.contains("'user of disk'"), "{text}");
//!     assert!(text.contains("'import'"), "{text}");
//!     assert!(task.gs().find("overlay").is_err());
//!     assert_eq!(task.gs().with(|graph| graph.parents_of(disk)), ["user of disk"]);
//!     Ok::<_, Error>(())
//! })?;
//! # Ok::<(), Error>(())
//! ```
//!
//! # Step by step
//!
//! | phase | the gates | may fail | what happens |
//! |---|---|---|---|
//! | [`Plan::check`] | open | yes | the resulting graph is looked at: cycles, roles, frozen edges, activity, permissions |
//! | [`Task::stage`] | open | yes | drivers prepare ([`Driver::stage`]): open, lock, connect, allocate; as slow as they need |
//! | [`Task::admit`] | closing | yes | waits for changes that conflict, then until nobody is inside what is written; looks again |
//! | [`Change::settle`] | closed | yes | the last stores and flushes, by private I/O, parents first |
//! | [`Settled::commit`] | closed | no | edges, permissions, options and modes change at once; then the gates open |
//! | [`After::finish`] | open | no | nodes that have left the graph are closed, so that their locks are gone |
//!
//! Between `admit` and `commit`, [`Change::private`] reads and writes with nobody else inside: the last bytes of a copy, a
//! header that must change in the same moment. Keep it short: users wait. Somebody else's disk does not: only roots that
//! reach a node whose own edges, options or mode change are held up. A node that gains or loses a parent is not.
//!
//! ```
//! # use drystone_base::{Error, GuestOffset};
//! use drystone_core::control::{Plan, Task};
//! # use drystone_core::graph::permission::Grant;
//! # use drystone_testkit::{disk::SimDisk, graph::SimGraph, sim::Sim};
//! # let sim = Sim::seeded(1);
//! # let graph = SimGraph::start(&sim);
//! # let (disk, guest) = graph.open_disk("disk", &SimDisk::zeroed(1 << 20, 1));
//!
//! graph.call(async move |task: &mut Task<'_>| {
//!     let mut plan = Plan::new();
//!     plan.set_read_only(disk, true);
//!     plan.set_grant(guest.id(), Grant::READER);
//!     let checked = plan.check(task.gs()).map_err(|(_plan, error)| error)?;
//!     assert_eq!(checked.quiet_nodes(), [disk]);
//!     let staged = task.stage(checked).await?;
//!     let change = task.admit(staged).await?;
//!     let label = change.private(disk)?.io().read_new(GuestOffset::ZERO, 16).await?; // nobody writes it now
//!     assert_eq!(label.as_slice(), [0; 16]);
//!     change.settle().await?.commit().finish().await;
//!     Ok::<_, Error>(())
//! })?;
//! # Ok::<(), Error>(())
//! ```
//!
//! # Only quiet
//!
//! [`Task::drain`] keeps requests out of nodes without changing anything: for looking at several disks in one moment, or
//! for a group of plans. It does not flush. Sections nest and overlap; dropping one admits everybody who waited, in order.
//! Do not enter the drained disk from the task that drains it: the request would wait for the section, and the section for
//! the task.
//!
//! # From other threads
//!
//! Everything above runs in control tasks. [`Control::call`] sends a closure to the control thread and brings back plain
//! data; [`JobCtx::on_control`] does the same for a job, at a moment when the job holds no ticket. A change runs to its end
//! even if nobody waits for the answer any more.
//!
//! # For drivers
//!
//! | method | called | what for |
//! |---|---|---|
//! | [`Driver::grant`], [`Driver::check`] | by every check; they compute and nothing else | what the node wants of its children; whether it can serve its users |
//! | [`Driver::stage`] | for every node whose permissions, mode or options a plan computes, also if none differs | take the union of old and new: descriptors, image locks, memory |
//! | [`Staged::settle`] | with nobody inside, parents first | the last I/O; what it leaves on disk, the old state accepts too |
//! | [`Staged::commit`] | children first; cannot fail, cannot wait | take over, and publish what is different |
//! | [`Staged::undo`] | instead of `commit` | take back what was prepared |
//! | [`Driver::store`] | with nobody inside, before the node leaves, becomes read-only or inactive | everything in memory goes to disk |
//! | [`Driver::close`] | after the node has left, or if it never came in | give up descriptors and locks |
//!
//! A driver keeps no child: it reaches children through the [`Io`] that it is lent, so a child that was replaced is replaced
//! for everybody at once.
//!
//! [`After::finish`]: crate::control::After::finish
//! [`Change::private`]: crate::control::Change::private
//! [`Change::settle`]: crate::control::Change::settle
//! [`Control::call`]: crate::control::Control::call
//! [`Driver::check`]: crate::driver::Driver::check
//! [`Driver::close`]: crate::driver::Driver::close
//! [`Driver::grant`]: crate::driver::Driver::grant
//! [`Driver::stage`]: crate::driver::Driver::stage
//! [`Driver::store`]: crate::driver::Driver::store
//! [`Io`]: crate::request::io::Io
//! [`JobCtx::on_control`]: crate::job::JobCtx::on_control
//! [`Opening`]: crate::control::Opening
//! [`Opening::claim`]: crate::control::Opening::claim
//! [`Opening::visit`]: crate::control::Opening::visit
//! [`Plan`]: crate::control::Plan
//! [`Plan::check`]: crate::control::Plan::check
//! [`Settled::commit`]: crate::control::Settled::commit
//! [`Staged::commit`]: crate::driver::Staged::commit
//! [`Staged::settle`]: crate::driver::Staged::settle
//! [`Staged::undo`]: crate::driver::Staged::undo
//! [`Task::admit`]: crate::control::Task::admit
//! [`Task::apply`]: crate::control::Task::apply
//! [`Task::drain`]: crate::control::Task::drain
//! [`Task::stage`]: crate::control::Task::stage
