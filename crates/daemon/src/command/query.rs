//! Reports of nodes.

use drystone_blockdev::query::node::{
    ImageReport, NodeReport, Qcow2Features, Specific, StoredBitmap, nodes as report,
};
use drystone_core::bitmap::BitmapInfo;
use drystone_core::control::Task;
use drystone_core::graph::policy::DetectZeroes;
use drystone_qmp::schema::types::blockdev::BlockdevDetectZeroesOptions;
use drystone_qmp::schema::types::common::Data;
use drystone_qmp::schema::types::info::{
    BlockDeviceInfo, BlockDirtyInfo, BlockdevCacheInfo, ImageInfo, ImageInfoSpecific, ImageInfoSpecificData,
    ImageInfoSpecificFile, ImageInfoSpecificQCow2, Qcow2BitmapInfo, Qcow2BitmapInfoFlags,
    Qcow2CompressionType, QueryNamedBlockNodes,
};

use super::Outcome;
use crate::daemon::Daemon;
use crate::error::to_qmp;

/// `query-named-block-nodes`.
pub(super) async fn nodes(daemon: &Daemon, how: &QueryNamedBlockNodes) -> Outcome<Vec<NodeReport>> {
    let nested = how.flat != Some(true);
    let look = async move |task: &mut Task<'_>| Ok(task.gs().with(|graph| report(graph, nested)));
    daemon.on_control(look).await.map_err(|error| to_qmp(&error))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A node in the words of the schema.
pub(super) fn node(node: NodeReport) -> BlockDeviceInfo {
    BlockDeviceInfo {
        file: node.image.filename.clone(),
        node_name: Some(node.name),
        ro: node.read_only,
        drv: node.driver.to_owned(),
        backing_file: node.backing_file,
        backing_file_depth: i64::try_from(node.backing_file_depth).unwrap_or(i64::MAX),
        active: node.active,
        encrypted: node.encrypted,
        detect_zeroes: match node.detect_zeroes {
            DetectZeroes::Off => BlockdevDetectZeroesOptions::Off,
            DetectZeroes::On => BlockdevDetectZeroesOptions::On,
            DetectZeroes::Unmap => BlockdevDetectZeroesOptions::Unmap,
        },
        bps: 0,
        bps_rd: 0,
        bps_wr: 0,
        iops: 0,
        iops_rd: 0,
        iops_wr: 0,
        image: image(node.image),
        bps_max: None,
        bps_rd_max: None,
        bps_wr_max: None,
        iops_max: None,
        iops_rd_max: None,
        iops_wr_max: None,
        bps_max_length: None,
        bps_rd_max_length: None,
        bps_wr_max_length: None,
        iops_max_length: None,
        iops_rd_max_length: None,
        iops_wr_max_length: None,
        iops_size: None,
        group: None,
        cache: BlockdevCacheInfo {
            writeback: true,
            direct: node.cache_direct,
            no_flush: node.cache_no_flush,
        },
        write_threshold: 0,
        dirty_bitmaps: (!node.bitmaps.is_empty())
            .then(|| node.bitmaps.into_iter().rev().map(dirty_bitmap).collect()),
    }
}

fn dirty_bitmap(info: BitmapInfo) -> BlockDirtyInfo {
    BlockDirtyInfo {
        name: Some(info.name),
        count: signed(info.dirty_bytes),
        granularity: u32::try_from(info.granularity.bytes()).unwrap_or(u32::MAX),
        recording: info.recording,
        busy: info.busy,
        persistent: info.persistent,
        inconsistent: info.inconsistent.then_some(true),
    }
}

fn stored_bitmap(bitmap: &StoredBitmap) -> Qcow2BitmapInfo {
    let flags = [(bitmap.in_use, Qcow2BitmapInfoFlags::InUse), (bitmap.auto, Qcow2BitmapInfoFlags::Auto)];
    Qcow2BitmapInfo {
        name: bitmap.name.clone(),
        granularity: bitmap.granularity,
        flags: flags.into_iter().filter(|(has, _)| *has).map(|(_, flag)| flag).collect(),
    }
}

/// Images stand on each other as deep as people make them, so from the last one up.
fn image(mut report: ImageReport) -> ImageInfo {
    let mut chain = Vec::new();
    loop {
        let below = report.backing.take();
        chain.push(report);
        match below {
            Some(below) => report = *below,
            None => break,
        }
    }
    let mut below = None;
    for report in chain.into_iter().rev() {
        below = Some(Box::new(one_image(report, below.take())));
    }
    below.map_or_else(|| unreachable!("a chain has an image"), |image| *image)
}

fn one_image(report: ImageReport, backing_image: Option<Box<ImageInfo>>) -> ImageInfo {
    ImageInfo {
        filename: report.filename,
        format: report.format.to_owned(),
        dirty_flag: Some(report.dirty),
        actual_size: report.actual_size.map(signed),
        virtual_size: signed(report.virtual_size),
        cluster_size: report.cluster_size.map(signed),
        encrypted: report.encrypted.then_some(true),
        compressed: None,
        backing_filename: report.backing_filename,
        full_backing_filename: report.full_backing_filename,
        backing_filename_format: report.backing_format,
        snapshots: None,
        format_specific: report.specific.map(specific),
        backing_image,
    }
}

fn specific(specific: Specific) -> ImageInfoSpecific {
    let r#type = match specific {
        Specific::File => {
            ImageInfoSpecificData::File(Data { data: ImageInfoSpecificFile { extent_size_hint: None } })
        }
        Specific::Qcow2 { compat, compression_type, refcount_bits, data_file, version_3 } => {
            let flag = |of: fn(&Qcow2Features) -> bool| version_3.as_ref().map(of);
            ImageInfoSpecificData::Qcow2(Data {
                data: Box::new(ImageInfoSpecificQCow2 {
                    compat: compat.to_owned(),
                    data_file_raw: data_file
                        .is_some()
                        .then(|| flag(|features| features.data_file_raw))
                        .flatten(),
                    data_file: data_file.flatten(),
                    extended_l2: flag(|features| features.extended_l2),
                    lazy_refcounts: flag(|features| features.lazy_refcounts),
                    corrupt: flag(|features| features.corrupt),
                    refcount_bits: i64::from(refcount_bits),
                    encrypt: None,
                    bitmaps: version_3
                        .as_ref()
                        .filter(|features| !features.bitmaps.is_empty())
                        .map(|features| features.bitmaps.iter().map(stored_bitmap).collect()),
                    compression_type: if compression_type == Qcow2CompressionType::Zstd.name() {
                        Qcow2CompressionType::Zstd
                    } else {
                        Qcow2CompressionType::Zlib
                    },
                }),
            })
        }
    };
    ImageInfoSpecific { r#type }
}
