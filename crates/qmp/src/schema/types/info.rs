//! What is told about nodes and images.

use super::blockdev::{BlockdevDetectZeroesOptions, BlockdevQcow2EncryptionFormat};
use super::common::{Data, Empty, wrapped};

qapi_struct! {
    /// Arguments of `query-named-block-nodes`.
    pub struct QueryNamedBlockNodes {
        /// Without the images below each.
        flat: Option<bool>,
    }
}

qapi_enum! {
    /// Whether a device works.
    pub enum BlockDeviceIoStatus { Ok, Failed, Nospace }
}

qapi_struct! {
    /// A device and what is in it.
    pub struct BlockInfo {
        device: String,
        qdev: Option<String>,
        r#type: String,
        removable: bool,
        locked: bool,
        inserted: Option<Box<BlockDeviceInfo>>,
        tray_open as "tray_open": Option<bool>,
        io_status: Option<BlockDeviceIoStatus>,
    }
}

qapi_struct! {
    /// A node. Limits are zero if there are none.
    pub struct BlockDeviceInfo {
        file: String,
        node_name: Option<String>,
        ro: bool,
        drv: String,
        backing_file as "backing_file": Option<String>,
        backing_file_depth as "backing_file_depth": i64,
        active: bool,
        encrypted: bool,
        detect_zeroes as "detect_zeroes": BlockdevDetectZeroesOptions,
        bps: i64,
        bps_rd as "bps_rd": i64,
        bps_wr as "bps_wr": i64,
        iops: i64,
        iops_rd as "iops_rd": i64,
        iops_wr as "iops_wr": i64,
        image: ImageInfo,
        bps_max as "bps_max": Option<i64>,
        bps_rd_max as "bps_rd_max": Option<i64>,
        bps_wr_max as "bps_wr_max": Option<i64>,
        iops_max as "iops_max": Option<i64>,
        iops_rd_max as "iops_rd_max": Option<i64>,
        iops_wr_max as "iops_wr_max": Option<i64>,
        bps_max_length as "bps_max_length": Option<i64>,
        bps_rd_max_length as "bps_rd_max_length": Option<i64>,
        bps_wr_max_length as "bps_wr_max_length": Option<i64>,
        iops_max_length as "iops_max_length": Option<i64>,
        iops_rd_max_length as "iops_rd_max_length": Option<i64>,
        iops_wr_max_length as "iops_wr_max_length": Option<i64>,
        iops_size as "iops_size": Option<i64>,
        group: Option<String>,
        cache: BlockdevCacheInfo,
        /// Zero if there is none.
        write_threshold as "write_threshold": i64,
        dirty_bitmaps: Option<Vec<BlockDirtyInfo>>,
    }
}

qapi_struct! {
    /// How caches of the host are used.
    pub struct BlockdevCacheInfo { writeback: bool, direct: bool, no_flush: bool }
}

qapi_struct! {
    /// A dirty bitmap.
    pub struct BlockDirtyInfo {
        name: Option<String>,
        /// Dirty bytes.
        count: i64,
        /// Bytes per bit.
        granularity: u32,
        recording: bool,
        busy: bool,
        persistent: bool,
        inconsistent: Option<bool>,
    }
}

qapi_struct! {
    /// An image, and the images below it if asked for. Sizes are in bytes.
    pub struct ImageInfo {
        filename: String,
        format: String,
        dirty_flag: Option<bool>,
        actual_size: Option<i64>,
        virtual_size: i64,
        cluster_size: Option<i64>,
        encrypted: Option<bool>,
        compressed: Option<bool>,
        backing_filename: Option<String>,
        full_backing_filename: Option<String>,
        backing_filename_format: Option<String>,
        snapshots: Option<Vec<SnapshotInfo>>,
        format_specific: Option<ImageInfoSpecific>,
        backing_image: Option<Box<ImageInfo>>,
    }
}

qapi_struct! {
    /// A snapshot inside an image.
    pub struct SnapshotInfo {
        id: String,
        name: String,
        /// In bytes.
        vm_state_size: i64,
        date_sec: i64,
        date_nsec: i64,
        vm_clock_sec: i64,
        vm_clock_nsec: i64,
        icount: Option<i64>,
    }
}

qapi_enum! {
    /// The formats that have something special to tell.
    pub enum ImageInfoSpecificKind { Qcow2, File }
}

qapi_union! {
    /// What only one format tells.
    pub struct ImageInfoSpecific {}
    /// The format, and what it tells.
    r#type: ImageInfoSpecificKind => pub enum ImageInfoSpecificData {
        Qcow2(Data<Box<ImageInfoSpecificQCow2>>),
        File(Data<ImageInfoSpecificFile>),
    }
}

type BoxedQCow2 = Box<ImageInfoSpecificQCow2>;
wrapped!(BoxedQCow2 "ImageInfoSpecificQCow2Wrapper", ImageInfoSpecificFile "ImageInfoSpecificFileWrapper");

qapi_struct! {
    /// What qcow2 tells.
    pub struct ImageInfoSpecificQCow2 {
        /// `0.10` or `1.1`.
        compat: String,
        data_file: Option<String>,
        data_file_raw: Option<bool>,
        extended_l2: Option<bool>,
        lazy_refcounts: Option<bool>,
        corrupt: Option<bool>,
        refcount_bits: i64,
        encrypt: Option<ImageInfoSpecificQCow2Encryption>,
        bitmaps: Option<Vec<Qcow2BitmapInfo>>,
        compression_type: Qcow2CompressionType,
    }
}

qapi_struct! {
    /// What a file tells.
    pub struct ImageInfoSpecificFile {
        /// In bytes.
        extent_size_hint: Option<u64>,
    }
}

qapi_enum! {
    /// How clusters are compressed.
    pub enum Qcow2CompressionType { Zlib, Zstd }
}

qapi_enum! {
    /// The state of a stored bitmap.
    pub enum Qcow2BitmapInfoFlags { InUse, Auto }
}

qapi_struct! {
    /// A stored bitmap.
    pub struct Qcow2BitmapInfo {
        name: String,
        /// Bytes per bit.
        granularity: u32,
        flags: Vec<Qcow2BitmapInfoFlags>,
    }
}

qapi_union! {
    /// How a qcow2 image is encrypted.
    pub struct ImageInfoSpecificQCow2Encryption {}
    /// The format, and what it tells.
    format: BlockdevQcow2EncryptionFormat => pub enum ImageInfoSpecificQCow2EncryptionData {
        Aes(Empty),
        Luks(QCryptoBlockInfoLUKS),
    }
}

qapi_enum! {
    /// Ciphers.
    pub enum QCryptoCipherAlgo {
        Aes128 as "aes-128",
        Aes192 as "aes-192",
        Aes256 as "aes-256",
        Des,
        TripleDes as "3des",
        Cast5128 as "cast5-128",
        Serpent128 as "serpent-128",
        Serpent192 as "serpent-192",
        Serpent256 as "serpent-256",
        Twofish128 as "twofish-128",
        Twofish192 as "twofish-192",
        Twofish256 as "twofish-256",
        Sm4,
    }
}

qapi_enum! {
    /// Modes of ciphers.
    pub enum QCryptoCipherMode { Ecb, Cbc, Xts, Ctr }
}

qapi_enum! {
    /// How the initial vector is made.
    pub enum QCryptoIVGenAlgo { Plain, Plain64, Essiv }
}

qapi_enum! {
    /// Hashes.
    pub enum QCryptoHashAlgo { Md5, Sha1, Sha224, Sha256, Sha384, Sha512, Ripemd160, Sm3 }
}

qapi_struct! {
    /// A LUKS header.
    pub struct QCryptoBlockInfoLUKS {
        cipher_alg: QCryptoCipherAlgo,
        cipher_mode: QCryptoCipherMode,
        ivgen_alg: QCryptoIVGenAlgo,
        ivgen_hash_alg: Option<QCryptoHashAlgo>,
        hash_alg: QCryptoHashAlgo,
        detached_header: bool,
        /// In bytes.
        payload_offset: i64,
        master_key_iters: i64,
        uuid: String,
        slots: Vec<QCryptoBlockInfoLUKSSlot>,
    }
}

qapi_struct! {
    /// A key slot.
    pub struct QCryptoBlockInfoLUKSSlot {
        active: bool,
        iters: Option<i64>,
        stripes: Option<i64>,
        /// In bytes.
        key_offset: i64,
    }
}
