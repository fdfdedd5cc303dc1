//! Every public function, and the capability that it needs.
//!
//! *Needs* is what a caller must have: a value of that type is a parameter, by reference or consumed. *Thread* is where such
//! a value can be: `control` and `I/O` values never leave their thread, which the compiler enforces. Methods of traits
//! ([`Driver`](crate::driver::Driver), [`Disk`](crate::disk::Disk), [`Local`](crate::runtime::Local) and others) say what
//! their callers promise where they are declared. `cargo xtask tidy` fails if this page misses a function or names one that
//! does not exist.
//!
//! <!-- functions of core -->
//!
//! # The control thread
//!
//! In [`control`](crate::control).
//!
//! | function | needs | thread | |
//! |---|---|---|---|
//! | `Control::call` | a handle | any | waits for the answer; what it started runs on if nobody waits |
//! | `Control::damages` | a handle | any |  |
//! | `Control::spawn` | a handle | any |  |
//! | `ControlThread::new` | a thread | control | makes an empty graph |
//! | `ControlThread::run` | the graph | control |  |
//! | `Gs::find` | `&Gs` | control |  |
//! | `Gs::waits` | `&Gs` | control | the report itself may be taken from any thread |
//! | `Gs::with` | `&Gs` | control | lends a view to a closure that cannot wait |
//! | `GraphView::child` | a view | control |  |
//! | `GraphView::demand` | a view | control |  |
//! | `GraphView::node` | a view | control |  |
//! | `GraphView::node_handle` | a view | control | facts of the driver; gives no right to do I/O |
//! | `GraphView::node_named` | a view | control |  |
//! | `GraphView::nodes` | a view | control |  |
//! | `GraphView::parents_of` | a view | control |  |
//! | `GraphView::roots` | a view | control |  |
//! | `GraphView::view` | a view | control |  |
//! | `GraphView::views` | a view | control |  |
//! | `NodeView::child` | a view | control |  |
//! | `NodeView::children` | a view | control |  |
//! | `NodeView::id` | a view | control |  |
//! | `NodeView::is_owned` | a view | control |  |
//! | `NodeView::memo` | a view | control | means nothing to the core |
//! | `NodeView::node` | a view | control | facts of the driver; gives no right to do I/O |
//! | `Task::gs` | `&Task` | control | lends `&Gs` until the task waits |
//! | `Task::local` | `&Task` | control |  |
//! | `Task::local_ref` | `&Task` | control |  |
//! | `Task::enter` | `&mut Task` | control | waits for a gate; the ticket borrows the task |
//! | `Task::flush` | `&mut Task` | control | waits for devices, with a bound for silent peers |
//! | `Task::attend` | `&mut Task` | control | waits for what needs requests to end, with a bound for silent peers |
//! | `Task::sleep_until` | `&mut Task` | control |  |
//! | `Task::drain` | `&mut Task` | control | waits until nobody is inside |
//! | `Task::drain_all` | `&mut Task` | control | waits until nobody is inside |
//! | `Task::stage` | `&mut Task`, `Checked` | control | drivers prepare |
//! | `Task::admit` | `&mut Task`, `StagedPlan` | control | waits for the right to change, then for a drain; the change borrows the task |
//! | `Task::commit` | `&mut Task`, `Plan` | control | all phases up to the commit |
//! | `Task::apply` | `&mut Task`, `Plan` | control | all phases |
//! | `Quiet::covers` | `&Quiet` | control |  |
//!
//! # Between threads
//!
//! In [`answer`](mod@crate::answer).
//!
//! | function | needs | thread | |
//! |---|---|---|---|
//! | `answer` | nothing | any | both ends of one value |
//! | `Answer::wait` | the end where it arrives | any | waits |
//! | `AnswerSender::send` | the other end | any |  |
//!
//! # Changes of the graph
//!
//! In [`control`](crate::control).
//!
//! | function | needs | thread | |
//! |---|---|---|---|
//! | `Opening::new` | `&Task` | control |  |
//! | `Opening::add` | `&mut Opening` | control | a node beside the graph |
//! | `Opening::node` | `&Opening` | control |  |
//! | `Opening::find` | `&Opening` | control |  |
//! | `Opening::remember` | `&mut Opening` | control |  |
//! | `Opening::set_policy` | `&mut Opening` | control |  |
//! | `StageRequest::new_child` | `&StageRequest` | control | a child as the plan would have it |
//! | `Opening::claim` | `&mut Opening` | control | the driver prepares for its users |
//! | `Opening::visit` | `&mut Opening` | control | waits for a gate if the node stands on the graph |
//! | `Opening::close` | `Opening` | control |  |
//! | `Visit::io` | `&Visit` | control | lends `Io` |
//! | `Visit::attend` | `&Visit` | control | waits for devices, with a bound for silent peers |
//! | `Plan::new` | nothing | control |  |
//! | `Plan::insert` | `&mut Plan`, `Opening` | control |  |
//! | `Plan::resume` | `&mut Plan`, `&Task` | control | what the plan brings in, to open more upon it |
//! | `Plan::find` | `&Plan`, `&Gs` | control |  |
//! | `Plan::node` | `&Plan`, `&Gs` | control | facts of the driver; gives no right to do I/O |
//! | `Plan::node` | `&Plan`, `&Gs` | control |  |
//! | `Plan::children` | `&Plan`, `&Gs` | control |  |
//! | `Plan::memo` | `&Plan`, `&Gs` | control |  |
//! | `Plan::remember` | `&mut Plan` | control |  |
//! | `Plan::set_policy` | `&mut Plan` | control |  |
//! | `Plan::hold` | `&mut Plan` | control |  |
//! | `Plan::change_bitmap` | `&mut Plan` | control |  |
//! | `Plan::close` | `Plan` | control | gives the plan up |
//! | `Plan::close` | `Plan` | control | waits for what it would have brought in |
//! | `Plan::remove` | `&mut Plan` | control |  |
//! | `Plan::attach_root` | `&mut Plan`, `&Gs` | control | the backend works after the commit |
//! | `Plan::attach_root_beside` | `&mut Plan`, `&Gs` | control | the backend works after the commit |
//! | `Plan::detach_root` | `&mut Plan` | control |  |
//! | `Plan::move_root` | `&mut Plan` | control |  |
//! | `Plan::demand` | `&mut Plan` | control |  |
//! | `Plan::set_grant` | `&mut Plan` | control |  |
//! | `Plan::set_child` | `&mut Plan` | control |  |
//! | `Plan::remove_child` | `&mut Plan` | control |  |
//! | `Plan::replace` | `&mut Plan` | control |  |
//! | `Plan::reopen` | `&mut Plan` | control |  |
//! | `Plan::set_read_only` | `&mut Plan` | control |  |
//! | `Plan::set_active` | `&mut Plan` | control |  |
//! | `Plan::observe` | `&mut Plan` | control |  |
//! | `Plan::unobserve` | `&mut Plan` | control |  |
//! | `Plan::freeze` | `&mut Plan` | control |  |
//! | `Plan::thaw` | `&mut Plan` | control |  |
//! | `Plan::check` | `Plan`, `&Gs` | control | computes; nothing happens |
//! | `Checked::quiet_nodes` | `&Checked` | control |  |
//! | `StagedPlan::undo` | `StagedPlan` | control | drivers take back |
//! | `Change::sees` | `&Change` | control | lends a view to a closure that cannot wait |
//! | `Change::private` | `&Change` | control | lends I/O with nobody else inside |
//! | `Change::settle` | `Change` | control | the last stores and flushes |
//! | `Change::abort` | `Change` | control | opens the gates, then drivers take back |
//! | `PrivateIo::io` | `&PrivateIo` | control | lends `Io` |
//! | `PrivateIo::publish_len` | `&PrivateIo` | control | |
//! | `Settled::commit` | `Settled` | control | writes edges, options, permissions, modes; cannot wait |
//! | `Settled::abort` | `Settled` | control | opens the gates, then drivers take back |
//! | `After::finish` | `After` | control | closes what has left |
//! | `After::removed` | `&After` | control |  |
//!
//! # Bitmaps
//!
//! In [`bitmap`](crate::bitmap). Changes of them are steps of a plan.
//!
//! | function | needs | thread | |
//! |---|---|---|---|
//! | `Bits::new` | a granularity | any | clean |
//! | `Bits::granularity` | `&Bits` | any |  |
//! | `Bits::len_bytes` | `&Bits` | any |  |
//! | `Bits::bits` | `&Bits` | any |  |
//! | `Bits::set_bits` | `&Bits` | any |  |
//! | `Bits::dirty_bytes` | `&Bits` | any |  |
//! | `Bits::is_clean` | `&Bits` | any |  |
//! | `Bits::get` | `&Bits` | any |  |
//! | `Bits::set` | `&mut Bits` | any |  |
//! | `Bits::reset` | `&mut Bits` | any |  |
//! | `Bits::clear` | `&mut Bits` | any |  |
//! | `Bits::next_dirty` | `&Bits` | any |  |
//! | `Bits::next_zero` | `&Bits` | any |  |
//! | `Bits::areas` | `&Bits` | any |  |
//! | `Bits::all_areas` | `&Bits` | any |  |
//! | `Bits::next_dirty_area` | `&Bits` | any |  |
//! | `Bits::truncate` | `&mut Bits` | any |  |
//! | `Bits::merge` | `&mut Bits` | any |  |
//! | `Bits::at_granularity` | `&Bits` | any | a copy |
//! | `Bits::stored_len` | `&Bits` | any |  |
//! | `Bits::stored_part` | `&Bits` | any |  |
//! | `Bits::store` | `&Bits` | any |  |
//! | `Bits::load` | `&mut Bits` | any | adds to what is set |
//! | `Bits::load_set` | `&mut Bits` | any |  |
//! | `Granularity::from_bytes` | a number | any |  |
//! | `Granularity::from_log2` | a number | any |  |
//! | `Granularity::by_default` | a number | any |  |
//! | `Granularity::bytes` | `&Granularity` | any |  |
//! | `Granularity::log2` | `&Granularity` | any |  |
//! | `Granularity::bits_of` | `&Granularity` | any |  |
//! | `Node::bitmaps` | `&Node` | any | what plans change; gives no right to |
//! | `NodeBitmaps::is_empty` | `&NodeBitmaps` | any |  |
//! | `NodeBitmaps::list` | `&NodeBitmaps` | any | complete |
//! | `NodeBitmaps::info` | `&NodeBitmaps` | any | complete |
//! | `NodeBitmaps::bits` | `&NodeBitmaps` | any | a cheap copy |
//! | `NodeBitmaps::run` | `&NodeBitmaps` | any | for I/O threads |
//! | `NodeBitmaps::set_busy` | `&NodeBitmaps` | any | keeps plans off a bitmap |
//! | `NodeBitmaps::to_store` | `&NodeBitmaps` | any | for drivers |
//! | `NodeBitmaps::persistent_names` | `&NodeBitmaps` | any |  |
//! | `NodeBitmaps::inconsistent_name` | `&NodeBitmaps` | any |  |
//! | `NodeBitmaps::memory_bytes` | `&NodeBitmaps` | any |  |
//!
//! # Requests
//!
//! In [`lane`](crate::lane), [`backend`](crate::backend), [`request`](crate::request).
//!
//! | function | needs | thread | |
//! |---|---|---|---|
//! | `Lane::new` | a thread | I/O |  |
//! | `Lane::local` | `&Lane` | I/O |  |
//! | `Lane::local_ref` | `&Lane` | I/O |  |
//! | `Lane::enter` | `&mut Lane`, `&Backend` | I/O | waits for a gate; the ticket borrows the lane |
//! | `Ticket::fork` | `&Ticket`, another `&mut Lane` | I/O | does not ask the gate |
//! | `Ticket::read` | `&mut Ticket` | I/O | waits for devices and for other requests |
//! | `Ticket::read_state` | `&mut Ticket` | I/O | waits for devices and for other requests |
//! | `Ticket::copy_to` | `&mut Ticket`, another `&Backend<ReadWrite>` | I/O | waits for devices; enters the other disk if its gate is open, and does not wait for it |
//! | `Ticket::flush` | `&mut Ticket` | I/O | waits for devices |
//! | `Ticket::status` | `&mut Ticket` | I/O | waits for devices |
//! | `Ticket::local` | a `Ticket` | I/O |  |
//! | `Ticket::len` | `&Ticket` | I/O |  |
//! | `Ticket::is_empty` | `&Ticket` | I/O |  |
//! | `Ticket::write` | `&mut Ticket<ReadWrite>` | I/O | waits for devices and for other requests |
//! | `Ticket::press` | `&Ticket<ReadWrite>` | I/O | computes for milliseconds |
//! | `Ticket::write_pressed` | `&mut Ticket<ReadWrite>` | I/O | waits for devices and for other requests |
//! | `Ticket::write_state` | `&mut Ticket<ReadWrite>` | I/O | waits for devices and for other requests |
//! | `Ticket::write_zeroes` | `&mut Ticket<ReadWrite>` | I/O | waits for devices and for other requests |
//! | `Ticket::discard` | `&mut Ticket<ReadWrite>` | I/O | waits for devices and for other requests |
//! | `Ticket::resize` | `&mut Ticket<ReadWrite>`, granted `RESIZE` | I/O | waits for devices and for other requests |
//! | `Backend::id` | `&Backend` | any |  |
//! | `Backend::name` | `&Backend` | any |  |
//! | `Backend::reader` | `&Backend<ReadWrite>` | any |  |
//! | `Backend::statistics` | `&Backend` | any |  |
//! | `Io::child` | `Io` | I/O | the only way to a child |
//! | `Io::file` | `Io` | I/O |  |
//! | `Io::node` | `Io` | I/O |  |
//! | `Io::perm` | `Io` | I/O |  |
//! | `Io::len` | `Io` | I/O |  |
//! | `Io::is_empty` | `Io` | I/O |  |
//! | `Io::shard` | `Io` | I/O |  |
//! | `Io::now_ns` | `Io` | I/O | for stepping back; a request cannot wait for a time |
//! | `Io::sim_point` | `Io` | I/O |  |
//! | `Io::read` | `Io` | I/O | waits for devices and for other requests |
//! | `Io::read_new` | `Io` | I/O | waits for devices and for other requests |
//! | `Io::read_now` | `Io` | I/O | takes no wait: reads what memory has, or nothing |
//! | `Io::write` | `Io` with `WRITE` | I/O | waits for devices and for other requests |
//! | `Io::read_state` | `Io` | I/O | waits for devices and for other requests |
//! | `Io::write_state` | `Io` with `WRITE` | I/O | waits for devices and for other requests |
//! | `Io::write_zeroes` | `Io` with `WRITE` | I/O | waits for devices and for other requests |
//! | `Io::discard` | `Io` with `WRITE` | I/O | waits for devices and for other requests |
//! | `Io::flush` | `Io` | I/O | waits for devices |
//! | `Io::resize` | `Io` with `RESIZE` | I/O | waits for devices and for other requests |
//! | `Io::status_within` | `Io` | I/O | waits for devices |
//! | `Io::status` | `Io` | I/O | waits for devices |
//! | `Io::lock_range` | `Io` | I/O | waits for other requests; the guard ends before the request |
//! | `Io::tell_damage` | `Io` | I/O |  |
//! | `Io::event` | `Io` | I/O | tells the node; waits as its driver does |
//! | `Io::hold` | `Io` | I/O | waits until released, a drain begins, or a minute has passed |
//! | `Event::name` | nothing | any |  |
//! | `Event::named` | nothing | any |  |
//! | `Io::grace_stamp` | `Io` | I/O |  |
//! | `Io::step_back` | `Io` | I/O | before the first visible effect |
//! | `Io::step_back_with` | `Io` | I/O | before the first visible effect |
//! | `RangeLocks::lock` | `Io` | I/O | waits for other requests; the guard ends before the request |
//! | `RangeLocks::try_lock` | `Io` | I/O | takes no wait; the guard ends before the request |
//! | `RangeGuard::range` | `&RangeGuard` | any |  |
//! | `Stamp::has_passed` | `&mut Stamp` | any | never waits |
//!
//! # Jobs
//!
//! In [`job`](crate::job).
//!
//! | function | needs | thread | |
//! |---|---|---|---|
//! | `JobCtx::new` | a thread, a `Control` | I/O |  |
//! | `JobCtx::with_handle` | a handle, a thread, a `Control` | I/O | for a handle that is there already |
//! | `JobCtx::show` | `&JobCtx`, the whole state | I/O |  |
//! | `JobCtx::run` | `JobCtx` | I/O | lends `&mut JobCtx`; the job ends with it |
//! | `JobCtx::lanes` | `&mut JobCtx` | I/O | a ticket borrows them, and so the context |
//! | `JobCtx::workers` | `&mut JobCtx` | I/O | the lanes, and what tells workers to stop |
//! | `JobCtx::local` | `&JobCtx` | I/O |  |
//! | `JobCtx::interrupt` | `&JobCtx` | I/O |  |
//! | `JobCtx::pause_point` | `&mut JobCtx` | I/O | waits for the end of a pause |
//! | `JobCtx::sleep_until` | `&mut JobCtx` | I/O | waits for a timer; a pause is noticed at once |
//! | `JobCtx::rest_until` | `&mut JobCtx` | I/O | waits for a timer, a pause, a nudge or the end |
//! | `JobCtx::on_control` | `&mut JobCtx` | I/O | waits for a control task |
//! | `JobLink::state` | `&JobLink` | any |  |
//! | `JobHandle::pause` | `&JobHandle` | any |  |
//! | `JobHandle::resume` | `&JobHandle` | any |  |
//! | `JobHandle::cancel` | `&JobHandle` | any |  |
//! | `JobHandle::nudge` | `&JobHandle` | any | ends a rest |
//! | `JobHandle::is_cancelled` | `&JobHandle` | any |  |
//! | `Interrupt::is_set` | `&Interrupt` | any |  |
//! | `Interrupt::poll_set` | `&Interrupt` | any |  |
//! | `Interrupt::enter` | `&mut Lane` | I/O | waits for a gate, unless the job is to pause or to end |
//!
//! # Drivers, devices and threads
//!
//! In [`driver`](crate::driver), [`disk`](crate::disk), [`runtime`](crate::runtime), [`waits`](crate::waits).
//!
//! | function | needs | thread | |
//! |---|---|---|---|
//! | `Publish::len` | `&Publish`, lent to a commit | control |  |
//! | `Publish::bitmaps` | `&Publish`, lent to a commit | control |  |
//! | `Publish::request_alignment` | `&Publish`, lent to a commit | control |  |
//! | `StageRequest::new_child` | `&StageRequest` | control |  |
//! | `Completion::ready` | nothing | any |  |
//! | `Completion::handed_back` | nothing | any | the request steps back |
//! | `Completion::away` | an answer | any |  |
//! | `Completion::pending` | nothing | I/O |  |
//! | `Completion::try_take` | `&mut Completion` | I/O |  |
//! | `Finisher::finish` | `Finisher` | I/O | the thread that submitted |
//! | `Finisher::hand_back` | `Finisher` | I/O | the request steps back |
//! | `Finisher::is_awaited` | `&Finisher` | I/O |  |
//! | `Shard::new` | nothing | any |  |
//! | `Shard::index` | nothing | any |  |
//! | `sim_point` | a thread | I/O | nothing unless simulated |
//! | `yield_now` | nothing | any | lets other tasks of the thread run |
//! | `Waits::begin` | who waits for what | any | asserts the ranks |
//! | `Waits::report` | `&Waits` | any |  |
//! | `Damages::listen` | `&Damages` | any | the listener is called on I/O threads, and must not wait |
//!
//! # Facts and values
//!
//! In [`graph`](crate::graph).
//!
//! | function | needs | thread | |
//! |---|---|---|---|
//! | `Node::policy` | `&Node` | any |  |
//! | `Node::id` | `&Node` | any |  |
//! | `Node::name` | `&Node` | any |  |
//! | `Node::driver` | `&Node` | any |  |
//! | `Node::driver_as` | `&Node` | any |  |
//! | `Node::len` | `&Node` | any |  |
//! | `Node::is_empty` | `&Node` | any |  |
//! | `Node::is_active` | `&Node` | any |  |
//! | `Node::is_read_only` | `&Node` | any |  |
//! | `Node::activity` | `&Node` | any |  |
//! | `Node::request_alignment` | `&Node` | any |  |
//! | `Node::policy` | `&Node` | any |  |
//! | `Perm::from_bits` | nothing | any |  |
//! | `Perm::bits` | nothing | any |  |
//! | `Perm::with` | nothing | any |  |
//! | `Perm::without` | nothing | any |  |
//! | `Perm::and` | nothing | any |  |
//! | `Perm::has` | nothing | any |  |
//! | `Perm::has_any` | nothing | any |  |
//! | `Perm::writes` | nothing | any |  |
//! | `Perm::is_empty` | nothing | any |  |
//! | `Role::with` | nothing | any |  |
//! | `Role::has` | nothing | any |  |
//! | `default_grant` | nothing | any |  |
//!
//! <!-- end of functions -->
