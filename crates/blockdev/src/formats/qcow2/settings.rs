//! What can be said of a qcow2 image that is opened or reopened.
//!
//! | options | what becomes of them |
//! |---|---|
//! | `l2-cache-size`, `refcount-cache-size`, `cache-size` | bounds on memory |
//! | `l2-cache-entry-size`, `cache-clean-interval` | how much of an L2 table is read at once; when unused tables leave |
//! | `pass-discard-request` | decides about all space that the image gives back; by default as `discard` says |
//! | `pass-discard-snapshot`, `pass-discard-other`, `lazy-refcounts` | checked, and nothing: they trade one cost for another that is not there |
//! | `overlap-check` | checked, and nothing: tables are protected always |
//! | `discard-no-unref` | discarded clusters keep their place |

use drystone_base::Result;
use drystone_format::qcow2::driver::caches::CacheOptions;
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

/// Takes them from `options`.
pub(super) fn take(options: &mut Options, settings: Settings) -> Result<Qcow2Options> {
    let caches = take_caches(options)?;
    for key in ["lazy-refcounts", "pass-discard-snapshot", "pass-discard-other"] {
        options.take_switch(key)?;
    }
    take_overlap_check(options)?;
    Ok(Qcow2Options {
        read_only: settings.read_only,
        pass_discard: options
            .take_switch("pass-discard-request")?
            .unwrap_or(settings.discard == Discard::Unmap),
        discard_keeps: options.take_switch("discard-no-unref")?.unwrap_or_default(),
        caches,
    })
}

/// Takes what is said of caches.
fn take_caches(options: &mut Options) -> Result<CacheOptions> {
    let caches = CacheOptions {
        total_bytes: options.take_number("cache-size")?,
        l2_bytes: options.take_number("l2-cache-size")?,
        refcount_bytes: options.take_number("refcount-cache-size")?,
        l2_entry_bytes: options.take_number("l2-cache-entry-size")?,
        clean_interval_s: options.take_number("cache-clean-interval")?,
    };
    caches.check().map(|()| caches)
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
