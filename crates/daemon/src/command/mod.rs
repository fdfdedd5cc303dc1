//! Commands: parse (the schema has done that), call, encode. One file per family.
//!
//! | module | commands |
//! |---|---|
//! | `process` | `query-version`, `query-commands`, `query-qmp-schema`, `quit` |
//! | `node` | `blockdev-add`, `-del`, `-reopen`, `block_resize`, `change-backing-file` |
//! | `snapshot` | `blockdev-snapshot`, `-sync`, `-internal-sync`, `-delete-internal-sync`, `transaction` |
//! | `bitmap` | `block-dirty-bitmap-*`, `x-debug-block-dirty-bitmap-sha256` |
//! | `export` | `nbd-server-*`, `block-export-*`, `query-block-exports` |
//! | `object` | `object-*`, `qom-*` |
//! | `query`, `stats`, `graph` | `query-named-block-nodes`, `query-block`; `query-blockstats`; `x-debug-query-block-graph` |
//! | `job` | `block-stream`, `job-*`, `block-job-*`, `query-jobs`, `query-block-jobs` |

mod bitmap;
pub(crate) mod export;
mod graph;
pub(crate) mod job;
pub(crate) mod node;
pub(crate) mod object;
mod process;
mod query;
mod snapshot;
mod stats;

use std::rc::Rc;

use drystone_base::Error;
use drystone_job::{Cancel, Jobs};
use drystone_qmp::schema::Qapi;
use drystone_qmp::schema::commands::{Call, Command, call};
use drystone_qmp::schema::types::common::Empty;
use drystone_qmp::schema::types::job::{BlockJobDevice, BlockJobSetSpeed, JobId};
use drystone_qmp::{Pending, QmpError, Session};

use crate::daemon::Daemon;
use crate::error::to_qmp;

use self::bitmap::BitmapStep;
pub(crate) use self::process::version;

/// What comes of a command.
pub(crate) type Outcome<T> = Result<T, QmpError>;

/// The outcome of a command, to be encoded for the client that asked.
pub(crate) struct Answer(Box<Encode>);

type Encode = dyn FnOnce(&mut Session, Pending) -> Vec<u8>;

impl Answer {
    fn of<C: Call + 'static>(outcome: Outcome<C::Returns>) -> Self
    where
        C::Returns: 'static,
    {
        Self(Box::new(move |session, pending| session.answer::<C>(pending, &outcome)))
    }

    /// A list that is as long as there are things: each item is put into words when its turn has come to be written, so that
    /// there are never two copies of the whole.
    fn of_each<C: Call<Returns = Vec<T>>, T: Qapi + 'static, I: 'static>(
        outcome: Outcome<Vec<I>>,
        in_words: fn(I) -> T,
    ) -> Self {
        Self(Box::new(move |session, pending| match outcome {
            Ok(items) => session.answer_each::<C, T>(pending, items.into_iter().map(in_words)),
            Err(error) => session.answer::<C>(pending, &Err(error)),
        }))
    }

    /// The bytes that tell the client.
    pub(crate) fn bytes(self, session: &mut Session, pending: Pending) -> Vec<u8> {
        (self.0)(session, pending)
    }
}

/// A command that returns nothing has done what it should, or failed.
pub(crate) fn done(result: Result<(), Error>) -> Outcome<Empty> {
    match result {
        Ok(()) => Ok(Empty {}),
        Err(error) => Err(to_qmp(&error)),
    }
}

/// Carries out a command.
#[rustfmt::skip]
pub(crate) async fn run(daemon: &Rc<Daemon>, command: Command) -> Answer {
    use Command as C;
    match command {
        C::QmpCapabilities(_) => Answer::of::<call::QmpCapabilities>(Ok(Empty {})),
        C::QueryVersion(_) => Answer::of::<call::QueryVersion>(Ok(version())),
        C::QueryCommands(_) => Answer::of::<call::QueryCommands>(Ok(process::names())),
        C::QueryQmpSchema(_) => Answer::of::<call::QueryQmpSchema>(Ok(process::schema())),
        C::Quit(_) => Answer::of::<call::Quit>(process::quit(daemon)),
        C::BlockdevAdd(options) => Answer::of::<call::BlockdevAdd>(node::add(daemon, &options).await),
        C::BlockdevDel(which) => Answer::of::<call::BlockdevDel>(node::del(daemon, which).await),
        C::BlockdevReopen(options) => Answer::of::<call::BlockdevReopen>(node::reopen(daemon, &options).await),
        C::BlockResize(resize) => Answer::of::<call::BlockResize>(node::resize(daemon, resize).await),
        C::ChangeBackingFile(change) => Answer::of::<call::ChangeBackingFile>(node::change_backing(daemon, change).await),
        C::BlockdevSnapshot(snapshot) => Answer::of::<call::BlockdevSnapshot>(snapshot::snapshot(daemon, snapshot).await),
        C::BlockdevSnapshotSync(snapshot) => Answer::of::<call::BlockdevSnapshotSync>(snapshot::sync(daemon, snapshot).await),
        C::BlockdevSnapshotInternalSync(snapshot) => Answer::of::<call::BlockdevSnapshotInternalSync>(snapshot::internal(daemon, snapshot).await),
        C::BlockdevSnapshotDeleteInternalSync(which) => Answer::of::<call::BlockdevSnapshotDeleteInternalSync>(snapshot::delete_internal(daemon, which).await),
        C::Transaction(transaction) => Answer::of::<call::Transaction>(snapshot::transaction(daemon, transaction).await),
        C::BlockDirtyBitmapAdd(add) => Answer::of::<call::BlockDirtyBitmapAdd>(bitmap::one(daemon, BitmapStep::Add(add)).await),
        C::BlockDirtyBitmapRemove(which) => Answer::of::<call::BlockDirtyBitmapRemove>(bitmap::one(daemon, BitmapStep::Remove(which)).await),
        C::BlockDirtyBitmapClear(which) => Answer::of::<call::BlockDirtyBitmapClear>(bitmap::one(daemon, BitmapStep::Clear(which)).await),
        C::BlockDirtyBitmapEnable(which) => Answer::of::<call::BlockDirtyBitmapEnable>(bitmap::one(daemon, BitmapStep::Record(which, true)).await),
        C::BlockDirtyBitmapDisable(which) => Answer::of::<call::BlockDirtyBitmapDisable>(bitmap::one(daemon, BitmapStep::Record(which, false)).await),
        C::BlockDirtyBitmapMerge(merge) => Answer::of::<call::BlockDirtyBitmapMerge>(bitmap::one(daemon, BitmapStep::Merge(merge)).await),
        C::XDebugBlockDirtyBitmapSha256(which) => Answer::of::<call::XDebugBlockDirtyBitmapSha256>(bitmap::sha256(daemon, which).await),
        C::XDebugQueryBlockGraph(_) => Answer::of::<call::XDebugQueryBlockGraph>(graph::report(daemon).await),
        C::QueryBlock(_) => Answer::of::<call::QueryBlock>(Ok(Vec::new())),
        C::QueryNamedBlockNodes(how) => Answer::of_each::<call::QueryNamedBlockNodes, _, _>(query::nodes(daemon, &how).await, query::node),
        C::QueryBlockstats(how) => Answer::of::<call::QueryBlockstats>(stats::report(daemon, &how).await),
        C::NbdServerStart(options) => Answer::of::<call::NbdServerStart>(export::server_start(daemon, options.into()).await),
        C::NbdServerStop(_) => Answer::of::<call::NbdServerStop>(done(daemon.exports.stop(daemon).await)),
        C::NbdServerAdd(options) => Answer::of::<call::NbdServerAdd>(export::server_add(daemon, options).await),
        C::NbdServerRemove(which) => Answer::of::<call::NbdServerRemove>(export::server_remove(daemon, which).await),
        C::BlockExportAdd(options) => Answer::of::<call::BlockExportAdd>(export::add(daemon, options).await),
        C::BlockExportDel(which) => Answer::of::<call::BlockExportDel>(export::del(daemon, which).await),
        C::QueryBlockExports(_) => Answer::of::<call::QueryBlockExports>(export::report(daemon).await),
        C::ObjectAdd(options) => Answer::of::<call::ObjectAdd>(object::add(daemon, options)),
        C::ObjectDel(which) => Answer::of::<call::ObjectDel>(object::del(daemon, &which)),
        C::QomList(which) => Answer::of::<call::QomList>(object::list(daemon, &which)),
        C::QomGet(which) => Answer::of::<call::QomGet>(object::get(daemon, &which)),
        C::QomSet(what) => Answer::of::<call::QomSet>(object::set(daemon, &what)),
        C::QomListTypes(which) => Answer::of::<call::QomListTypes>(Ok(object::types(&which))),
        C::QomListProperties(which) => Answer::of::<call::QomListProperties>(object::properties(&which)),
        other => run_job(daemon, other).await,
    }
}

/// Carries out a command on jobs.
#[rustfmt::skip]
async fn run_job(daemon: &Rc<Daemon>, command: Command) -> Answer {
    use Command as C;
    match command {
        C::BlockStream(options) => Answer::of::<call::BlockStream>(job::stream(daemon, *options).await),
        C::QueryJobs(_) => Answer::of::<call::QueryJobs>(Ok(job::list(daemon))),
        C::QueryBlockJobs(_) => Answer::of::<call::QueryBlockJobs>(Ok(job::block_list(daemon))),
        C::JobPause(JobId { id }) => Answer::of::<call::JobPause>(job::verb(daemon, &id, Jobs::pause).await),
        C::JobResume(JobId { id }) => Answer::of::<call::JobResume>(job::verb(daemon, &id, Jobs::resume).await),
        C::JobCancel(JobId { id }) => Answer::of::<call::JobCancel>(job::verb(daemon, &id, |jobs, id| jobs.cancel(id, Cancel::Force)).await),
        C::JobComplete(JobId { id }) => Answer::of::<call::JobComplete>(job::verb(daemon, &id, Jobs::complete).await),
        C::JobFinalize(JobId { id }) => Answer::of::<call::JobFinalize>(job::verb(daemon, &id, Jobs::finalize).await),
        C::JobDismiss(JobId { id }) => Answer::of::<call::JobDismiss>(job::verb(daemon, &id, Jobs::dismiss).await),
        C::BlockJobPause(BlockJobDevice { device }) => Answer::of::<call::BlockJobPause>(job::block_verb(daemon, &device, Jobs::pause).await),
        C::BlockJobResume(BlockJobDevice { device }) => Answer::of::<call::BlockJobResume>(job::block_verb(daemon, &device, Jobs::resume).await),
        C::BlockJobComplete(BlockJobDevice { device }) => Answer::of::<call::BlockJobComplete>(job::block_verb(daemon, &device, Jobs::complete).await),
        C::BlockJobSetSpeed(BlockJobSetSpeed { device, speed }) => Answer::of::<call::BlockJobSetSpeed>(job::block_verb(daemon, &device, |jobs, id| jobs.set_speed(id, speed)).await),
        C::BlockJobCancel(which) => Answer::of::<call::BlockJobCancel>(job::block_cancel(daemon, &which).await),
        C::BlockJobFinalize(JobId { id }) => Answer::of::<call::BlockJobFinalize>(job::block_verb(daemon, &id, Jobs::finalize).await),
        C::BlockJobDismiss(JobId { id }) => Answer::of::<call::BlockJobDismiss>(job::block_verb(daemon, &id, Jobs::dismiss).await),
        C::BlockJobChange(change) => Answer::of::<call::BlockJobChange>(job::block_change(daemon, &change).await),
        other => unreachable!("'{}' is carried out above", other.name()),
    }
}
