//! Options by name: which of them a reopen can change, and which are known here and not supported.
//!
//! | driver | a reopen can change | not supported |
//! |---|---|---|
//! | all | see [`ALWAYS`] | `active=off` |
//! | `file`, `host_device` | `drop-cache` | `pr-manager`, `x-check-cache-dropped` |
//! | `null-co`, `null-aio`, `memory` | | |
//! | `nbd` | | `tls-creds`, `tls-hostname` |
//! | `raw` | `offset`, `size` | |
//! | `copy-on-read` | nothing: it cannot be reopened | |
//! | `qcow2` | all of its own | `encrypt` |
//!
//! What is in neither list has to be said again at a reopen, and as it was.

use drystone_base::{Error, Kind, Result};

use crate::options::Options;

/// What every node can be told anew; what is not said again is as it is by default.
pub(crate) const ALWAYS: [&str; 8] = [
    "driver",
    "discard",
    "cache.direct",
    "cache.no-flush",
    "read-only",
    "auto-read-only",
    "detect-zeroes",
    "active",
];

/// A driver and its options.
struct Known {
    driver: &'static str,
    changeable: &'static [&'static str],
    unsupported: &'static [&'static str],
}

const FILE_UNSUPPORTED: &[&str] = &["pr-manager", "x-check-cache-dropped"];

const KNOWN: [Known; 5] = [
    Known { driver: "file", changeable: &["drop-cache"], unsupported: FILE_UNSUPPORTED },
    Known { driver: "host_device", changeable: &["drop-cache"], unsupported: FILE_UNSUPPORTED },
    Known { driver: "nbd", changeable: &[], unsupported: &["tls-creds", "tls-hostname"] },
    Known { driver: "raw", changeable: &["offset", "size"], unsupported: &[] },
    Known {
        driver: "qcow2",
        changeable: &[
            "lazy-refcounts",
            "pass-discard-request",
            "pass-discard-snapshot",
            "pass-discard-other",
            "discard-no-unref",
            "overlap-check",
            "cache-size",
            "l2-cache-size",
            "l2-cache-entry-size",
            "refcount-cache-size",
            "cache-clean-interval",
        ],
        unsupported: &["encrypt"],
    },
];

fn known(driver: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.driver == driver)
}

/// Whether a reopen can change the option with this dotted key.
pub(crate) fn is_changeable(driver: &str, key: &str) -> bool {
    let below =
        |name: &&str| key.strip_prefix(*name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let own = known(driver).map_or(&[][..], |known| known.changeable);
    ALWAYS.contains(&key) || own.iter().any(below)
}

/// Fails for an option that is left and that the driver has elsewhere, but not here.
///
/// # Errors
/// [`Kind::Unsupported`] naming the option.
pub(crate) fn refuse(driver: &str, left: &Options) -> Result<()> {
    let unsupported = known(driver).map_or(&[][..], |known| known.unsupported);
    match left.names().find(|name| unsupported.contains(name)) {
        Some(name) => Err(Error::new(Kind::Unsupported, "it is not supported").in_option(name)),
        None => Ok(()),
    }
}
