//! `drystone nbd`: how long it lives, what clients get; and exports of NBD servers as disks of every other command.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::common::forked::Forked;
use crate::common::nbd::Client;
use crate::common::serve::{Serve, drystone};
use crate::common::{Ran, Scratch, our_tool, run};

const MIB: usize = 1 << 20;

/// A folder with our tools under their names, and a raw image of a MiB.
struct Place {
    scratch: Scratch,
}

impl Place {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        std::fs::write(scratch.path().join("raw"), vec![7; MIB]).unwrap();
        Self { scratch }
    }

    fn dir(&self) -> &Path {
        self.scratch.path()
    }

    fn tool(&self, name: &str) -> PathBuf {
        our_tool(&self.scratch, name)
    }

    fn run(&self, tool: &str, args: &str) -> Ran {
        let args: Vec<String> = crate::common::words(&args.replace("DIR", &self.dir().display().to_string()));
        run(&self.tool(tool), &args, self.dir())
    }

    /// Runs a tool, which must succeed; what it printed.
    fn ok(&self, tool: &str, args: &str) -> String {
        let ran = self.run(tool, args);
        assert_eq!(ran.status, 0, "{tool} {args}: {}", ran.stderr);
        ran.stdout
    }

    fn serve(&self, args: &str) -> Forked {
        let args = crate::common::words(args);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Forked::start(&self.tool("qemu-nbd"), self.dir(), "s", &args)
            .unwrap_or_else(|ran| panic!("{}", ran.stderr))
    }

    fn bytes(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.dir().join(file)).unwrap()
    }
}

#[test]
fn a_server_ends_with_its_last_client_and_a_look_is_no_client() {
    let place = Place::new("nbd-life");
    let server = place.serve("-e 2 -f raw raw");
    assert!(place.ok("qemu-nbd", "-L -k DIR/s").starts_with("exports available: 1\n"));
    let (first, mut second) =
        (Client::connect(&server.socket, "").unwrap(), Client::connect(&server.socket, "").unwrap());
    drop(first);
    assert_eq!(second.read(0, 4).unwrap(), [7; 4]);
    second.write(4, b"kept").unwrap();
    assert!(server.is_there() && server.pid_file.exists());
    drop(second);
    server.wait();
    assert!(!server.pid_file.exists() && !server.socket.exists());
    assert_eq!(place.bytes("raw")[..10], *b"\x07\x07\x07\x07kept\x07\x07");
}

#[test]
fn a_persistent_server_ends_when_it_is_told_to() {
    let place = Place::new("nbd-signal");
    for signal in ["TERM", "INT", "HUP"] {
        let server = place.serve("-t -e 2 -f raw raw");
        let mut client = Client::connect(&server.socket, "").unwrap();
        client.write(0, signal.as_bytes()).unwrap();
        drop(Client::connect(&server.socket, "nobody"));
        server.signal(signal);
        server.wait();
        assert!(client.read(0, 1).is_err() && !server.socket.exists());
        assert!(place.bytes("raw").starts_with(signal.as_bytes()));
    }
}

#[test]
fn further_clients_wait_until_there_is_room() {
    let place = Place::new("nbd-shared");
    let server = place.serve("-t -f raw raw");
    let mut first = Client::connect(&server.socket, "").unwrap();
    let socket = server.socket.clone();
    let second = thread::spawn(move || Client::connect(&socket, "").unwrap().read(0, 1).unwrap());
    first.write(0, b"x").unwrap();
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(second.join().unwrap(), b"x");
    server.stop();
}

#[test]
fn what_fails_in_the_background_is_told_by_who_was_started() {
    let place = Place::new("nbd-fork");
    let program = place.tool("qemu-nbd");
    let fails = |args: &[&str]| Forked::start(&program, place.dir(), "s", args).unwrap_err();
    for (args, words) in [
        (&["-f", "raw", "missing"][..], "'missing': cannot open"),
        (&["-f", "qcow2", "raw"], "qcow2"),
        (&["-B", "none", "-f", "raw", "raw"], "there is no bitmap 'none'"),
        (&["-l", "none", "-f", "raw", "raw"], "has no internal snapshots"),
    ] {
        let ran = fails(args);
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{args:?}");
        assert!(
            ran.stderr.starts_with("qemu-nbd: ") && ran.stderr.contains(words),
            "{args:?}: {}",
            ran.stderr
        );
        assert!(!place.dir().join("s").exists() && !place.dir().join("s.pid").exists());
    }
    let server = place.serve("-t -r -f raw raw");
    assert!(fails(&["-f", "raw", "raw"]).stderr.contains("s"), "the socket is taken");
    server.stop();
}

#[test]
fn a_service_manager_passes_the_socket() {
    let place = Place::new("nbd-activation");
    let script = "
import socket, os, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind('s')
listener.listen(5)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ['LISTEN_FDS'] = '1'
os.environ['LISTEN_PID'] = str(os.getpid())
print('up', flush=True)
os.execv(sys.argv[1], sys.argv[1:])
";
    let run = |args: &[&str]| {
        let mut command = Command::new("python3");
        command.arg("-c").arg(script).arg(place.tool("qemu-nbd")).args(args).current_dir(place.dir());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for args in [&["-p", "5"][..], &["-b", "localhost"], &["-k", "/tmp/s"], &["-L"]] {
        let ended = run(&[args, &["-f", "raw", "raw"][..if args == ["-L"] { 0 } else { 3 }]].concat());
        let ended = ended.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{args:?}");
        std::fs::remove_file(place.dir().join("s")).unwrap();
    }
    let mut server = run(&["-f", "raw", "raw"]);
    let mut word = [0; 3];
    std::io::Read::read_exact(server.stdout.as_mut().unwrap(), &mut word).unwrap();
    let mut client = Client::connect(&place.dir().join("s"), "").unwrap();
    assert_eq!(client.read(0, 1).unwrap(), [7]);
    drop(client);
    assert!(server.wait().unwrap().success());
}

#[test]
fn a_part_a_snapshot_or_an_overlay_of_an_image_is_served() {
    let place = Place::new("nbd-parts");
    place.ok("qemu-img", "create -q -f qcow2 disk.qcow2 1M");
    place.ok("qemu-io", "-c 'write -P 1 0 64k' disk.qcow2");
    place.ok("qemu-img", "snapshot -c old disk.qcow2");
    place.ok("qemu-io", "-c 'write -P 2 0 64k' disk.qcow2");
    for (args, first, may_write) in [
        ("-f qcow2 disk.qcow2", 2, true),
        ("-r -f qcow2 disk.qcow2", 2, false),
        ("-l old -f qcow2 disk.qcow2", 1, false),
        ("-l snapshot.id=1,snapshot.name=old -f qcow2 disk.qcow2", 1, false),
        ("-s -f qcow2 disk.qcow2", 2, true),
    ] {
        let server = place.serve(args);
        let mut client = Client::connect(&server.socket, "").unwrap();
        assert_eq!(client.read(0, 1).unwrap(), [first], "{args}");
        assert_eq!(client.write(65536, b"x").is_ok(), may_write, "{args}");
        drop(client);
        server.wait();
    }
    place.ok("qemu-io", "-r -c 'read -P 2 0 64k' -c 'read -P 0x78 64k 1' disk.qcow2");
    let server = place.serve("-o 999936 -x part -f raw raw");
    let mut client = Client::connect(&server.socket, "part").unwrap();
    assert_eq!(client.len, (MIB - 999_936) as u64);
    client.write(0, b"part").unwrap();
    drop(client);
    server.wait();
    assert_eq!(place.bytes("raw")[999_935..999_941], *b"\x07part\x07");
}

#[test]
fn an_export_is_a_disk_for_every_command() {
    let place = Place::new("nbd-client");
    place.ok("qemu-img", "create -q -f qcow2 disk.qcow2 1M");
    place.ok("qemu-io", "-c 'write -P 5 64k 128k' disk.qcow2");
    let server = place.serve("-t -e 0 -x 'a disk' -f qcow2 disk.qcow2");
    let uri = "'nbd+unix:///a disk?socket=DIR/s'";
    let info = place.ok("qemu-img", &format!("info {uri}"));
    let name = format!("nbd+unix:///a disk?socket={}", server.socket.display());
    let wanted = format!(
        "image: {name}\nfile format: raw\nvirtual size: 1 MiB (1048576 bytes)\ndisk size: unavailable\nChild node '/file':\n    \
         filename: {name}\n    protocol type: nbd\n    file length: 1 MiB (1048576 bytes)\n    disk size: unavailable\n"
    );
    assert_eq!(info, wanted);
    assert_eq!(place.ok("qemu-img", "info 'nbd:unix:DIR/s:exportname=a disk'"), wanted);
    place.ok("qemu-img", &format!("convert -O raw {uri} copy.raw"));
    place.ok("qemu-img", &format!("compare -f raw -F qcow2 {uri} disk.qcow2 -U"));
    let map = place.ok("qemu-img", &format!("map --output=json {uri}"));
    assert!(map.contains("\"start\": 65536, \"length\": 131072") && map.contains("\"data\": true"), "{map}");
    place.ok("qemu-img", &format!("convert -n -f raw -O raw raw {uri}"));
    place.ok("qemu-img", "create -q -f qcow2 -F raw -b 'nbd+unix:///a%20disk?socket=DIR/s' over.qcow2");
    place.ok("qemu-io", "-c 'read -P 7 0 1M' -c 'write -P 8 0 1' -c 'read -P 7 1 100' over.qcow2");
    server.stop();
    assert_eq!(place.bytes("copy.raw")[65535..65537], [0, 5]);
    let ran = place.run("qemu-img", &format!("info {uri}"));
    assert!(ran.status == 1 && ran.stderr.contains("cannot connect"), "{}", ran.stderr);
}

#[test]
fn the_tools_of_others_and_ours_copy_to_and_fro() {
    let place = Place::new("nbd-copy");
    let image: Vec<u8> = (0..4 * MIB).map(|at| u8::try_from(at / 4096 % 251).unwrap()).collect();
    std::fs::write(place.dir().join("image"), &image).unwrap();
    place.ok("qemu-img", "create -q -f qcow2 disk.qcow2 4M");
    let server = place.serve("-t -e 0 -f qcow2 disk.qcow2");
    let uri = format!("nbd+unix:///?socket={}", server.socket.display());
    let shell = |line: String| {
        let output = Command::new("bash").args(["-ec", &line]).current_dir(place.dir()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    shell(format!("nbdcopy image '{uri}'; nbdcopy '{uri}' back; cmp image back"));
    assert!(shell(format!("nbdinfo --size '{uri}'")).starts_with("4194304"));
    shell(format!(
        "fio --name=x --ioengine=nbd --uri='{uri}' --rw=randrw --bsrange=512-64k --bs_unaligned --iodepth=16 --size=1m \
         --numjobs=2 --offset_increment=2m --verify=crc32c --verify_fatal=1 --randseed=3"
    ));
    server.stop();
    shell(format!(
        "nbdkit -U served memory 4M --run \"'{}' convert -n -f raw -O raw image 'nbd:unix:$PWD/served' && \
                   nbdcopy 'nbd+unix:///?socket=served' again\"; cmp image again",
        place.tool("qemu-img").display()
    ));
}

#[test]
fn a_disk_at_a_server_that_is_killed_and_comes_again_loses_nothing() {
    let place = Place::new("nbd-again");
    let file = std::fs::File::options().write(true).open(place.dir().join("raw")).unwrap();
    file.write_all_at(&[0; MIB], 0).unwrap();
    let back = place.serve("-t -e 0 --cache=writethrough -f raw raw");
    let disk = format!(
        "json:{{\"driver\":\"raw\",\"file\":{{\"driver\":\"nbd\",\"reconnect-delay\":60,\"server\":{{\"type\":\"unix\",\
         \"path\":\"{}\"}}}}}}",
        back.socket.display()
    );
    let front = Serve::start(place.dir(), &[&disk]).unwrap_or_else(|ended| panic!("{}", ended.stderr));
    let mut client = front.connect("");
    client.write(0, &[1; 4096]).unwrap();
    back.signal("KILL");
    back.wait();
    let writer = thread::spawn(move || {
        client.write(4096, &[2; 4096]).unwrap();
        assert_eq!(client.read(0, 8192).unwrap(), [[1; 4096], [2; 4096]].concat());
    });
    let back = place.serve("-t -e 0 --cache=writethrough -f raw raw");
    writer.join().unwrap();
    front.stop_cleanly();
    back.stop();
    assert_eq!(place.bytes("raw")[..8193], [&[1; 4096][..], &[2; 4096], &[0]].concat());
}

#[test]
fn the_daemon_stands_on_an_export() {
    let place = Place::new("nbd-daemon");
    let server = place.serve("-t -e 0 -x disk -f raw raw");
    let options = format!(
        "driver=nbd,node-name=n,export=disk,reconnect-delay=1,open-timeout=5,server.type=unix,server.path={}",
        server.socket.display()
    );
    let mut daemon = Command::new(drystone())
        .args(["daemon", "--blockdev", &options, "--nbd-server", "addr.type=unix,addr.path=d"])
        .args([
            "--export",
            "type=nbd,id=e,node-name=n,name=e,writable=on",
            "--pidfile",
            "daemon.pid",
            "--daemonize",
        ])
        .current_dir(place.dir())
        .spawn()
        .unwrap();
    assert!(daemon.wait().unwrap().success());
    let mut client = Client::connect(&place.dir().join("d"), "e").unwrap();
    client.write(5, b"daemon").unwrap();
    client.flush().unwrap();
    drop(client);
    let pid = std::fs::read_to_string(place.dir().join("daemon.pid")).unwrap();
    assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
    server.stop();
    assert_eq!(place.bytes("raw")[4..12], *b"\x07daemon\x07");
}
