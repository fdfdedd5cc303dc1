//! What can be said of a qcow2 image that is opened or reopened.
//!
//! | options | what becomes of them |
//! |---|---|
//! | `l2-cache-size`, `refcount-cache-size`, `cache-size` | bounds on memory |
//! | `l2-cache-entry-size`, `cache-clean-interval` | how much of an L2 table is read at once; when unused tables leave |
//! | `pass-discard-request` | decides about all space that the image gives back; by default as `discard` says |
//! | `pass-discard-snapshot`, `pass-discard-other`, `lazy-refcounts` | checked, and nothing: they trade one cost for another that is not there |
//! | `overlap-check` | whether L2 tables of internal snapshots are protected; all others are always |
//! | `discard-no-unref` | discarded clusters keep their place |

use drystone_base::Result;
use drystone_format::qcow2::driver::caches::CacheOptions;
use drystone_format::qcow2::driver::open::Qcow2Options;
use drystone_format::qcow2::driver::passes::PassDiscard;
use drystone_protocol::file::Discard;

use crate::options::Options;
use crate::settings::Settings;

/// The one that costs reading.
const INACTIVE_L2: &str = "inactive-l2";
/// What `overlap-check` can switch on and off, one by one.
const OVERLAP_AREAS: [&str; 9] = [
    "main-header",
    "active-l1",
    "active-l2",
    "refcount-table",
    "refcount-block",
    "snapshot-table",
    "inactive-l1",
    INACTIVE_L2,
    "bitmap-directory",
];
/// Whether each of them has the tables that must be read to be known.
const OVERLAP_TEMPLATES: [(&str, bool); 4] =
    [("none", false), ("constant", false), ("cached", false), ("all", true)];

/// Takes them from `options`.
pub(super) fn take(options: &mut Options, settings: Settings) -> Result<Qcow2Options> {
    let caches = take_caches(options)?;
    options.take_switch("lazy-refcounts")?;
    let guards_inactive = take_overlap_check(options)?;
    Ok(Qcow2Options {
        read_only: settings.read_only,
        pass_discard: PassDiscard {
            request: options
                .take_switch("pass-discard-request")?
                .unwrap_or(settings.discard == Discard::Unmap),
            snapshot: options.take_switch("pass-discard-snapshot")?.unwrap_or(true),
            other: options.take_switch("pass-discard-other")?.unwrap_or(false),
        },
        discard_keeps: options.take_switch("discard-no-unref")?.unwrap_or_default(),
        guards_inactive,
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

fn take_overlap_check(options: &mut Options) -> Result<bool> {
    const KEY: &str = "overlap-check";
    if !options.is_nested(KEY) {
        return Ok(options.take_choice(KEY, &OVERLAP_TEMPLATES)?.unwrap_or_default());
    }
    let mut areas = options.take_nested(KEY)?;
    let mut guards_inactive = areas.take_choice("template", &OVERLAP_TEMPLATES)?.unwrap_or_default();
    for area in OVERLAP_AREAS {
        let switch = areas.take_switch(area)?.filter(|_| area == INACTIVE_L2);
        guards_inactive = switch.unwrap_or(guards_inactive);
    }
    areas.finish(KEY).map(|()| guards_inactive)
}
