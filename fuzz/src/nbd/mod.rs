//! NBD: each side under whatever the other one says.

mod client;
mod server;

use std::sync::Arc;

use drystone_base::LEN_MAX;
use drystone_nbd::wire::{context, opt};
use drystone_nbd::{ExportInfo, Exports, TransmissionFlags};

use crate::Target;

/// A server under a client.
pub const SERVER: Target = Target {
    name: "nbd_server",
    run: server::run,
    seeds: server::seeds,
    words: &[
        b"IHAVEOPT",
        b"\x25\x60\x95\x13",
        b"\x21\xe4\x1c\x71",
        b"\0\0\0\x07",
        b"\0\0\0\x0a",
        b"\0\0\0\x04disk",
        b"base:allocation",
        b"\xff\xff\xff\xff",
    ],
    len_max: 4096,
    mutations: 20_000,
};

/// A client under a server.
pub const CLIENT: Target = Target {
    name: "nbd_client",
    run: client::run,
    seeds: client::seeds,
    words: &[
        b"NBDMAGIC",
        b"IHAVEOPT",
        b"\0\x03\xe8\x89\x04\x55\x65\xa9",
        b"\x67\x44\x66\x98",
        b"\x66\x8e\x33\xef",
        b"\x6e\x8a\x27\x8c",
        b"\x80\0\0\x01",
        b"\0\x01\0\x05",
        b"\0\x01\0\x06",
        b"\xff\xff\xff\xff",
    ],
    len_max: 4096,
    mutations: 20_000,
};

/// Bytes of the export `disk`.
const DISK_BYTES: u64 = 1 << 20;
/// Bytes of the read-only export `vast`.
const VAST_BYTES: u64 = LEN_MAX;

/// What servers of these tests offer.
struct Shelf(Vec<Arc<ExportInfo>>);

impl Exports for Shelf {
    fn find(&self, name: &str) -> Option<Arc<ExportInfo>> {
        self.0.iter().find(|export| name.is_empty() || export.name() == name).cloned()
    }

    fn list(&self) -> Vec<Arc<ExportInfo>> {
        self.0.clone()
    }
}

fn shelf() -> Shelf {
    let disk =
        ExportInfo::new(1, "disk", DISK_BYTES).unwrap().with_flags(TransmissionFlags::from_wire(0x1dec));
    let disk = disk.with_context(context::BASE_ALLOCATION).unwrap().with_context("x:depth").unwrap();
    let vast =
        ExportInfo::new(2, "vast", VAST_BYTES).unwrap().with_context(context::BASE_ALLOCATION).unwrap();
    Shelf(vec![Arc::new(disk), Arc::new(vast)])
}

/// Options that lead to the use of an export; their data are those of `disk`.
const OPTIONS: [u32; 10] = [
    opt::GO,
    opt::EXTENDED_HEADERS,
    opt::STRUCTURED_REPLY,
    opt::SET_META_CONTEXT,
    opt::LIST_META_CONTEXT,
    opt::INFO,
    opt::LIST,
    opt::EXPORT_NAME,
    opt::STARTTLS,
    opt::ABORT,
];
