//! The commands about the disk as a whole: its length, what is known of it, which ranges it has itself.

use drystone_base::{GuestOffset, GuestRange, Kind, Result};
use drystone_blockdev::query;
use drystone_blockdev::query::node::{ImageReport, Qcow2Features, Specific, StoredBitmap};
use drystone_core::disk::Preallocation;

use super::number::parse_len;
use super::print::{print, size_of};
use super::session::{Fault, Session};
use super::words::Words;
use crate::img::doc::Doc;

/// Bytes that `alloc` looks at if it is not told how many.
const ALLOC_BYTES: &str = "512";
/// Drivers that are no protocols.
const IMAGE_FORMATS: [&str; 3] = ["raw", "qcow2", "copy-on-read"];
/// Drivers that know nothing of clusters, so that their `info` ends with an error.
const NO_CLUSTERS: [&str; 3] = ["null-co", "null-aio", "nbd"];

pub(super) async fn flush(session: &mut Session<'_>) -> Result<(), Fault> {
    let reader = session.image()?.reader.clone();
    session.lane.enter(&reader).await.flush().await.map_err(|_| Fault::Silent)
}

pub(super) async fn truncate(session: &mut Session<'_>, words: &Words) -> Result<(), Fault> {
    let mode = words.value('m').map_or(Ok(Preallocation::Off), |name| match name {
        "off" => Ok(Preallocation::Off),
        "metadata" => Ok(Preallocation::Metadata),
        "falloc" => Ok(Preallocation::Falloc),
        "full" => Ok(Preallocation::Full),
        _ => Err(Fault::Complain(format!("Invalid preallocation mode '{name}'"))),
    })?;
    let [len] = &words.free[..] else { return Err(Fault::Usage) };
    let len = parse_len(len)?;
    let writer = session.writer()?;
    let mut ticket = session.lane.enter(&writer).await;
    match ticket.resize(len, mode).await {
        // What cannot become shorter is long enough.
        Err(error) if error.kind() == Kind::Unsupported && len <= ticket.len() => Ok(()),
        resized => Ok(resized?),
    }
}

pub(super) async fn length(session: &mut Session<'_>) -> Result<(), Fault> {
    let reader = session.image()?.reader.clone();
    let len = session.lane.enter(&reader).await.len();
    print(&format!("{}\n", size_of(len)));
    Ok(())
}

pub(super) async fn info(session: &mut Session<'_>) -> Result<(), Fault> {
    let node = session.image()?.node;
    let found = session.tool.on_control(async move |task| {
        let reports = task.gs().with(|graph| query::node::nodes(graph, false));
        Ok(reports.into_iter().find(|report| report.id == node))
    });
    let report = found.await?.ok_or_else(|| Fault::Complain("the image has gone".into()))?;
    if NO_CLUSTERS.contains(&report.image.format) {
        print(&names(&report.image));
        return Err(Fault::Silent);
    }
    print(&info_text(&report.image));
    Ok(())
}

/// The name of the driver; twice for one that is also the name of a protocol.
fn names(report: &ImageReport) -> String {
    let line = format!("format name: {}\n", report.format);
    if IMAGE_FORMATS.contains(&report.format) { line } else { line.repeat(2) }
}

fn info_text(report: &ImageReport) -> String {
    let mut text = names(report);
    let specific = specific(report);
    text.push_str(&format!("cluster size: {}\n", size_of(report.cluster_size.unwrap_or(0))));
    text.push_str(&format!("vm state offset: {}\n", size_of(machine_state_at(report))));
    if let Some(specific) = specific {
        let mut words = Vec::new();
        specific.words(&mut words, 1);
        text.push_str("Format specific information:\n");
        text.push_str(&String::from_utf8_lossy(&words));
    }
    text
}

/// What only one format has.
fn specific(report: &ImageReport) -> Option<Doc> {
    let Some(Specific::Qcow2 { compat, compression_type, refcount_bits, data_file, version_3 }) =
        &report.specific
    else {
        return None;
    };
    let is_apart = data_file.is_some();
    let data_file = data_file.clone().flatten();
    let v3 = |pick: fn(&Qcow2Features) -> bool| version_3.as_ref().map(|features| pick(features).into());
    let bitmaps = version_3.iter().flat_map(|features| &features.bitmaps).map(bitmap).collect::<Vec<_>>();
    Some(Doc::map([
        ("compat", Some((*compat).into())),
        ("compression-type", Some((*compression_type).into())),
        ("lazy-refcounts", v3(|features| features.lazy_refcounts)),
        ("bitmaps", (!bitmaps.is_empty()).then_some(Doc::List(bitmaps))),
        ("refcount-bits", Some(u64::from(*refcount_bits).into())),
        ("data-file", data_file.map(|name| Doc::from(name.as_str()))),
        ("data-file-raw", v3(|features| features.data_file_raw).filter(|_| is_apart)),
        ("corrupt", v3(|features| features.corrupt)),
        ("extended-l2", v3(|features| features.extended_l2)),
    ]))
}

fn bitmap(bitmap: &StoredBitmap) -> Doc {
    let flags = [("in-use", bitmap.in_use), ("auto", bitmap.auto)];
    let flags = flags.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name.into()).collect();
    Doc::map([
        ("flags", Some(Doc::List(flags))),
        ("name", Some(bitmap.name.as_str().into())),
        ("granularity", Some(u64::from(bitmap.granularity).into())),
    ])
}

/// Where the state of a machine would begin: behind the last L2 table of the disk, in guest offsets. Spec "L1 table".
fn machine_state_at(report: &ImageReport) -> u64 {
    let Some(cluster_bytes) = report.cluster_size else { return 0 };
    let is_extended = matches!(
        &report.specific,
        Some(Specific::Qcow2 { version_3: Some(features), .. }) if features.extended_l2
    );
    let entry_bytes = if is_extended { 16 } else { 8 };
    let covered = (cluster_bytes / entry_bytes).saturating_mul(cluster_bytes).max(1);
    report.virtual_size.div_ceil(covered).saturating_mul(covered)
}

/// Calls `show` for each range of the disk that the image has itself or has not, from `at` on, up to `len_bytes` bytes.
async fn each_range(
    session: &mut Session<'_>,
    (at, len_bytes): (u64, u64),
    mut show: impl FnMut(u64, u64, bool),
) -> Result<()> {
    let reader = session.image.as_ref().map(|image| image.reader.clone());
    let Some(reader) = reader else { return Ok(()) };
    let mut ticket = session.lane.enter(&reader).await;
    let end = at.saturating_add(len_bytes).min(ticket.len());
    let mut at = at;
    while at < end {
        let range = GuestRange::new(GuestOffset::new(at), end - at);
        let status = ticket.status(range, 0).await?;
        let len = status.len.min(range.len());
        if len == 0 {
            break;
        }
        show(at, len, status.allocated);
        at += len;
    }
    Ok(())
}

pub(super) async fn map(session: &mut Session<'_>) -> Result<(), Fault> {
    let mut runs: Vec<(u64, u64, bool)> = Vec::new();
    let done = each_range(session, (0, u64::MAX), |at, len, is_allocated| match runs.last_mut() {
        Some((_, run_len, kind)) if *kind == is_allocated => *run_len += len,
        _ => runs.push((at, len, is_allocated)),
    });
    let done = done.await;
    for (at, len, is_allocated) in runs {
        let kind = if is_allocated { "    allocated" } else { "not allocated" };
        let (len_words, at_words) = (size_of(len), size_of(at));
        print(&format!("{len_words} ({len:#x}) bytes {kind} at offset {at_words} ({at:#x})\n"));
    }
    Ok(done?)
}

pub(super) async fn alloc(session: &mut Session<'_>, words: &[String]) -> Result<(), Fault> {
    let mut words = words.iter().map(String::as_str);
    let at = parse_len(words.next().unwrap_or_default())?;
    let len = parse_len(words.next().unwrap_or(ALLOC_BYTES))?;
    let (mut sum, mut seen) = (0, 0);
    each_range(session, (at, len), |_, len, is_allocated| {
        seen += len;
        sum += if is_allocated { len } else { 0 };
    })
    .await?;
    print(&format!("{sum}/{seen} bytes allocated at offset {}\n", size_of(at)));
    Ok(())
}
