//! [`Event`]: what a driver is about to do with its child, for a node that injects errors or holds requests there.
//!
//! ```text
//!   format ── io.file()?.event(Event::L2Load) ──► child: hears events?  no: one look at a flag
//!                                                        yes: Driver::event, which may wait
//! ```
//! The core itself tells a child of data that is read and written in it, of writes of any kind, and of flushes. Names are
//! those of the QMP schema (`BlkdebugEvent`); drivers tell those that there is a place for.
//!
//! A node that hears events may hold a request: not for ever ([`Io::hold`](crate::request::io::Io::hold)).

use std::fmt;

macro_rules! events {
    ($($variant:ident $name:literal,)*) => {
        /// Something that is about to happen.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "each is its name in the schema")]
        pub enum Event {
            $($variant,)*
        }

        impl Event {
            /// All of them, in the order of the schema.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in options.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

events! {
    L1Update "l1_update",
    L1GrowAllocTable "l1_grow_alloc_table",
    L1GrowWriteTable "l1_grow_write_table",
    L1GrowActivateTable "l1_grow_activate_table",
    L2Load "l2_load",
    L2Update "l2_update",
    L2UpdateCompressed "l2_update_compressed",
    L2AllocCowRead "l2_alloc_cow_read",
    L2AllocWrite "l2_alloc_write",
    ReadAio "read_aio",
    ReadBackingAio "read_backing_aio",
    ReadCompressed "read_compressed",
    WriteAio "write_aio",
    WriteCompressed "write_compressed",
    VmstateLoad "vmstate_load",
    VmstateSave "vmstate_save",
    CowRead "cow_read",
    CowWrite "cow_write",
    ReftableLoad "reftable_load",
    ReftableGrow "reftable_grow",
    ReftableUpdate "reftable_update",
    RefblockLoad "refblock_load",
    RefblockUpdate "refblock_update",
    RefblockUpdatePart "refblock_update_part",
    RefblockAlloc "refblock_alloc",
    RefblockAllocHookup "refblock_alloc_hookup",
    RefblockAllocWrite "refblock_alloc_write",
    RefblockAllocWriteBlocks "refblock_alloc_write_blocks",
    RefblockAllocWriteTable "refblock_alloc_write_table",
    RefblockAllocSwitchTable "refblock_alloc_switch_table",
    ClusterAlloc "cluster_alloc",
    ClusterAllocBytes "cluster_alloc_bytes",
    ClusterFree "cluster_free",
    FlushToOs "flush_to_os",
    FlushToDisk "flush_to_disk",
    PwritevRmwHead "pwritev_rmw_head",
    PwritevRmwAfterHead "pwritev_rmw_after_head",
    PwritevRmwTail "pwritev_rmw_tail",
    PwritevRmwAfterTail "pwritev_rmw_after_tail",
    Pwritev "pwritev",
    PwritevZero "pwritev_zero",
    PwritevDone "pwritev_done",
    EmptyImagePrepare "empty_image_prepare",
    L1ShrinkWriteTable "l1_shrink_write_table",
    L1ShrinkFreeL2Clusters "l1_shrink_free_l2_clusters",
    CorWrite "cor_write",
    ClusterAllocSpace "cluster_alloc_space",
    None "none",
}

impl Event {
    /// The event of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|event| event.name() == name)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_found_by_its_name() {
        for event in Event::ALL {
            assert_eq!(Event::named(event.name()), Some(*event));
        }
        assert_eq!(Event::named("no_such_event"), None);
    }
}
