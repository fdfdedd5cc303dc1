//! The data of options.
//!
//! ```text
//! INFO, GO                  length 4 │ name │ count 2 │ count × 2: kinds of facts
//! LIST/SET_META_CONTEXT     length 4 │ name │ count 4 │ count × (length 4 │ query)
//! ```
//! Invariant: what was parsed is consistent; lengths were compared with the bytes that are there, nothing else was done with
//! them.

use super::answer::Refused;
use crate::export::ContextSet;
use crate::limit;
use crate::wire::rep;
use drystone_base::{Be, codec::Truncated};

/// Spec "Conventions": UTF-8, no NUL, at most 4096 bytes.
pub(super) fn name_of(bytes: &[u8]) -> Result<&str, Refused> {
    if bytes.len() > limit::STRING_BYTES_MAX {
        return Err(Refused::new(rep::ERR_INVALID, "the export's name is too long"));
    }
    match std::str::from_utf8(bytes) {
        Ok(name) if !name.contains('\0') => Ok(name),
        _ => Err(Refused::new(rep::ERR_INVALID, "the export's name is not UTF-8")),
    }
}

/// The next string with a length in front.
fn sized<'a>(be: &mut Be<'a>) -> Result<&'a [u8], Truncated> {
    let len = be.u32()?;
    be.take(super::usize_of(len))
}

impl From<Truncated> for Refused {
    fn from(_: Truncated) -> Self {
        Self::new(rep::ERR_INVALID, "the option's lengths do not match")
    }
}

/// Spec "`NBD_OPT_INFO` and `NBD_OPT_GO`".
pub(super) struct InfoRequest<'a> {
    pub(super) name: &'a str,
    kinds: &'a [u8],
}

impl<'a> InfoRequest<'a> {
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, Refused> {
        let mut be = Be(data);
        let name = name_of(sized(&mut be)?)?;
        let count = be.u16()?;
        if be.len() != usize::from(count) * 2 {
            return Err(Truncated.into());
        }
        Ok(Self { name, kinds: be.0 })
    }

    /// Whether the client asked for this kind of fact.
    pub(super) fn asks(&self, kind: u16) -> bool {
        self.kinds.chunks_exact(2).any(|asked| asked == kind.to_be_bytes())
    }
}

/// Spec "`NBD_OPT_LIST_META_CONTEXT`" and "`NBD_OPT_SET_META_CONTEXT`".
pub(super) struct MetaRequest<'a> {
    pub(super) name: &'a str,
    queries: Vec<&'a [u8]>,
}

impl<'a> MetaRequest<'a> {
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, Refused> {
        let mut be = Be(data);
        let name = name_of(sized(&mut be)?)?;
        let count = be.u32()?;
        if count > limit::QUERIES_MAX {
            return Err(Refused::new(rep::ERR_TOO_BIG, "too many queries"));
        }
        let queries = (0..count).map(|_| sized(&mut be)).collect::<Result<_, _>>()?;
        if !be.is_empty() {
            return Err(Truncated.into());
        }
        Ok(Self { name, queries })
    }

    /// The contexts to list. No query asks for all of them; a query that ends in a colon for those whose names begin with it
    /// (Spec "The `base:` metadata namespace", and what `qemu:` and `qemu:dirty-bitmap:` mean in release 10.0). A query that
    /// matches nothing, of an unknown namespace or of none at all, is not an error.
    pub(super) fn matches(&self, contexts: &[String]) -> ContextSet {
        let prefix = |query: &[u8], name: &[u8]| query.ends_with(b":") && name.starts_with(query);
        self.filter(contexts, self.queries.is_empty(), prefix)
    }

    /// The contexts to select: the names that were given in full.
    pub(super) fn select(&self, contexts: &[String]) -> ContextSet {
        self.filter(contexts, false, |_, _| false)
    }

    fn filter(&self, contexts: &[String], all: bool, like: impl Fn(&[u8], &[u8]) -> bool) -> ContextSet {
        let mut set = ContextSet::EMPTY;
        for (index, name) in (0..).zip(contexts) {
            let name = name.as_bytes();
            if all || self.queries.iter().any(|query| *query == name || like(query, name)) {
                set.insert(index);
            }
        }
        set
    }
}
