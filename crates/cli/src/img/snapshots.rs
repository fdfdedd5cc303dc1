//! The list of internal snapshots, as a table and as values.

use drystone_core::snapshots::SnapshotInfo;
use drystone_format::qcow2::snapshot::Snapshot;
use drystone_sys::local_time;

use super::doc::Doc;
use crate::text::size_in_words;

const NS_PER_S: u64 = 1_000_000_000;

/// What a line of the table shows.
pub(super) struct Row {
    id: Vec<u8>,
    name: Vec<u8>,
    vm_state_bytes: u64,
    date_s: u32,
    vm_clock_ns: u64,
    icount: Option<u64>,
}

impl From<&Snapshot> for Row {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            id: snapshot.id.clone(),
            name: snapshot.name.clone(),
            vm_state_bytes: snapshot.vm_state_bytes,
            date_s: snapshot.date_s,
            vm_clock_ns: snapshot.vm_clock_ns,
            icount: snapshot.icount,
        }
    }
}

impl From<&SnapshotInfo> for Row {
    fn from(snapshot: &SnapshotInfo) -> Self {
        Self {
            id: snapshot.id.clone(),
            name: snapshot.name.clone(),
            vm_state_bytes: snapshot.vm_state_bytes,
            date_s: snapshot.date_s,
            vm_clock_ns: snapshot.vm_clock_ns,
            icount: snapshot.icount,
        }
    }
}

/// One snapshot, in the order of the C tool.
pub(super) fn to_doc(snapshot: &Snapshot) -> Doc {
    Doc::map([
        ("icount", snapshot.icount.map(Doc::from)),
        ("vm-clock-nsec", Some((snapshot.vm_clock_ns % NS_PER_S).into())),
        ("name", Some(until_nul(&snapshot.name).into())),
        ("date-sec", Some(u64::from(snapshot.date_s).into())),
        ("date-nsec", Some(u64::from(snapshot.date_ns).into())),
        ("vm-clock-sec", Some((snapshot.vm_clock_ns / NS_PER_S).into())),
        ("id", Some(until_nul(&snapshot.id).into())),
        ("vm-state-size", Some(snapshot.vm_state_bytes.into())),
    ])
}

/// The lines of the table, its head first.
pub(super) fn to_table(snapshots: &[Row]) -> Vec<Vec<u8>> {
    let head = line(b"ID", b"TAG", ["VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"].map(str::to_owned));
    std::iter::once(head).chain(snapshots.iter().map(row)).collect()
}

fn row(snapshot: &Row) -> Vec<u8> {
    let seconds = snapshot.vm_clock_ns / NS_PER_S;
    let milliseconds = snapshot.vm_clock_ns / 1_000_000 % 1000;
    let clock =
        format!("{:04}:{:02}:{:02}.{milliseconds:03}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let icount = snapshot.icount.map_or_else(|| "--".to_owned(), |count| count.to_string());
    let date = local_time(snapshot.date_s.into()).to_string();
    line(
        until_nul(&snapshot.id),
        until_nul(&snapshot.name),
        [size_in_words(snapshot.vm_state_bytes), date, clock, icount],
    )
}

/// Names end at a NUL, as they do in C.
fn until_nul(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Columns that grow with what is in them: two to the left, four to the right.
fn line(id: &[u8], name: &[u8], [size, date, clock, icount]: [String; 4]) -> Vec<u8> {
    let mut out = Vec::new();
    for (text, width) in [(id, 7_usize), (name, 16)] {
        out.extend_from_slice(text);
        out.extend(std::iter::repeat_n(b' ', width.saturating_sub(text.len()) + 1));
    }
    out.extend_from_slice(format!("{size:>8} {date:>19} {clock:>15} {icount:>10}\n").as_bytes());
    out
}
