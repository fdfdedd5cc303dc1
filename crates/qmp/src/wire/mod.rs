//! JSON as monitors speak it.
//!
//! | part | what |
//! |---|---|
//! | [`Decoder`] | bytes in pieces of any size to values, with limits, and on again after an error |
//! | `lexer` | one byte to the next state: where tokens begin and end |
//! | `parser` | the tokens of one value to the value |
//! | [`Sink`] | what takes a value piece by piece: a [`Writer`] makes ASCII text of it, a [`Tree`] a [`Value`](crate::Value) |
//! | `number` | how a floating-point number is written |
//!
//! Differences from RFC 8259 in what is read: strings may stand in single quotes, `\'` is an escape, noncharacters of
//! Unicode are refused, a repeated key is an error.

mod decoder;
mod lexer;
mod number;
mod parser;
mod sink;
mod tree;
mod writer;

pub use decoder::{Decoder, Limits};
pub use sink::Sink;
pub use tree::Tree;
pub use writer::Writer;

pub(crate) use decoder::parse_whole;
