//! Dirty bitmaps as users ask for them.

use drystone_base::{Error, Kind, Result};
use drystone_core::bitmap::Granularity;
use drystone_core::graph::node::Node;
use drystone_format::qcow2::driver::Qcow2;

/// The granularity of a new bitmap: as asked for, in bytes, or the length of a cluster of the image.
///
/// # Errors
/// [`Kind::InvalidInput`] unless it is a power of two from 512 bytes to 2 GiB.
pub fn granularity(node: &Node, bytes: Option<u64>) -> Result<Granularity> {
    let Some(bytes) = bytes else {
        let image = node.driver_as::<Qcow2>();
        return Ok(Granularity::by_default(image.map(|image| image.header_now().cluster().bytes())));
    };
    Granularity::from_bytes(bytes).ok_or_else(|| {
        let text = format!("{bytes} is no power of two from 512 to {}", 2_u64 << 30);
        Error::new(Kind::InvalidInput, text).in_option("granularity")
    })
}
