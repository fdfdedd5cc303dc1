//! The numbers of the protocol. All fields on the wire are big-endian (Spec "Conventions").
//!
//! Not here: limits of our own ([`crate::limit`]), and what a combination of values means (the modules that use them).

/// Spec "Newstyle negotiation": `NBDMAGIC`, the first eight bytes of a server.
pub const MAGIC_INIT: u64 = 0x4e42_444d_4147_4943;
/// Spec "Newstyle negotiation": `IHAVEOPT`, the server's second magic and the start of each option.
pub const MAGIC_OPTION: u64 = 0x4948_4156_454f_5054;
/// Spec "Oldstyle negotiation": `cliserv_magic`, the second magic of a server that cannot negotiate.
pub const MAGIC_OLDSTYLE: u64 = 0x0000_4202_8186_1253;
/// Spec "Fixed newstyle negotiation": the start of each reply to an option.
pub const MAGIC_OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// Spec "Request message": the start of a compact request.
pub const MAGIC_REQUEST: u32 = 0x2560_9513;
/// Spec "Request message": the start of an extended request.
pub const MAGIC_REQUEST_EXTENDED: u32 = 0x21e4_1c71;
/// Spec "Simple reply message".
pub const MAGIC_REPLY_SIMPLE: u32 = 0x6744_6698;
/// Spec "Structured reply chunk message".
pub const MAGIC_REPLY_STRUCTURED: u32 = 0x668e_33ef;
/// Spec "Extended reply chunk message".
pub const MAGIC_REPLY_EXTENDED: u32 = 0x6e8a_278c;

/// Spec "Newstyle negotiation": bytes of a server's greeting (two magics, handshake flags).
pub const GREETING_BYTES: usize = 18;
/// Spec "Newstyle negotiation": bytes before an option's data (magic, option, length).
pub const OPTION_HEAD_BYTES: usize = 16;
/// Spec "Fixed newstyle negotiation": bytes before an option reply's data (magic, option, type, length).
pub const OPTION_REPLY_HEAD_BYTES: usize = 20;
/// Spec "Newstyle negotiation": the zeroes after an answer to `EXPORT_NAME`, unless `NO_ZEROES` was negotiated.
pub const EXPORT_NAME_ZEROES_BYTES: usize = 124;
/// Spec "Oldstyle negotiation": bytes behind the two magics (length, two times flags, zeroes).
pub const OLDSTYLE_BYTES: usize = 8 + 4 + 124;
/// Spec "Request message": bytes of a compact request.
pub const REQUEST_BYTES: usize = 28;
/// Spec "Request message": bytes of an extended request.
pub const REQUEST_EXTENDED_BYTES: usize = 32;
/// Spec "Newstyle negotiation": the port that IANA reserved.
pub const PORT: u16 = 10809;

/// Spec "Handshake flags" and "Client flags" (the same bits, 16 wide from the server and 32 wide from the client).
pub mod handshake {
    /// Options are answered, so more than one can be sent.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// No zeroes behind the answer to `EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Spec "Option types".
pub mod opt {
    /// Enter transmission; cannot be refused, only cut.
    pub const EXPORT_NAME: u32 = 1;
    /// End the session.
    pub const ABORT: u32 = 2;
    /// List the exports.
    pub const LIST: u32 = 3;
    /// Upgrade to TLS.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Describe an export and enter transmission.
    pub const GO: u32 = 7;
    /// Answer with chunks.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Select metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Use 32-byte headers in both directions.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Spec "Option reply types".
pub mod rep {
    /// The option is done.
    pub const ACK: u32 = 1;
    /// One export of a list.
    pub const SERVER: u32 = 2;
    /// One fact about an export.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The bit that all error replies have.
    pub const ERROR_BIT: u32 = 1 << 31;
    /// The option is not known.
    pub const ERR_UNSUP: u32 = ERROR_BIT | 1;
    /// The option is known and forbidden.
    pub const ERR_POLICY: u32 = ERROR_BIT | 2;
    /// The option's data are malformed, or it makes no sense now.
    pub const ERR_INVALID: u32 = ERROR_BIT | 3;
    /// TLS has to come first.
    pub const ERR_TLS_REQD: u32 = ERROR_BIT | 5;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = ERROR_BIT | 6;
    /// The server is going away.
    pub const ERR_SHUTDOWN: u32 = ERROR_BIT | 7;
    /// The request or its answer is too large.
    pub const ERR_TOO_BIG: u32 = ERROR_BIT | 9;
    /// Extended headers are in use or have to be.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR_BIT | 10;
}

/// Spec "Option reply types", `NBD_REP_INFO`: the kinds of facts.
pub mod info {
    /// Length and transmission flags; always sent.
    pub const EXPORT: u16 = 0;
    /// The canonical name.
    pub const NAME: u16 = 1;
    /// Text for people.
    pub const DESCRIPTION: u16 = 2;
    /// Minimum, preferred and maximum block size.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Spec "Request types".
pub mod cmd {
    /// Read.
    pub const READ: u16 = 0;
    /// Write; the data follow the header.
    pub const WRITE: u16 = 1;
    /// Goodbye; there is no reply.
    pub const DISC: u16 = 2;
    /// Make acknowledged writes durable.
    pub const FLUSH: u16 = 3;
    /// The contents are no longer needed.
    pub const TRIM: u16 = 4;
    /// The contents will be needed soon.
    pub const CACHE: u16 = 5;
    /// Write zeroes without sending them.
    pub const WRITE_ZEROES: u16 = 6;
    /// Ask for the status in the selected metadata contexts.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Spec "Structured reply types" and "Structured and extended header reply flags".
pub mod chunk {
    /// Reply flag: the last chunk of its reply.
    pub const DONE: u16 = 1 << 0;
    /// Nothing but the end.
    pub const NONE: u16 = 0;
    /// An offset, then data.
    pub const OFFSET_DATA: u16 = 1;
    /// An offset and a length that reads as zeroes.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of one context, 32 bits each field.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents of one context, 64 bits each field.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// The bit that all error chunks have.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// An error of the whole request.
    pub const ERROR: u16 = ERROR_BIT | 1;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// Metadata contexts with a meaning that is known here, and the bits of their status.
pub mod context {
    /// Spec "`base:allocation` metadata context".
    pub const BASE_ALLOCATION: &str = "base:allocation";
    /// Spec "`base:allocation` metadata context": not allocated.
    pub const STATE_HOLE: u32 = 1 << 0;
    /// Spec "`base:allocation` metadata context": reads as zeroes.
    pub const STATE_ZERO: u32 = 1 << 1;
}

/// Which headers the transmission phase uses: the outcome of `STRUCTURED_REPLY` and `EXTENDED_HEADERS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Style {
    /// Compact requests, simple replies.
    Simple,
    /// Compact requests, structured replies.
    Structured,
    /// Extended requests and replies.
    Extended,
}

impl Style {
    /// Bytes of a request header.
    #[must_use]
    pub const fn request_bytes(self) -> usize {
        match self {
            Self::Simple | Self::Structured => REQUEST_BYTES,
            Self::Extended => REQUEST_EXTENDED_BYTES,
        }
    }
}

macro_rules! flag_methods {
    ($name:ident, $int:ty) => {
        impl $name {
            /// No flag.
            pub const NONE: Self = Self(0);

            /// The flags as they are on the wire, unknown bits included.
            #[must_use]
            pub const fn from_wire(bits: $int) -> Self {
                Self(bits)
            }

            /// The bits as they go on the wire.
            #[must_use]
            pub const fn to_wire(self) -> $int {
                self.0
            }

            /// Whether all of `flags` are set.
            #[must_use]
            pub const fn has(self, flags: Self) -> bool {
                self.0 & flags.0 == flags.0
            }

            /// These flags and `flags`.
            #[must_use]
            pub const fn with(self, flags: Self) -> Self {
                Self(self.0 | flags.0)
            }

            /// These flags without `flags`.
            #[must_use]
            pub const fn without(self, flags: Self) -> Self {
                Self(self.0 & !flags.0)
            }
        }
    };
}

/// Spec "Transmission flags": what an export offers. Bit 4 (rotational) and bit 9 (resize) are never offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransmissionFlags(u16);
flag_methods!(TransmissionFlags, u16);

impl TransmissionFlags {
    /// Always set.
    pub const HAS_FLAGS: Self = Self(1 << 0);
    /// Writing commands are refused.
    pub const READ_ONLY: Self = Self(1 << 1);
    /// `FLUSH` is understood.
    pub const SEND_FLUSH: Self = Self(1 << 2);
    /// The `FUA` command flag is understood.
    pub const SEND_FUA: Self = Self(1 << 3);
    /// `TRIM` is understood.
    pub const SEND_TRIM: Self = Self(1 << 5);
    /// `WRITE_ZEROES` and its `NO_HOLE` flag are understood.
    pub const SEND_WRITE_ZEROES: Self = Self(1 << 6);
    /// The `DF` command flag is understood (needs chunks).
    pub const SEND_DF: Self = Self(1 << 7);
    /// A flush on one connection covers the writes of all.
    pub const CAN_MULTI_CONN: Self = Self(1 << 8);
    /// `CACHE` is understood.
    pub const SEND_CACHE: Self = Self(1 << 10);
    /// The `FAST_ZERO` command flag is understood.
    pub const SEND_FAST_ZERO: Self = Self(1 << 11);
    /// `BLOCK_STATUS` can name contexts in a payload (needs extended headers).
    pub const BLOCK_STATUS_PAYLOAD: Self = Self(1 << 12);
}

/// Spec "Command flags".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommandFlags(u16);
flag_methods!(CommandFlags, u16);

impl CommandFlags {
    /// Reply only when what was written is durable.
    pub const FUA: Self = Self(1 << 0);
    /// `WRITE_ZEROES`: keep the space allocated.
    pub const NO_HOLE: Self = Self(1 << 1);
    /// `READ`: at most one content chunk.
    pub const DF: Self = Self(1 << 2);
    /// `BLOCK_STATUS`: one extent per context, inside the request.
    pub const REQ_ONE: Self = Self(1 << 3);
    /// `WRITE_ZEROES`: fail at once with `ENOTSUP` unless it is faster than a write.
    pub const FAST_ZERO: Self = Self(1 << 4);
    /// Extended headers: the length is that of a payload behind the header.
    pub const PAYLOAD_LEN: Self = Self(1 << 5);
}
