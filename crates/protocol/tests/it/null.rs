//! `null-co` and `null-aio`.

use drystone_base::{Kind, LEN_MAX};
use drystone_protocol::null::{Null, NullOptions};

use crate::fixture::as_user;

fn options() -> NullOptions {
    NullOptions { len_bytes: 8192, ..NullOptions::default() }
}

#[test]
fn reads_show_zeroes_and_no_old_memory() {
    for null in [Null::co(options()), Null::aio(NullOptions { read_zeroes: true, ..options() })] {
        as_user(null.unwrap(), async |mut user| {
            user.write(0, b"gone").await.unwrap();
            assert_eq!(user.read(0, 8192).await, vec![0; 8192]);
        });
    }
}

#[test]
fn read_zeroes_makes_block_status_promise_zeroes() {
    for read_zeroes in [false, true] {
        as_user(Null::co(NullOptions { read_zeroes, ..options() }).unwrap(), async move |mut user| {
            let status = user.status(0, 8192).await;
            assert_eq!((status.len, status.zero, status.data), (8192, read_zeroes, !read_zeroes));
        });
    }
}

#[test]
fn every_request_takes_as_long_as_it_was_told() {
    as_user(Null::aio(NullOptions { latency_ns: 1_000_000, ..options() }).unwrap(), async |mut user| {
        let start_ns = user.local.now_ns();
        user.read(0, 512).await;
        assert_eq!(user.local.now_ns() - start_ns, 1_000_000);
        user.write(0, b"x").await.unwrap();
        user.flush().await.unwrap();
        assert_eq!(user.local.now_ns() - start_ns, 3_000_000);
    });
}

#[test]
fn a_null_disk_keeps_its_length() {
    as_user(Null::co(options()).unwrap(), async |mut user| {
        assert_eq!(user.write(8190, b"abc").await.unwrap_err().kind(), Kind::NoSpace);
        assert_eq!(user.zero(8192, 1).await.unwrap_err().kind(), Kind::NoSpace);
        assert_eq!(user.resize(4096).await.unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(user.len().await, 8192);
        user.discard(0, 8192).await.unwrap();
    });
}

#[test]
fn a_length_past_the_largest_disk_is_refused() {
    let error = Null::co(NullOptions { len_bytes: LEN_MAX + 1, ..options() }).err().unwrap();
    assert_eq!((error.kind(), error.option()), (Kind::InvalidInput, Some("size")));
}
