//! The floor answers as the protocol says, so that a fast wrong answer is never taken for a floor.

use std::net::Shutdown;

use super::*;

const LEN: usize = 1 << 20;

/// A connected client of a floor that serves `LEN` bytes, each the low byte of its kilobyte.
fn client() -> UnixStream {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let base = std::env::temp_dir().join(format!("drystone-bench-floor-{}-{number}", std::process::id()));
    let (image, socket) = (base.with_extension("img"), base.with_extension("sock"));
    let bytes: Vec<u8> = (0..LEN >> 10).flat_map(|kilobyte| [kilobyte.to_le_bytes()[0]; 1024]).collect();
    std::fs::write(&image, bytes).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let disk = Arc::new(Disk::new(File::options().read(true).write(true).open(&image).unwrap()).unwrap());
    thread::spawn(move || accept(&listener, &disk));
    let stream = UnixStream::connect(&socket).unwrap();
    std::fs::remove_file(image).unwrap();
    std::fs::remove_file(socket).unwrap();
    stream
}

fn option(mut stream: &UnixStream, option: u32, data: &[u8]) {
    let len = u32::try_from(data.len()).unwrap();
    let head = [&OPTION_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &len.to_be_bytes(), data].concat();
    stream.write_all(&head).unwrap();
}

fn option_reply(mut stream: &UnixStream) -> (u32, Vec<u8>) {
    let _: [u8; 12] = read_array(stream).unwrap();
    let kind = u32::from_be_bytes(read_array(stream).unwrap());
    let mut data = vec![0; u32::from_be_bytes(read_array(stream).unwrap()) as usize];
    stream.read_exact(&mut data).unwrap();
    (kind, data)
}

/// A client behind the handshake.
fn connected() -> UnixStream {
    connected_as(Style::Simple)
}

fn connected_as(style: Style) -> UnixStream {
    let stream = client();
    let greeting: [u8; 18] = read_array(&stream).unwrap();
    assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03");
    (&stream).write_all(&[0, 0, 0, 3]).unwrap();
    option(&stream, 10, b"");
    assert_eq!(option_reply(&stream).0, 0x8000_0001, "metadata contexts are not offered");
    if style == Style::Structured {
        option(&stream, 8, b"");
        assert_eq!(option_reply(&stream).0, 1);
    }
    option(&stream, 7, b"\0\0\0\0\0\0");
    let (kind, info) = option_reply(&stream);
    assert_eq!((kind, &info[2..10]), (3, &(LEN as u64).to_be_bytes()[..]));
    assert_eq!(option_reply(&stream).0, 1);
    stream
}

fn request(kind: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let head =
        [&REQUEST_MAGIC.to_be_bytes()[..], &[0, 0], &kind.to_be_bytes(), &cookie.to_be_bytes()].concat();
    [&head[..], &offset.to_be_bytes(), &len.to_be_bytes()].concat()
}

fn reply_of(stream: &UnixStream) -> (u32, u64) {
    assert_eq!(u32::from_be_bytes(read_array(stream).unwrap()), REPLY_MAGIC);
    (u32::from_be_bytes(read_array(stream).unwrap()), u64::from_be_bytes(read_array(stream).unwrap()))
}

#[test]
fn many_requests_in_one_write_are_answered_in_order() {
    let mut stream = connected();
    let mut batch = request(1, 1, 5 << 10, 1024);
    batch.extend([0xee; 1024]);
    batch.extend(request(0, 2, 5 << 10, 2048));
    batch.extend(request(3, 3, 0, 0));
    stream.write_all(&batch).unwrap();
    assert_eq!(reply_of(&stream), (0, 1));
    assert_eq!(reply_of(&stream), (0, 2));
    let data: [u8; 2048] = read_array(&stream).unwrap();
    assert!(data[..1024].iter().all(|byte| *byte == 0xee) && data[1024..].iter().all(|byte| *byte == 6));
    assert_eq!(reply_of(&stream), (0, 3));
}

#[test]
fn structured_replies_have_the_layout_of_the_protocol() {
    let mut stream = connected_as(Style::Structured);
    let mut batch = request(0, 7, 5 << 10, 3);
    batch.extend(request(3, 8, 0, 0));
    batch.extend(request(0, 9, LEN as u64, 1));
    stream.write_all(&batch).unwrap();
    let expected = b"\x66\x8e\x33\xef\0\x01\0\x01\0\0\0\0\0\0\0\x07\0\0\0\x0b\0\0\0\0\0\0\x14\0\x05\x05\x05\
        \x66\x8e\x33\xef\0\x01\0\0\0\0\0\0\0\0\0\x08\0\0\0\0\
        \x66\x8e\x33\xef\0\x01\x80\x01\0\0\0\0\0\0\0\x09\0\0\0\x06\0\0\0\x16\0\0";
    assert_eq!(&read_array::<{ 31 + 20 + 26 }>(&stream).unwrap(), expected);
}

#[test]
fn replies_past_a_batch_all_arrive() {
    let mut stream = connected();
    let batch: Vec<u8> = (0..64).flat_map(|n| request(0, n, n << 10, 64 << 10)).collect();
    stream.write_all(&batch).unwrap();
    for n in 0..64 {
        assert_eq!(reply_of(&stream), (0, n));
        let mut data = vec![0; 64 << 10];
        stream.read_exact(&mut data).unwrap();
        assert_eq!(u64::from(data[0]), n);
    }
}

#[test]
fn a_request_that_arrives_byte_by_byte_is_served() {
    let mut stream = connected();
    for byte in request(0, 9, 1 << 10, 1) {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(reply_of(&stream), (0, 9));
    assert_eq!(read_array::<1>(&stream).unwrap(), [1]);
}

#[test]
fn what_is_outside_the_disk_is_refused_without_data() {
    let mut stream = connected();
    for (offset, len) in [(LEN as u64, 1), (u64::MAX, 1), (0, u32::MAX)] {
        stream.write_all(&request(0, 4, offset, len)).unwrap();
        assert_eq!(reply_of(&stream), (22, 4));
    }
}

#[test]
fn garbage_ends_the_connection() {
    let mut stream = connected();
    stream.write_all(&[0; REQUEST_LEN]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap_or_default();
    assert!(rest.is_empty());
}
