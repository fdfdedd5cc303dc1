//! Images over cluster size, version, refcount width and depth of the chain: each side checks, describes, reads and
//! goes on writing what the other has made.

use std::path::{Path, PathBuf};

use crate::common::serve::Serve;
use crate::common::{Ran, Scratch, normalised, our_tool, run, words};

/// One kind of image.
struct Kind {
    options: String,
    depth: usize,
}

fn matrix() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for (index, cluster_size) in ["512", "1k", "4k", "16k", "64k", "256k", "1M", "2M"].into_iter().enumerate()
    {
        for refcount_bits in [1, 2, 4, 8, 16, 32, 64] {
            let options = format!("cluster_size={cluster_size},refcount_bits={refcount_bits}");
            kinds.push(Kind { options, depth: (index + refcount_bits) % 3 });
        }
        for extra in ["compat=0.10", "lazy_refcounts=on", "compression_type=zstd"] {
            kinds.push(Kind { options: format!("cluster_size={cluster_size},{extra}"), depth: index % 4 });
        }
    }
    kinds
}

/// Both tools and a folder to work in.
struct Bench {
    scratch: Scratch,
    ours: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let scratch = Scratch::new("oracle");
        let ours = our_tool(&scratch, "qemu-img");
        Self { scratch, ours }
    }

    fn dir(&self) -> &Path {
        self.scratch.path()
    }

    fn ours(&self, line: &str) -> Ran {
        run(&self.ours, &words(line), self.dir())
    }

    fn theirs(&self, line: &str) -> Ran {
        run(Path::new("qemu-img"), &words(line), self.dir())
    }

    fn io(&self, image: &str, commands: &[String]) {
        let mut args: Vec<String> =
            commands.iter().flat_map(|command| ["-c".into(), command.clone()]).collect();
        args.push(image.into());
        let ran = run(Path::new("qemu-io"), &args, self.dir());
        let is_bad = ran.status != 0 || ran.stdout.contains("Pattern verification failed");
        assert!(!is_bad, "{commands:?}: {}{}", ran.stdout, ran.stderr);
    }

    /// Standard output and exit status of both are the same.
    fn same(&self, line: &str) {
        let [ours, theirs] = [self.ours(line), self.theirs(line)];
        assert_eq!(
            (normalised(&ours.stdout), ours.status),
            (normalised(&theirs.stdout), theirs.status),
            "{line}\nhere: {}\nthere: {}",
            ours.stderr,
            theirs.stderr
        );
    }

    /// A chain of `depth + 1` images with data in each, made by one of the tools. The name of the top one.
    fn chain(&self, is_ours: bool, kind: &Kind) -> String {
        let mut below: Option<String> = None;
        for layer in 0..=kind.depth {
            let image = format!("layer{layer}");
            let backing = below.map(|below| format!("-b {below} -F qcow2")).unwrap_or_default();
            let size = 3_000_000 + 700_000 * layer;
            let line = format!("create -q -f qcow2 -o {} {backing} {image} {size}", kind.options);
            let made = if is_ours { self.ours(&line) } else { self.theirs(&line) };
            assert_eq!(made.status, 0, "{line}: {}", made.stderr);
            let at = 100_000 * layer;
            let write = format!("write -P {} {at} 250k", layer + 1);
            self.io(&image, &[write, format!("write -P {} {} 4k", layer + 11, 2_000_000 + at)]);
            below = Some(image);
        }
        below.unwrap()
    }
}

#[test]
fn oracle_our_images_are_theirs() {
    let bench = Bench::new();
    for kind in matrix() {
        let top = bench.chain(true, &kind);
        for layer in 0..=kind.depth {
            bench.same(&format!("check layer{layer}"));
        }
        bench.same(&format!("info --backing-chain {top}"));
        bench.same(&format!("info --backing-chain --output=json {top}"));
    }
}

#[test]
fn oracle_their_images_are_ours() {
    let bench = Bench::new();
    for kind in matrix() {
        let top = bench.chain(false, &kind);
        for layer in 0..=kind.depth {
            bench.same(&format!("check --output=json layer{layer}"));
        }
        bench.same(&format!("info --backing-chain {top}"));
        bench.same(&format!("info --backing-chain --output=json {top}"));
    }
}

#[test]
fn oracle_preallocated_images_are_as_long_and_as_clean_as_theirs() {
    use std::os::unix::fs::MetadataExt as _;
    let bench = Bench::new();
    for cluster_size in ["512", "4k", "64k", "2M"] {
        for mode in ["off", "metadata", "falloc", "full"] {
            for (size, more) in [("1000", "compat=v2"), ("1M", "refcount_bits=1"), ("5000000", "compat=v3")] {
                let options = format!("cluster_size={cluster_size},preallocation={mode},{more}");
                let [ours, theirs] = ["ours", "theirs"].map(|image| {
                    let line = format!("create -q -f qcow2 -o {options} {image} {size}");
                    let made = if image == "ours" { bench.ours(&line) } else { bench.theirs(&line) };
                    assert_eq!(made.status, 0, "{line}: {}", made.stderr);
                    let checked = bench.theirs(&format!("check {image}"));
                    assert_eq!(checked.status, 0, "{line}: {}{}", checked.stdout, checked.stderr);
                    bench.same(&format!("check {image}"));
                    let file = std::fs::metadata(bench.dir().join(image)).unwrap();
                    let is_full = file.blocks() * 512 >= file.len();
                    (checked.stdout, file.len(), is_full && ["falloc", "full"].contains(&mode))
                });
                assert_eq!((&ours.0, ours.1), (&theirs.0, theirs.1), "{options}");
                assert_eq!(ours.2, ["falloc", "full"].contains(&mode), "{options}: space is reserved");
                let compared = bench.theirs("compare -f qcow2 -F qcow2 ours theirs");
                assert_eq!(compared.status, 0, "{options}: {}", compared.stdout);
            }
        }
    }
}

#[test]
fn oracle_what_we_serve_is_what_they_read() {
    let bench = Bench::new();
    for (index, kind) in matrix().iter().enumerate().filter(|(index, _)| index % 5 == 0) {
        let top = bench.chain(index % 2 == 0, kind);
        let server = Serve::start(bench.dir(), &[&top]).unwrap();
        let uri = server.uris[0].clone();
        bench.io(
            &uri,
            &[
                "write -P 77 777 77777".into(),
                "write -z 1M 128k".into(),
                "discard 2M 64k".into(),
                "flush".into(),
            ],
        );
        // What goes over the wire, before the server closes the image.
        let copied = bench.theirs(&format!("convert -f raw -O raw '{uri}' copy"));
        assert_eq!(copied.status, 0, "{}", copied.stderr);
        server.stop_cleanly();
        bench.same(&format!("check {top}"));
        bench.same(&format!("info -b {top}"));
        let compared = bench.theirs(&format!("compare -f raw -F qcow2 copy {top}"));
        assert_eq!(compared.status, 0, "{}: {}{}", kind.options, compared.stdout, compared.stderr);
        bench.io(&top, &["read -P 77 777 77777".into(), "write -P 5 0 3000000".into()]);
        assert_eq!(bench.ours(&format!("check {top}")).status, 0);
        let server = Serve::start(bench.dir(), &[&top]).unwrap();
        assert!(
            server.connect("").read(0, 3_000_000).unwrap().iter().all(|byte| *byte == 5),
            "{}",
            kind.options
        );
        server.stop_cleanly();
    }
}

#[test]
fn oracle_locks_keep_both_sides_apart() {
    let bench = Bench::new();
    assert_eq!(bench.ours("create -q -f qcow2 disk 1M").status, 0);
    assert_eq!(bench.ours("create -q -f qcow2 -b disk -F qcow2 over").status, 0);
    let server = Serve::start(bench.dir(), &["disk"]).unwrap();
    for line in ["info disk", "check disk", "info -b over", "check over"] {
        bench.same(line);
        assert_eq!(bench.theirs(line).status, 1, "{line}");
    }
    for line in ["info -U disk", "check -U disk", "info -U -b over", "info -f raw disk", "info over"] {
        bench.same(line);
        assert_eq!(bench.theirs(line).status, 0, "{line}");
    }
    bench.same("create -f qcow2 disk 2M");
    bench.same("create -f raw disk 2M");
    server.stop_cleanly();
    bench.same("info disk");
    let server = Serve::start(bench.dir(), &["over"]).unwrap();
    let ran = run(Path::new("qemu-io"), &words("-c 'write 0 4k' disk"), bench.dir());
    assert_ne!(ran.status, 0, "the base of a running disk cannot be written");
    bench.same("info disk");
    bench.same("check disk");
    server.stop_cleanly();
}
