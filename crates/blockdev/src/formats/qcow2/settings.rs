//! What can be said of a qcow2 image that is opened or reopened.
//!
//! | options | what becomes of them |
//! |---|---|
//! | `l2-cache-size`, `refcount-cache-size`, `cache-size` | bounds on memory |
//! | `pass-discard-request` | decides about all space that the image gives back; by default as `discard` says |
//! | `pass-discard-snapshot`, `pass-discard-other`, `lazy-refcounts`, `cache-clean-interval`, `l2-cache-entry-size` | checked, and nothing: they trade one cost for another that is not there |
//! | `overlap-check` | checked, and nothing: tables are protected always |
//! | `discard-no-unref` | discarded clusters keep their place |

use drystone_base::{Error, Kind, Result};
use drystone_format::qcow2::driver::open::Qcow2Options;
use drystone_protocol::file::Discard;

use crate::options::Options;
use crate::settings::Settings;

/// What `overlap-check` can switch on and off, one by one.
const OVERLAP_AREAS: [&str; 9] = [
    "main-header",
    "active-l1",
    "active-l2",
    "refcount-table",
    "refcount-block",
    "snapshot-table",
    "inactive-l1",
    "inactive-l2",
    "bitmap-directory",
];
const OVERLAP_TEMPLATES: [(&str, ()); 4] = [("none", ()), ("constant", ()), ("cached", ()), ("all", ())];
/// Sizes of pieces of L2 tables, in bytes: powers of two, up to the largest cluster.
const L2_ENTRY_BYTES_MIN: u64 = 512;
const L2_ENTRY_BYTES_MAX: u64 = 2 << 20;
/// The least that a cache is given if only the size of both is said, in bytes.
const REFCOUNT_CACHE_BYTES_MIN: u64 = 256 << 10;

/// Takes them from `options`.
pub(super) fn take(options: &mut Options, settings: Settings) -> Result<Qcow2Options> {
    let default = Qcow2Options::default();
    let caches = Caches::take(options)?;
    for key in ["lazy-refcounts", "pass-discard-snapshot", "pass-discard-other"] {
        options.take_switch(key)?;
    }
    options.take_number("cache-clean-interval")?;
    take_l2_entry(options)?;
    take_overlap_check(options)?;
    Ok(Qcow2Options {
        read_only: settings.read_only,
        pass_discard: options
            .take_switch("pass-discard-request")?
            .unwrap_or(settings.discard == Discard::Unmap),
        discard_keeps: options.take_switch("discard-no-unref")?.unwrap_or(default.discard_keeps),
        l2_cache_bytes: caches.l2.unwrap_or(default.l2_cache_bytes),
        refcount_cache_bytes: caches.refcounts.unwrap_or(default.refcount_cache_bytes),
    })
}

/// Sizes of caches, as far as they are said.
struct Caches {
    l2: Option<u64>,
    refcounts: Option<u64>,
}

impl Caches {
    fn take(options: &mut Options) -> Result<Self> {
        let total = options.take_number("cache-size")?;
        let l2 = options.take_number("l2-cache-size")?;
        let refcounts = options.take_number("refcount-cache-size")?;
        let Some(total) = total else { return Ok(Self { l2, refcounts }) };
        let refuse = |text| Err(Error::new(Kind::InvalidInput, text).in_option("cache-size"));
        let rest = |part: u64| total.checked_sub(part);
        match (l2, refcounts) {
            (Some(_), Some(_)) => {
                refuse("it is the sum of l2-cache-size and refcount-cache-size: one of them is enough")
            }
            (Some(l2), None) => match rest(l2) {
                Some(refcounts) => Ok(Self { l2: Some(l2), refcounts: Some(refcounts) }),
                None => refuse("l2-cache-size exceeds it"),
            },
            (None, Some(refcounts)) => match rest(refcounts) {
                Some(l2) => Ok(Self { l2: Some(l2), refcounts: Some(refcounts) }),
                None => refuse("refcount-cache-size exceeds it"),
            },
            (None, None) => {
                let refcounts = REFCOUNT_CACHE_BYTES_MIN.min(total);
                Ok(Self { l2: Some(total - refcounts), refcounts: Some(refcounts) })
            }
        }
    }
}

fn take_l2_entry(options: &mut Options) -> Result<()> {
    let is_possible =
        |bytes: u64| bytes.is_power_of_two() && (L2_ENTRY_BYTES_MIN..=L2_ENTRY_BYTES_MAX).contains(&bytes);
    match options.take_number("l2-cache-entry-size")? {
        Some(bytes) if !is_possible(bytes) => {
            let text = "it is a power of two from 512 bytes to the length of a cluster";
            Err(Error::new(Kind::InvalidInput, text).in_option("l2-cache-entry-size"))
        }
        _ => Ok(()),
    }
}

fn take_overlap_check(options: &mut Options) -> Result<()> {
    const KEY: &str = "overlap-check";
    if options.is_nested(KEY) {
        let mut areas = options.take_nested(KEY)?;
        areas.take_choice("template", &OVERLAP_TEMPLATES)?;
        for area in OVERLAP_AREAS {
            areas.take_switch(area)?;
        }
        return areas.finish(KEY);
    }
    options.take_choice(KEY, &OVERLAP_TEMPLATES).map(drop)
}
