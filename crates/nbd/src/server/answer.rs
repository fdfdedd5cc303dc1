//! What a server says during the handshake (Spec "Option reply types").
//!
//! Invariant: the answers to one option have at most about [`limit::LIST_BYTES_MAX`] bytes.

use super::option::InfoRequest;
use crate::export::{ContextSet, ExportInfo};
use crate::limit;
use crate::wire::{self, TransmissionFlags, info, rep};
use drystone_base::BeMut;
use std::borrow::Cow;
use std::sync::Arc;

/// An option that is answered with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    code: u32,
    text: Cow<'static, str>,
}

impl Refused {
    pub(super) fn new(code: u32, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into() }
    }

    pub(super) fn unknown(name: &str) -> Self {
        let short: String = name.chars().take(64).collect();
        let more = if short.len() < name.len() { "…" } else { "" };
        Self::new(rep::ERR_UNKNOWN, format!("there is no export '{short}{more}'"))
    }
}

/// One reply.
pub(super) fn reply(output: &mut Vec<u8>, option: u32, kind: u32, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = BeMut(output);
    out.u64(wire::MAGIC_OPTION_REPLY).u32(option).u32(kind).u32(u32::try_from(len).unwrap_or(u32::MAX));
    for part in parts {
        out.bytes(part);
    }
}

/// The final reply to an option that failed.
pub(super) fn refuse(output: &mut Vec<u8>, option: u32, refused: &Refused) {
    reply(output, option, refused.code, &[refused.text.as_bytes()]);
}

/// `LIST`: all exports, or none if they are too many.
pub(super) fn list(output: &mut Vec<u8>, option: u32, exports: &[Arc<ExportInfo>]) -> Result<(), Refused> {
    let start = output.len();
    for export in exports {
        let (name, text) = (export.name().as_bytes(), export.description().as_bytes());
        let name_bytes = u32::try_from(name.len()).unwrap_or(u32::MAX); // at most 4096
        reply(output, option, rep::SERVER, &[&name_bytes.to_be_bytes(), name, text]);
        if output.len() - start > limit::LIST_BYTES_MAX {
            output.truncate(start);
            return Err(Refused::new(rep::ERR_TOO_BIG, "the list of exports is too long"));
        }
    }
    Ok(())
}

/// `INFO` and `GO`: what is known of an export. Block sizes are told unasked, as release 10.0 does.
pub(super) fn inform(
    output: &mut Vec<u8>,
    option: u32,
    request: &InfoRequest<'_>,
    export: &ExportInfo,
    flags: TransmissionFlags,
) {
    let mut fact = |kind: u16, parts: [&[u8]; 3]| {
        let [a, b, c] = parts;
        reply(output, option, rep::INFO, &[&kind.to_be_bytes(), a, b, c]);
    };
    if request.asks(info::NAME) || export.name() != request.name {
        fact(info::NAME, [export.name().as_bytes(), &[], &[]]);
    }
    if !export.description().is_empty() {
        fact(info::DESCRIPTION, [export.description().as_bytes(), &[], &[]]);
    }
    let block = export.block();
    let sizes = [block.min_bytes, block.preferred_bytes, block.max_bytes].map(u32::to_be_bytes);
    let [min, preferred, max] = &sizes;
    fact(info::BLOCK_SIZE, [min, preferred, max]);
    fact(info::EXPORT, [&export.len_bytes().to_be_bytes(), &flags.to_wire().to_be_bytes(), &[]]);
}

/// `LIST_META_CONTEXT` and `SET_META_CONTEXT`: contexts, with their numbers if they are `selected`.
pub(super) fn contexts(output: &mut Vec<u8>, option: u32, names: &[String], set: ContextSet, selected: bool) {
    for (index, name) in (0_u32..).zip(names).filter(|(index, _)| set.contains(*index)) {
        let id = if selected { index } else { 0 };
        reply(output, option, rep::META_CONTEXT, &[&id.to_be_bytes(), name.as_bytes()]);
    }
}
