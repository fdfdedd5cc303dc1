//! What a client asks and is told about exports.
//!
//! Spec "Option reply types". Invariant: strings were checked, numbers are plausible; an unknown kind of fact is ignored.

use super::HandshakeError;
use crate::export::BlockSizes;
use crate::limit;
use crate::wire::{Style, TransmissionFlags, info};
use drystone_base::{Be, BeMut, codec::Truncated};

/// An entry of a server's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedExport {
    /// The name.
    pub name: String,
    /// Text for people, printable characters only; empty if there is none.
    pub description: String,
}

/// What a server said about an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportFacts {
    /// The canonical name, if the server said it.
    pub name: Option<String>,
    /// Text for people, printable characters only; empty if there is none.
    pub description: String,
    /// The length.
    pub len_bytes: u64,
    /// What the export offers.
    pub flags: TransmissionFlags,
    /// The block sizes; the defaults if the server said none.
    pub block: BlockSizes,
    /// The server said the block sizes.
    pub says_block: bool,
    /// The best headers that server and client both know.
    pub style: Style,
    /// Metadata contexts with their numbers on the wire: the selected ones, or those that exist (with no useful number).
    pub contexts: Vec<(u32, String)>,
}

/// Facts as they come in, in any order.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) listed: Vec<ListedExport>,
    pub(super) contexts: Vec<(u32, String)>,
    name: Option<String>,
    description: String,
    export: Option<(u64, TransmissionFlags)>,
    block: Option<[u32; 3]>,
}

impl From<Truncated> for HandshakeError {
    fn from(_: Truncated) -> Self {
        Self::Unexpected("a reply of the wrong length")
    }
}

/// Spec "`NBD_OPT_LIST_META_CONTEXT`": the data of an option about contexts.
pub(super) fn ask_contexts(data: &mut Vec<u8>, export: &str, contexts: &[String]) {
    let sized = |data: &mut Vec<u8>, text: &str| {
        BeMut(data).u32(u32::try_from(text.len()).unwrap_or(u32::MAX)).bytes(text.as_bytes());
    };
    sized(data, export);
    BeMut(data).u32(u32::try_from(contexts.len()).unwrap_or(u32::MAX));
    for context in contexts {
        sized(data, context);
    }
}

/// Spec "`NBD_OPT_INFO` and `NBD_OPT_GO`": the data, asking for everything. To ask for block sizes is to promise to keep them.
pub(super) fn ask_facts(data: &mut Vec<u8>, export: &str) {
    let len = u32::try_from(export.len()).unwrap_or(u32::MAX);
    BeMut(data).u32(len).bytes(export.as_bytes()).u16(3);
    BeMut(data).u16(info::NAME).u16(info::DESCRIPTION).u16(info::BLOCK_SIZE);
}

/// What a server says for people to read: replacement characters for what is not UTF-8, control characters dropped.
pub(super) fn printable(text: &[u8]) -> String {
    let short = text.get(..limit::STRING_BYTES_MAX).unwrap_or(text);
    String::from_utf8_lossy(short).chars().filter(|c| !c.is_control()).collect()
}

fn string(bytes: &[u8]) -> Result<String, HandshakeError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= limit::STRING_BYTES_MAX && !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(HandshakeError::Unexpected("a name that is not a string of the protocol")),
    }
}

impl Facts {
    /// `NBD_REP_SERVER`.
    pub(super) fn listed(&mut self, data: &[u8]) -> Result<(), HandshakeError> {
        let mut be = Be(data);
        let len = be.u32()?;
        let name = string(be.take(usize::try_from(len).unwrap_or(usize::MAX))?)?;
        self.listed.push(ListedExport { name, description: printable(be.0) });
        Ok(())
    }

    /// `NBD_REP_META_CONTEXT`.
    pub(super) fn context(&mut self, data: &[u8]) -> Result<(), HandshakeError> {
        let mut be = Be(data);
        let id = be.u32()?;
        if self.contexts.len() == limit::CONTEXTS_MAX {
            return Err(HandshakeError::TooLong);
        }
        self.contexts.push((id, string(be.0)?));
        Ok(())
    }

    /// `NBD_REP_INFO`.
    pub(super) fn info(&mut self, data: &[u8]) -> Result<(), HandshakeError> {
        let mut be = Be(data);
        match be.u16()? {
            info::EXPORT if be.len() == 10 => self.export(be.0)?,
            info::BLOCK_SIZE if be.len() == 12 => self.block = Some([be.u32()?, be.u32()?, be.u32()?]),
            info::EXPORT | info::BLOCK_SIZE => return Err(Truncated.into()),
            info::NAME => self.name = Some(string(be.0)?),
            info::DESCRIPTION => self.description = printable(be.0),
            _ => {}
        }
        Ok(())
    }

    /// Length and flags, as `NBD_INFO_EXPORT` and the answer to `EXPORT_NAME` have them.
    pub(super) fn export(&mut self, data: &[u8]) -> Result<(), HandshakeError> {
        let mut be = Be(data);
        self.export = Some((be.u64()?, TransmissionFlags::from_wire(be.u16()?)));
        Ok(())
    }

    /// Length and flags, as a server of the old style has them: half of the flags are from before there were any.
    pub(super) fn oldstyle(&mut self, data: &[u8]) -> Result<(), HandshakeError> {
        let mut be = Be(data);
        let (len_bytes, _handshake_flags) = (be.u64()?, be.u16()?);
        self.export = Some((len_bytes, TransmissionFlags::from_wire(be.u16()?)));
        Ok(())
    }

    /// All facts. Spec "`NBD_REP_INFO`": length and flags have to be among them.
    pub(super) fn finish(self, style: Style) -> Result<ExportFacts, HandshakeError> {
        let Some((len_bytes, flags)) = self.export else {
            return Err(HandshakeError::Unexpected("no length of the export"));
        };
        let block = match self.block {
            None => BlockSizes::DEFAULT,
            Some([min, preferred, max]) => BlockSizes::checked(min, preferred, max, len_bytes)
                .ok_or(HandshakeError::Unexpected("impossible block sizes"))?,
        };
        let says_block = self.block.is_some();
        let Self { name, description, contexts, .. } = self;
        Ok(ExportFacts { name, description, len_bytes, flags, block, says_block, style, contexts })
    }
}
