//! Clients that other people wrote: libnbd's tools, the C tools, fio.

use drystone_export::nbd::ExportOptions;

use crate::daemon::{Daemon, Setup, display, on_both_engines, shell, try_shell, writable};

const LEN: u64 = 64 << 20;

#[test]
fn nbdinfo_understands_everything_that_is_offered() {
    on_both_engines(|setup| {
        let (daemon, _ram) = Daemon::with_disk(setup, LEN);
        let options = ExportOptions {
            name: "other".into(),
            description: "a text for people".into(),
            allocation_depth: true,
            writable: false,
            ..writable("disk")
        };
        daemon.export(options).unwrap();
        let info = shell(&format!("nbdinfo '{}'", daemon.uri("disk")));
        for line in [
            "protocol: newstyle-fixed without TLS, using structured packets",
            "export-size: 67108864 (64M)",
            "is_read_only: false",
            "can_multi_conn: true",
            "can_fast_zero: true",
            "can_cache: true",
            "can_df: true",
            "can_fua: true",
            "block_size_maximum: 33554432",
            "base:allocation",
        ] {
            assert!(info.contains(line), "{line}\n{info}");
        }
        let list = shell(&format!("nbdinfo --list '{}'", daemon.uri("")));
        assert!(list.contains("description: a text for people"), "{list}");
        assert!(list.contains("qemu:allocation-depth") && list.contains("is_read_only: true"), "{list}");
    });
}

#[test]
fn nbdcopy_moves_a_disk_there_and_back() {
    on_both_engines(|setup| {
        for is_tcp in [false, true] {
            let (daemon, _ram) =
                Daemon::with_disk(Setup { is_tcp, engine: setup.engine, ..Setup::default() }, LEN);
            let (there, back) = (display(&daemon.folder.path("there")), display(&daemon.folder.path("back")));
            shell(&format!("head -c 20M /dev/urandom > {there} && truncate -s {LEN} {there}"));
            shell(&format!("nbdcopy --connections=4 --flush {there} '{}'", daemon.uri("disk")));
            shell(&format!("nbdcopy --connections=4 '{}' {back} && cmp {there} {back}", daemon.uri("disk")));
            let map = shell(&format!("nbdinfo --map --totals '{}'", daemon.uri("disk")));
            assert!(map.contains("hole,zero"), "{map}");
        }
    });
}

#[test]
fn nbdsh_gets_the_answers_that_it_expects() {
    let (daemon, _ram) = Daemon::with_disk(Setup::default(), LEN);
    let script = r#"
h.add_meta_context("base:allocation")
h.connect_uri(URI)
buf = bytes(range(256)) * 16
h.pwrite(buf, 4096, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 4096) == buf
chunks = []
h.pread_structured(100, 4100, lambda data, at, kind, err: chunks.append((bytes(data), at)), nbd.CMD_FLAG_DF)
assert chunks == [(buf[4:104], 4100)], chunks
extents = []
h.block_status(65536, 0, lambda ctx, off, e, err: extents.extend(e))
assert extents == [4096, 3, 4096, 0, 57344, 3], extents
h.zero(4096, 4096, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(4096, 4096) == bytes(4096)
h.trim(65536, 0)
h.cache(65536, 0)
h.flush()
try:
    h.pread(1, h.get_size(), 0)
    assert False
except nbd.Error as e:
    assert e.errno == 'EINVAL', e.errno
pending = [h.aio_pread(nbd.Buffer(512), n * 512) for n in range(500)]
while any(not h.aio_command_completed(c) for c in list(pending)):
    pending = [c for c in pending if h.aio_in_flight() and c]
    h.poll(-1)
    if h.aio_in_flight() == 0:
        break
h.shutdown()
"#;
    let path = daemon.folder.path("script.py");
    std::fs::write(&path, script.replace("URI", &format!("'{}'", daemon.uri("disk")))).unwrap();
    // The module belongs to the system's own interpreter.
    shell(&format!("PATH=/usr/bin:$PATH nbdsh -c \"exec(open('{}').read())\"", display(&path)));
}

#[test]
fn the_c_tools_read_and_write() {
    on_both_engines(|setup| {
        let (daemon, _ram) = Daemon::with_disk(setup, LEN);
        let uri = daemon.uri("disk");
        shell(&format!(
            "qemu-io -f raw '{uri}' -c 'write -P 0xaa 1M 3M' -c 'read -P 0xaa 1M 3M' -c 'write -z -u 2M 64k' \
             -c 'read -P 0 2M 64k' -c 'discard 3M 1M' -c 'write -f -P 7 5M 512' -c flush -c 'read -P 7 5M 512' \
             -c 'aio_write -P 9 8M 2M' -c 'aio_write -P 8 10M 2M' -c aio_flush -c 'read -P 8 10M 2M'"
        ));
        let info = shell(&format!("qemu-img info '{uri}'"));
        assert!(info.contains("virtual size: 64 MiB"), "{info}");
        let map = shell(&format!("qemu-img map --output=json '{uri}'"));
        assert!(map.contains("\"data\": true") && map.contains("\"zero\": true"), "{map}");
        let copy = display(&daemon.folder.path("copy.qcow2"));
        shell(&format!(
            "qemu-img convert -O qcow2 '{uri}' {copy} && qemu-img compare -f raw -F qcow2 '{uri}' {copy}"
        ));
        shell(&format!("qemu-img bench -f raw -c 2000 -d 64 -w '{uri}'"));
        let (code, text) = try_shell(&format!("qemu-io -r -f raw '{}' -c 'read 0 1'", daemon.uri("nobody")));
        assert!(code != Some(0) && text.contains("there is no export 'nobody'"), "{text}");
    });
}

#[test]
fn fio_verifies_what_it_wrote_from_many_connections() {
    on_both_engines(|setup| {
        let (daemon, _ram) = Daemon::with_disk(setup, LEN);
        shell(&format!(
            "fio --name=x --ioengine=nbd --uri='{}' --rw=randrw --bsrange=512-128k --bs_unaligned --iodepth=64 \
             --size=8m --numjobs=4 --offset_increment=8m --verify=crc32c --verify_fatal=1 --randseed=7",
            daemon.uri("disk")
        ));
    });
}
