//! Bounds on what a peer can make us keep or do. Each is checked before anything is allocated or multiplied by it.
//!
//! A server keeps at most [`OPTION_BYTES_MAX`] of input and adds at most about [`LIST_BYTES_MAX`] of output per option; a
//! client keeps at most one reply of [`OPTION_REPLY_BYTES_MAX`] and [`REPLIES_BYTES_MAX`] of facts. Nothing here bounds
//! time: a handshake time limit belongs to whoever owns the socket.

/// Spec "Conventions": the longest string, in bytes (names, queries, messages).
pub const STRING_BYTES_MAX: usize = 4096;
/// Server: the longest data of an option that are kept; those of a longer one are skipped and refused (`TOO_BIG`).
pub const OPTION_BYTES_MAX: u32 = 64 << 10;
/// Server: the longest data of an option that are skipped; a longer one ends the connection. As release 10.0.
pub const OPTION_SKIP_BYTES_MAX: u32 = 32 << 20;
/// Server: options in one handshake. Enough to describe every listed export twice.
pub const OPTIONS_MAX: u32 = 16_384;
/// Server: bytes of one handshake.
pub const HANDSHAKE_BYTES_MAX: u64 = 64 << 20;
/// Server: queries in one option about metadata contexts; more are refused (`TOO_BIG`).
pub const QUERIES_MAX: u32 = 1024;
/// Server: bytes of one answer to `LIST`; a longer list is refused (`TOO_BIG`) instead of cut.
pub const LIST_BYTES_MAX: usize = 1 << 20;
/// Both: metadata contexts of one export (they fit the bits of a word).
pub const CONTEXTS_MAX: usize = 64;
/// Both: the payload that a peer may assume without asking (Spec "Block size constraints": 2^25 is no attack).
pub const PAYLOAD_BYTES_DEFAULT: u32 = 32 << 20;
/// Server: the longest text in an error chunk of ours, in bytes.
pub const ERROR_TEXT_BYTES_MAX: usize = 256;

/// Client: the longest data of one reply to an option.
pub const OPTION_REPLY_BYTES_MAX: u32 = 64 << 10;
/// Client: replies in one handshake.
pub const REPLIES_MAX: u32 = 32_768;
/// Client: bytes of replies in one handshake.
pub const REPLIES_BYTES_MAX: u64 = 16 << 20;
/// Client: requests in flight on one connection.
pub const IN_FLIGHT_MAX: usize = 1024;
/// Client: extents in one status chunk (Spec "`NBD_CMD_BLOCK_STATUS`": a server should not send more).
pub const STATUS_EXTENTS_MAX: u64 = 1 << 20;
/// Client: pieces of one read that arrived with gaps between them.
pub const READ_ISLANDS_MAX: usize = 1024;
/// Client: payload of an error chunk (a message and the fields around it).
pub const ERROR_CHUNK_BYTES_MAX: u64 = 8192;
/// Client: a receive buffer of this many bytes always holds what [`crate::client::Transmission::next`] waits for.
pub const LOOKAHEAD_BYTES: usize = 32 + 8192;
