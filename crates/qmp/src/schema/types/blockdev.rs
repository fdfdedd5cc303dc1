//! Options of nodes: `blockdev-add`, `blockdev-reopen`, `--blockdev`.
//!
//! One struct per driver; a driver is added by its struct and one line in [`BlockdevDriver`] and in the union.

use crate::schema::visit::Null;

qapi_enum! {
    /// The drivers that a node can have.
    pub enum BlockdevDriver {
        Blkdebug,
        Blkverify,
        CopyOnRead,
        File,
        HostDevice as "host_device",
        Nbd,
        NullAio,
        NullCo,
        Qcow2,
        Raw,
    }
}

qapi_enum! {
    /// What becomes of discard requests.
    pub enum BlockdevDiscardOptions { Ignore, Unmap }
}

qapi_enum! {
    /// Whether writes of zeroes are looked for.
    pub enum BlockdevDetectZeroesOptions { Off, On, Unmap }
}

qapi_enum! {
    /// How requests reach the kernel.
    pub enum BlockdevAioOptions { Threads, Native, IoUring as "io_uring" }
}

qapi_struct! {
    /// How caches of the host are used.
    pub struct BlockdevCacheOptions {
        /// Not at all.
        direct: Option<bool>,
        /// Flush requests are not passed on.
        no_flush: Option<bool>,
    }
}

qapi_union! {
    /// The options of a node.
    pub struct BlockdevOptions {
        node_name: Option<String>,
        discard: Option<BlockdevDiscardOptions>,
        cache: Option<BlockdevCacheOptions>,
        active: Option<bool>,
        read_only: Option<bool>,
        auto_read_only: Option<bool>,
        force_share: Option<bool>,
        detect_zeroes: Option<BlockdevDetectZeroesOptions>,
    }
    /// The driver, and its options.
    driver: BlockdevDriver => pub enum BlockdevDriverOptions {
        Blkdebug(Box<BlockdevOptionsBlkdebug>),
        Blkverify(BlockdevOptionsBlkverify),
        CopyOnRead(BlockdevOptionsCor),
        File(BlockdevOptionsFile),
        HostDevice(BlockdevOptionsFile),
        Nbd(BlockdevOptionsNbd),
        NullAio(BlockdevOptionsNull),
        NullCo(BlockdevOptionsNull),
        Qcow2(Box<BlockdevOptionsQcow2>),
        Raw(BlockdevOptionsRaw),
    }
}

qapi_alternate! {
    /// A child.
    pub enum BlockdevRef {
        /// A new node.
        Definition(Box<BlockdevOptions>),
        /// The node of this name.
        Reference(String),
    }
}

qapi_alternate! {
    /// A child that need not be.
    pub enum BlockdevRefOrNull {
        /// A new node.
        Definition(Box<BlockdevOptions>),
        /// The node of this name.
        Reference(String),
        /// None, even if the image names one.
        Null(Null),
    }
}

qapi_enum! {
    /// What a driver tells of before it does it.
    pub enum BlkdebugEvent {
        L1Update as "l1_update",
        L1GrowAllocTable as "l1_grow_alloc_table",
        L1GrowWriteTable as "l1_grow_write_table",
        L1GrowActivateTable as "l1_grow_activate_table",
        L2Load as "l2_load",
        L2Update as "l2_update",
        L2UpdateCompressed as "l2_update_compressed",
        L2AllocCowRead as "l2_alloc_cow_read",
        L2AllocWrite as "l2_alloc_write",
        ReadAio as "read_aio",
        ReadBackingAio as "read_backing_aio",
        ReadCompressed as "read_compressed",
        WriteAio as "write_aio",
        WriteCompressed as "write_compressed",
        VmstateLoad as "vmstate_load",
        VmstateSave as "vmstate_save",
        CowRead as "cow_read",
        CowWrite as "cow_write",
        ReftableLoad as "reftable_load",
        ReftableGrow as "reftable_grow",
        ReftableUpdate as "reftable_update",
        RefblockLoad as "refblock_load",
        RefblockUpdate as "refblock_update",
        RefblockUpdatePart as "refblock_update_part",
        RefblockAlloc as "refblock_alloc",
        RefblockAllocHookup as "refblock_alloc_hookup",
        RefblockAllocWrite as "refblock_alloc_write",
        RefblockAllocWriteBlocks as "refblock_alloc_write_blocks",
        RefblockAllocWriteTable as "refblock_alloc_write_table",
        RefblockAllocSwitchTable as "refblock_alloc_switch_table",
        ClusterAlloc as "cluster_alloc",
        ClusterAllocBytes as "cluster_alloc_bytes",
        ClusterFree as "cluster_free",
        FlushToOs as "flush_to_os",
        FlushToDisk as "flush_to_disk",
        PwritevRmwHead as "pwritev_rmw_head",
        PwritevRmwAfterHead as "pwritev_rmw_after_head",
        PwritevRmwTail as "pwritev_rmw_tail",
        PwritevRmwAfterTail as "pwritev_rmw_after_tail",
        Pwritev,
        PwritevZero as "pwritev_zero",
        PwritevDone as "pwritev_done",
        EmptyImagePrepare as "empty_image_prepare",
        L1ShrinkWriteTable as "l1_shrink_write_table",
        L1ShrinkFreeL2Clusters as "l1_shrink_free_l2_clusters",
        CorWrite as "cor_write",
        ClusterAllocSpace as "cluster_alloc_space",
        None,
    }
}

qapi_enum! {
    /// A kind of request.
    pub enum BlkdebugIOType { Read, Write, WriteZeroes, Discard, Flush, BlockStatus }
}

qapi_enum! {
    /// What a user of a node may do.
    pub enum BlockPermission { ConsistentRead, Write, WriteUnchanged, Resize }
}

qapi_struct! {
    /// A rule that lets requests fail.
    pub struct BlkdebugInjectErrorOptions {
        event: BlkdebugEvent,
        /// The state that it needs.
        state: Option<i64>,
        /// Which requests.
        iotype: Option<BlkdebugIOType>,
        errno: Option<i64>,
        /// Requests that touch it.
        sector: Option<i64>,
        once: Option<bool>,
        immediately: Option<bool>,
    }
}

qapi_struct! {
    /// A rule that changes the state.
    pub struct BlkdebugSetStateOptions {
        event: BlkdebugEvent,
        /// The state that it needs.
        state: Option<i64>,
        /// The state that follows.
        new_state as "new_state": i64,
    }
}

qapi_struct! {
    /// Lets requests to a node fail.
    pub struct BlockdevOptionsBlkdebug {
        image: BlockdevRef,
        /// A file of rules.
        config: Option<String>,
        align: Option<i64>,
        max_transfer: Option<i64>,
        opt_write_zero: Option<i64>,
        max_write_zero: Option<i64>,
        opt_discard: Option<i64>,
        max_discard: Option<i64>,
        inject_error: Option<Vec<BlkdebugInjectErrorOptions>>,
        set_state: Option<Vec<BlkdebugSetStateOptions>>,
        take_child_perms: Option<Vec<BlockPermission>>,
        unshare_child_perms: Option<Vec<BlockPermission>>,
    }
}

qapi_struct! {
    /// Compares a node with a plain copy of its disk.
    pub struct BlockdevOptionsBlkverify {
        test: BlockdevRef,
        raw: BlockdevRef,
    }
}

qapi_struct! {
    /// Copies what is read from below into the child.
    pub struct BlockdevOptionsCor {
        file: BlockdevRef,
        /// The lowest node whose data is copied.
        bottom: Option<String>,
    }
}

qapi_struct! {
    /// A file or device of the host.
    pub struct BlockdevOptionsFile ["dynamic-auto-read-only"] {
        filename: String,
        pr_manager: Option<String>,
        locking: Option<crate::schema::types::common::OnOffAuto>,
        aio: Option<BlockdevAioOptions>,
        aio_max_batch: Option<i64>,
        drop_cache: Option<bool>,
        x_check_cache_dropped: Option<bool> ["unstable"],
    }
}

qapi_struct! {
    /// An export of an NBD server.
    pub struct BlockdevOptionsNbd {
        server: crate::schema::types::socket::SocketAddress,
        /// The empty name unless it is said.
        export: Option<String>,
        tls_creds: Option<String>,
        tls_hostname: Option<String>,
        /// A metadata context whose answers stand for allocation.
        x_dirty_bitmap: Option<String> ["unstable"],
        /// In seconds.
        reconnect_delay: Option<u32>,
        /// In seconds.
        open_timeout: Option<u32>,
    }
}

qapi_struct! {
    /// Bytes that are nowhere.
    pub struct BlockdevOptionsNull {
        /// In bytes.
        size: Option<i64>,
        latency_ns: Option<u64>,
        read_zeroes: Option<bool>,
    }
}

qapi_struct! {
    /// The bytes of a child, or a range of them.
    pub struct BlockdevOptionsRaw {
        file: BlockdevRef,
        /// In bytes.
        offset: Option<i64>,
        /// In bytes.
        size: Option<i64>,
    }
}

qapi_struct! {
    /// The qcow2 format.
    pub struct BlockdevOptionsQcow2 {
        file: BlockdevRef,
        backing: Option<BlockdevRefOrNull>,
        lazy_refcounts: Option<bool>,
        pass_discard_request: Option<bool>,
        pass_discard_snapshot: Option<bool>,
        pass_discard_other: Option<bool>,
        discard_no_unref: Option<bool>,
        overlap_check: Option<Qcow2OverlapChecks>,
        /// In bytes.
        cache_size: Option<i64>,
        /// In bytes.
        l2_cache_size: Option<i64>,
        /// In bytes.
        l2_cache_entry_size: Option<i64>,
        /// In bytes.
        refcount_cache_size: Option<i64>,
        /// In seconds.
        cache_clean_interval: Option<i64>,
        encrypt: Option<BlockdevQcow2Encryption>,
        data_file: Option<BlockdevRef>,
    }
}

qapi_enum! {
    /// Sets of checks.
    pub enum Qcow2OverlapCheckMode { None, Constant, Cached, All }
}

qapi_struct! {
    /// Which metadata a write is checked not to hit: a set, and what differs from it.
    pub struct Qcow2OverlapCheckFlags {
        template: Option<Qcow2OverlapCheckMode>,
        main_header: Option<bool>,
        active_l1: Option<bool>,
        active_l2: Option<bool>,
        refcount_table: Option<bool>,
        refcount_block: Option<bool>,
        snapshot_table: Option<bool>,
        inactive_l1: Option<bool>,
        inactive_l2: Option<bool>,
        bitmap_directory: Option<bool>,
    }
}

qapi_alternate! {
    /// Which metadata a write is checked not to hit.
    pub enum Qcow2OverlapChecks {
        /// A set, and what differs from it.
        Flags(Qcow2OverlapCheckFlags),
        /// A set.
        Mode(Qcow2OverlapCheckMode),
    }
}

qapi_enum! {
    /// How a qcow2 image is encrypted.
    pub enum BlockdevQcow2EncryptionFormat { Aes, Luks }
}

qapi_union! {
    /// How to open an encrypted qcow2 image.
    pub struct BlockdevQcow2Encryption {}
    /// The format, and its options.
    format: BlockdevQcow2EncryptionFormat => pub enum BlockdevQcow2EncryptionOptions {
        Aes(QCryptoBlockOptionsQCow),
        Luks(QCryptoBlockOptionsLUKS),
    }
}

qapi_struct! {
    /// The old encryption of qcow2.
    pub struct QCryptoBlockOptionsQCow {
        /// The name of an object `secret`.
        key_secret: Option<String>,
    }
}

qapi_struct! {
    /// LUKS.
    pub struct QCryptoBlockOptionsLUKS {
        /// The name of an object `secret`.
        key_secret: Option<String>,
    }
}
