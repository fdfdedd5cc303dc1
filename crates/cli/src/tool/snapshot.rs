//! `-l`: an internal snapshot of an image in place of what it shows now.
//!
//! ```text
//!  ID_OR_NAME          snapshot.id=ID          snapshot.name=NAME          snapshot.id=ID,snapshot.name=NAME
//! ```

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::snapshots::{SnapshotChange, Which, change_snapshots};
use drystone_core::backend::ReadOnly;

use super::Tool;
use super::disk::Disk;
use crate::args::list;

/// Which snapshot is meant.
///
/// # Errors
/// [`Kind::InvalidInput`] for options that are not `snapshot.id` and `snapshot.name`.
pub(crate) fn parse(text: &str) -> Result<Which> {
    if !text.starts_with("snapshot.") {
        return Ok(Which::IdOrName(text.as_bytes().to_vec()));
    }
    let (mut id, mut name) = (None, None);
    for (key, value) in list::split(text) {
        let value = value.map(String::into_bytes);
        match key.as_str() {
            "snapshot.id" => id = value,
            "snapshot.name" => name = value,
            _ => {
                let text = format!("'{key}' is neither 'snapshot.id' nor 'snapshot.name'");
                return Err(Error::new(Kind::InvalidInput, text).in_option("snapshot"));
            }
        }
    }
    match (id, name) {
        (Some(id), Some(name)) => Ok(Which::Both { id, name }),
        (Some(id), None) => Ok(Which::Id(id)),
        (None, Some(name)) => Ok(Which::Name(name)),
        (None, None) => {
            Err(Error::new(Kind::InvalidInput, "it has neither an id nor a name").in_option("snapshot"))
        }
    }
}

impl Tool {
    /// Has a disk show what it was when a snapshot of it was taken.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Unsupported`] for a format that has none; those of reading it.
    pub(crate) async fn show_snapshot(&self, disk: &mut Disk<ReadOnly>, which: Which) -> Result<()> {
        let node = disk.node;
        let shown = self.on_control(async move |task| {
            change_snapshots(task, node, &SnapshotChange::Show(which)).await?;
            Ok(task.gs().with(|graph| graph.node(node)).map_or(0, |info| info.len))
        });
        disk.len_bytes = shown.await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_named_in_four_ways() {
        let bytes = |text: &str| text.as_bytes().to_vec();
        assert_eq!(parse("a").unwrap(), Which::IdOrName(bytes("a")));
        assert_eq!(parse("snapshot.id=1").unwrap(), Which::Id(bytes("1")));
        assert_eq!(parse("snapshot.name=a,,b").unwrap(), Which::Name(bytes("a,b")));
        let both = Which::Both { id: bytes("1"), name: bytes("a") };
        assert_eq!(parse("snapshot.name=a,snapshot.id=1").unwrap(), both);
        for wrong in ["snapshot.foo=1", "snapshot.id=1,x=2", "snapshot.name"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
