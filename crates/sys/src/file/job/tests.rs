//! Each step of an operation, with answers that real kernels give seldom: cut short, interrupted, refused, failed.

use super::*;
use crate::file::open::{Access, OpenOptions, open};

fn file(direct: bool) -> FileInner {
    let path = std::env::temp_dir();
    let fd = rustix::fs::open(&path, rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR, 0o600.into())
        .unwrap();
    let facts = crate::file::open::examine(fd.as_fd(), OpenOptions::default()).unwrap();
    let file = FileInner::new(fd, path, &facts);
    file.set_access(&Access { writable: true, direct, align_request: 512, align_memory: 512 });
    file
}

fn read(file: &FileInner, len: usize) -> Steps {
    let mut buf = Buf::zeroed(len);
    buf.as_mut_slice().fill(0xee);
    Steps::new(file, DiskOp::Read { at: 1 << 20, buf })
}

fn write(file: &FileInner, len: usize, fua: bool) -> Steps {
    Steps::new(file, DiskOp::Write { at: 1 << 20, buf: Buf::zeroed(len), fua })
}

/// Where the next piece begins, and how long it is.
fn next(steps: &mut Steps) -> (u64, usize) {
    match steps.piece() {
        Piece::Read { at, bytes } => (at - (1 << 20), bytes.len()),
        Piece::Write { at, bytes, .. } => (at - (1 << 20), bytes.len()),
        Piece::Other => panic!("no bytes are moved"),
    }
}

#[track_caller]
fn again(step: Step) {
    assert!(matches!(step, Step::Again));
}

#[track_caller]
fn done(step: Step) -> Result<()> {
    match step {
        Step::Done(result) => result,
        Step::Again | Step::Blocking => panic!("it goes on"),
    }
}

#[test]
fn a_short_read_goes_on_and_the_end_of_the_file_reads_as_zeroes() {
    let file = file(false);
    let mut steps = read(&file, 100);
    again(steps.on_result(&file, 10));
    assert_eq!(next(&mut steps), (10, 90));
    again(steps.on_result(&file, 1));
    done(steps.on_result(&file, 0)).unwrap();
    let buf = steps.into_buf().unwrap();
    assert_eq!(buf.as_slice(), [[0xee; 11].as_slice(), &[0; 89]].concat());
}

#[test]
fn a_short_write_goes_on_and_one_that_moves_nothing_means_no_space() {
    let file = file(false);
    let mut steps = write(&file, 100, false);
    again(steps.on_result(&file, 60));
    assert_eq!(next(&mut steps), (60, 40));
    assert_eq!(done(steps.on_result(&file, 0)).unwrap_err().kind(), Kind::NoSpace);
}

#[test]
fn direct_io_goes_on_at_whole_blocks_only() {
    let file = file(true);
    let mut steps = write(&file, 4096, false);
    again(steps.on_result(&file, 1000));
    assert_eq!(next(&mut steps), (512, 3584));
    done(steps.on_result(&file, 3584)).unwrap();
    let mut steps = read(&file, 4096);
    again(steps.on_result(&file, 1024));
    assert_eq!(next(&mut steps), (1024, 3072));
    // Within a block: the file ends here.
    done(steps.on_result(&file, 100)).unwrap();
    assert_eq!(steps.into_buf().unwrap().as_slice()[1124..], [0; 2972]);
}

#[test]
fn what_makes_no_progress_is_tried_again_for_a_while_and_then_on_a_thread() {
    let file = file(false);
    let mut steps = read(&file, 100);
    for _ in 0..RETRIES_MAX {
        again(steps.on_result(&file, -libc::EAGAIN));
    }
    again(steps.on_result(&file, 1));
    for _ in 0..RETRIES_MAX {
        again(steps.on_result(&file, -libc::EINTR));
    }
    assert!(matches!(steps.on_result(&file, -libc::EAGAIN), Step::Blocking));
}

#[test]
fn a_file_system_without_dsync_is_asked_once() {
    let file = file(false);
    let mut steps = write(&file, 100, true);
    assert!(steps.entry(&file).is_some());
    assert!(matches!(steps.on_result(&file, -libc::EOPNOTSUPP), Step::Blocking));
    assert!(write(&file, 100, true).entry(&file).is_none());
    assert!(write(&file, 100, false).entry(&file).is_some());
    steps.run_blocking(&file).unwrap();
}

#[test]
fn a_failed_flush_is_remembered_if_data_may_be_lost() {
    for (direct, errno, lost) in [
        (false, libc::EIO, true),
        (false, libc::ENOSPC, true),
        (false, libc::EINVAL, false),
        (true, libc::EIO, false),
    ] {
        let file = file(direct);
        assert!(done(Steps::new(&file, DiskOp::Flush).on_result(&file, -errno)).is_err());
        assert_eq!(file.has(Flag::FlushFailed), lost);
    }
}

#[test]
fn one_piece_is_no_longer_than_kernels_take() {
    let file = file(false);
    let mut steps = read(&file, PIECE_BYTES_MAX + 5);
    assert_eq!(next(&mut steps), (0, PIECE_BYTES_MAX));
    again(steps.on_result(&file, i32::try_from(PIECE_BYTES_MAX).unwrap()));
    assert_eq!(next(&mut steps), (PIECE_BYTES_MAX as u64, 5));
}

#[test]
fn only_a_badly_aligned_buffer_of_direct_io_is_replaced() {
    let file = file(true);
    let mut whole = Buf::zeroed(1024);
    let mut odd = whole.split_off(1);
    odd.as_mut_slice().fill(3);
    let address = odd.as_ptr();
    let mut steps = Steps::new(&file, DiskOp::Write { at: 0, buf: odd, fua: false });
    let Piece::Write { bytes, .. } = steps.piece() else { panic!("not a write") };
    assert!(bytes.as_ptr().addr().is_multiple_of(512));
    assert_eq!(bytes, [3; 1023]);
    assert_eq!(steps.into_buf().unwrap().as_ptr(), address);
}

#[test]
fn a_file_opened_by_name_knows_its_own_path_in_errors() {
    let error = open(std::path::Path::new("/nowhere/disk"), OpenOptions::default()).err().unwrap();
    assert_eq!(error.report(), "'/nowhere/disk': cannot open: No such file or directory (os error 2)");
}
