//! Golden bytes of every reply in every style, and the rules of status chunks.

use super::*;
use crate::request::Command;
use Style::{Extended, Simple, Structured};

const COOKIE: u64 = 0x0102_0304_0506_0708;

fn to(style: Style) -> ReplyTo {
    ReplyTo::new(style, COOKIE, 0x1000)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden(bytes: &[u8], fields: &str) {
    assert_eq!(hex(bytes), fields.replace(' ', ""));
}

#[test]
fn success_without_data() {
    let out = &mut [0; HEAD_BYTES_MAX];
    golden(to(Simple).done(out), "67446698 00000000 0102030405060708");
    golden(to(Structured).done(out), "668e33ef 0001 0000 0102030405060708 00000000");
    golden(to(Extended).done(out), "6e8a278c 0001 0000 0102030405060708 0000000000001000 0000000000000000");
}

#[test]
fn data() {
    let out = &mut [0; HEAD_BYTES_MAX];
    golden(to(Simple).data(out, 0x1200, 0x200, true), "67446698 00000000 0102030405060708");
    golden(
        to(Structured).data(out, 0x1200, 0x200, false),
        "668e33ef 0000 0001 0102030405060708 00000208 0000000000001200",
    );
    golden(
        to(Extended).data(out, 0x1200, 0x200, true),
        "6e8a278c 0001 0001 0102030405060708 0000000000001000 0000000000000208 0000000000001200",
    );
}

#[test]
fn a_read_of_nothing_has_no_content_chunk() {
    let (out, done) = (&mut [0; HEAD_BYTES_MAX], &mut [0; HEAD_BYTES_MAX]);
    for style in [Simple, Structured, Extended] {
        assert_eq!(to(style).data(out, 0, 0, true), to(style).done(done));
    }
}

#[test]
fn holes() {
    let out = &mut [0; HEAD_BYTES_MAX];
    assert_eq!(to(Simple).hole(out, 0x1200, 0x200, true), None);
    golden(
        to(Structured).hole(out, 0x1200, 0x200, true).unwrap(),
        "668e33ef 0001 0002 0102030405060708 0000000c 0000000000001200 00000200",
    );
    golden(
        to(Extended).hole(out, 0x1200, 0x200, false).unwrap(),
        "6e8a278c 0000 0002 0102030405060708 0000000000001000 000000000000000c 0000000000001200 00000200",
    );
}

#[test]
fn errors() {
    let out = &mut [0; ERROR_BYTES_MAX];
    golden(to(Simple).error(out, NbdError::NoSpace, None, "full"), "67446698 0000001c 0102030405060708");
    golden(
        to(Structured).error(out, NbdError::NoSpace, None, "full"),
        "668e33ef 0001 8001 0102030405060708 0000000a 0000001c 0004 66756c6c",
    );
    golden(
        to(Structured).error(out, NbdError::Io, Some(0x1200), ""),
        "668e33ef 0001 8002 0102030405060708 0000000e 00000005 0000 0000000000001200",
    );
    golden(
        to(Extended).error(out, NbdError::Io, Some(0x1200), "x"),
        "6e8a278c 0001 8002 0102030405060708 0000000000001000 000000000000000f 00000005 0001 78 0000000000001200",
    );
}

#[test]
fn a_long_text_is_cut_between_characters() {
    let out = &mut [0; ERROR_BYTES_MAX];
    let text = "ä".repeat(300);
    let reply = to(Extended).error(out, NbdError::Io, Some(1), &format!("x{text}"));
    assert_eq!(reply.len(), ERROR_BYTES_MAX - 1, "255 bytes: one less than an even cut");
    assert!(std::str::from_utf8(&reply[38..38 + 255]).is_ok());
}

fn status(flags: CommandFlags) -> Request {
    Request { cookie: COOKIE, offset_bytes: 0x1000, len_bytes: 0x4000, command: Command::BlockStatus, flags }
}

#[test]
fn status_chunks() {
    let (head, mut room) = (&mut [0; HEAD_BYTES_MAX], [0; 64]);
    let mut chunk = StatusChunk::new(to(Structured), &status(CommandFlags::NONE), &mut room);
    assert!(chunk.push(0x1000, 3) && !chunk.push(0x3000, 0));
    let (head, extents) = chunk.finish(2, true, head);
    golden(head, "668e33ef 0001 0005 0102030405060708 00000014 00000002");
    golden(extents, "00001000 00000003 00003000 00000000");

    let (head, mut room) = (&mut [0; HEAD_BYTES_MAX], [0; 64]);
    let mut chunk = StatusChunk::new(to(Extended), &status(CommandFlags::NONE), &mut room);
    assert!(!chunk.push(u64::MAX, 3), "nothing is reported past the request");
    let (head, extents) = chunk.finish(0, false, head);
    golden(head, "6e8a278c 0000 0006 0102030405060708 0000000000001000 0000000000000018 00000000 00000001");
    golden(extents, "0000000000004000 0000000000000003");
}

/// The extents that remain of what is pushed, with room for three.
fn pushed(flags: CommandFlags, extents: &[(u64, u32)]) -> Vec<(u32, u32)> {
    let mut room = [0; 24];
    let mut chunk = StatusChunk::new(to(Structured), &status(flags), &mut room);
    for (len, status) in extents {
        chunk.push(*len, *status);
    }
    let (_, bytes) = chunk.finish(0, true, &mut [0; HEAD_BYTES_MAX]);
    let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    bytes.chunks(8).map(|extent| (word(&extent[..4]), word(&extent[4..]))).collect()
}

#[test]
fn extents_are_merged_clamped_counted_and_never_empty() {
    let none = CommandFlags::NONE;
    assert_eq!(pushed(none, &[(0, 9), (512, 1), (0, 9), (512, 1), (512, 0)]), [(1024, 1), (512, 0)]);
    assert_eq!(pushed(none, &[(0x4001, 1), (512, 0)]), [(0x4000, 1)]);
    assert_eq!(pushed(none, &[(1, 1), (1, 2), (1, 3), (1, 4)]), [(1, 1), (1, 2), (1, 3)]);
    assert_eq!(pushed(none, &[(1, 1), (1, 2), (1, 3), (1, 4), (1, 3)]), [(1, 1), (1, 2), (1, 3)], "no gap");
    assert_eq!(pushed(CommandFlags::REQ_ONE, &[(512, 1), (512, 1), (512, 2)]), [(1024, 1)]);
}

#[test]
#[should_panic(expected = "at least one extent")]
fn a_status_chunk_without_extents_is_our_mistake() {
    let (mut room, mut head) = ([0; 8], [0; HEAD_BYTES_MAX]);
    let _ =
        StatusChunk::new(to(Structured), &status(CommandFlags::NONE), &mut room).finish(0, true, &mut head);
}
