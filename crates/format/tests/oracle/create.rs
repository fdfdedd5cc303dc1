//! New images against those of `qemu-img create`: the same to `check`, `info` and `map`, and the same refusals.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use drystone_format::qcow2::compress::Compression;
use drystone_format::qcow2::create::{CreateOptions, Layout};
use drystone_format::qcow2::header::Version;

use crate::tools::{Scratch, io, run, run_ok};

fn store(layout: &Layout, path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(layout.len_file).unwrap();
    for (at, bytes) in &layout.pieces {
        file.write_all_at(bytes, at.get()).unwrap();
    }
}

/// The options in the words of the C tool.
fn in_words(options: &CreateOptions) -> String {
    let mut words = format!(
        "size={},cluster_size={},compat={},refcount_bits={},compression_type={}",
        options.len_guest,
        options.cluster_bytes,
        options.version.compat(),
        options.refcount_bits,
        options.compression.name(),
    );
    if options.extended_l2 {
        words.push_str(",extended_l2=on");
    }
    if options.lazy_refcounts {
        words.push_str(",lazy_refcounts=on");
    }
    for (key, value) in [("backing_file", &options.backing_name), ("backing_fmt", &options.backing_format)] {
        if let Some(value) = value {
            words.push_str(&format!(",{key}={}", String::from_utf8_lossy(value)));
        }
    }
    words
}

/// What `info` says, less how many blocks the file system gave the file. For large tables, which the C tool moves while
/// it makes them, less the length of the file.
fn facts(info: &str, options: &CreateOptions) -> Vec<String> {
    let (_, without_file) = info.split_once("\n    ],").unwrap();
    let info = if options.len_guest > 4 << 30 { without_file } else { info };
    info.lines().filter(|line| !line.contains("\"actual-size\"")).map(str::to_owned).collect()
}

/// Both tools make the image under the same name, one after the other.
fn compare(scratch: &Scratch, options: &CreateOptions) {
    let path = scratch.path("image");
    let words = in_words(options);
    let [there, here] = [false, true].map(|here| {
        let _ = std::fs::remove_file(&path);
        if here {
            store(&options.layout().unwrap(), &path);
        } else {
            run_ok("qemu-img", &format!("create -q -u -f qcow2 -o {words}"), &path);
        }
        let info = run_ok("qemu-img", "info -f qcow2 --output=json", &path);
        (facts(&info, options), run("qemu-img", "map -f qcow2 --output=json", &path).stdout)
    });
    assert_eq!(here, there, "{words}");
    if options.backing_name.is_none() {
        let json = run_ok("qemu-img", "check -f qcow2 --output=json", &path);
        assert!(!json.contains("leaks") && !json.contains("corruptions"), "{words}: {json}");
    }
}

fn matrix() -> Vec<CreateOptions> {
    let mut matrix = Vec::new();
    for cluster_bytes in (9..=21).map(|bits| 1 << bits) {
        for refcount_bits in (0..=6).map(|order| 1 << order) {
            let options = CreateOptions { cluster_bytes, refcount_bits, ..CreateOptions::new(5 << 20) };
            matrix.push(options);
        }
        matrix.push(CreateOptions { cluster_bytes, version: Version::V2, ..CreateOptions::new(1 << 30) });
        matrix.push(CreateOptions { cluster_bytes, refcount_bits: 64, ..CreateOptions::new(30 << 30) });
        if cluster_bytes >= 16 << 10 {
            for len_guest in [5 << 20, 30 << 30] {
                let options = CreateOptions::new(len_guest);
                matrix.push(CreateOptions { cluster_bytes, extended_l2: true, ..options });
            }
        }
    }
    matrix.extend([0, 1, 511, 512, 513, 65537].map(CreateOptions::new));
    matrix.push(CreateOptions { lazy_refcounts: true, ..CreateOptions::new(1 << 20) });
    matrix.push(CreateOptions { compression: Compression::Zstd, ..CreateOptions::new(1 << 20) });
    let backing = |version| CreateOptions {
        version,
        backing_name: Some(b"base.img".into()),
        backing_format: Some(b"raw".into()),
        ..CreateOptions::new(1 << 20)
    };
    matrix.extend([backing(Version::V2), backing(Version::V3)]);
    matrix
}

#[test]
fn oracle_new_images_are_like_those_of_the_c_tool() {
    let scratch = Scratch::new("create");
    std::fs::write(scratch.path("base.img"), [0; 4096]).unwrap();
    for options in matrix() {
        compare(&scratch, &options);
    }
}

#[test]
fn oracle_new_images_can_be_written_by_the_c_tool() {
    let scratch = Scratch::new("write");
    let path = scratch.path("image");
    for options in matrix().into_iter().filter(|options| options.len_guest == 5 << 20) {
        store(&options.layout().unwrap(), &path);
        io(&path, &["write -P 7 0 300k", "write -P 8 4M 1M", "read -P 7 100k 200k", "read -P 0 2M 1M"]);
        run_ok("qemu-img", "check -f qcow2", &path);
    }
}

#[test]
fn oracle_the_same_options_are_refused() {
    let scratch = Scratch::new("refused");
    let path = scratch.path("image");
    let new = CreateOptions::new;
    let v2 = CreateOptions { version: Version::V2, ..new(1 << 20) };
    let mut cases = vec![
        CreateOptions { refcount_bits: 8, ..v2.clone() },
        CreateOptions { extended_l2: true, ..v2.clone() },
        CreateOptions { extended_l2: true, cluster_bytes: 8192, ..new(1 << 20) },
        CreateOptions { extended_l2: true, cluster_bytes: 16384, ..new((64 << 40) + 1) },
        CreateOptions { lazy_refcounts: true, ..v2.clone() },
        CreateOptions { compression: Compression::Zstd, ..v2.clone() },
        CreateOptions { backing_format: Some(b"raw".into()), ..v2.clone() },
        CreateOptions { backing_name: Some(b"x".into()), ..v2.clone() },
        CreateOptions { backing_name: Some(b"".into()), backing_format: Some(b"raw".into()), ..v2 },
    ];
    cases
        .extend([0, 256, 1000, 4 << 20].map(|cluster_bytes| CreateOptions { cluster_bytes, ..new(1 << 20) }));
    cases.extend([0, 3, 128].map(|refcount_bits| CreateOptions { refcount_bits, ..new(1 << 20) }));
    for (cluster_bytes, most) in [(512, 128 << 30), (65536, 2 << 50), (2 << 20, 2 << 60)] {
        cases.push(CreateOptions { cluster_bytes, ..new(most + 1) });
    }
    for options in cases {
        let words = in_words(&options);
        let there = run("qemu-img", &format!("create -q -u -f qcow2 -o {words}"), &path);
        assert!(!there.status.success(), "{words}");
        assert!(options.layout().is_err(), "{words}");
    }
}
