//! Random command lines of `create`: the same line "Formatting ...", the same refusals, the same images.

use std::path::Path;

use drystone_base::rng::Rng;

use crate::common::{Scratch, normalised, our_tool, run};

/// How many lines are compared.
const LINES: u64 = 400;

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.index(from.len())]
}

/// Something that is a size, or almost.
fn size(rng: &mut Rng) -> String {
    let digits = |rng: &mut Rng, most: u64| -> String {
        (0..rng.below(most)).map(|_| char::from(b'0' + u8::try_from(rng.below(10)).unwrap())).collect()
    };
    let head = digits(rng, 6);
    let fraction = if rng.one_in(3) { format!(".{}", digits(rng, 8)) } else { String::new() };
    let suffix = pick(rng, &["", "", "b", "k", "K", "M", "m", "G", "x", "kB", " ", "T"]);
    match rng.below(12) {
        0 => format!("0x{head}{suffix}"),
        1 => format!("+{head}{suffix}"),
        2 => format!(" {head}{fraction}{suffix}"),
        _ => format!("{head}{fraction}{suffix}"),
    }
}

fn option(rng: &mut Rng, is_qcow2: bool) -> String {
    if !is_qcow2 {
        return match rng.below(4) {
            0 => format!("size={}", size(rng)),
            1 => format!("preallocation={}", pick(rng, &["off", "falloc", "metadata", "bogus", ""])),
            2 => pick(rng, &["nocow=on", "nonocow", "nocow=maybe", "extent_size_hint=1M"]).into(),
            _ => pick(rng, &["cluster_size=4k", "compat=v3", "size", "preallocation"]).into(),
        };
    }
    match rng.below(8) {
        0 => format!("size={}", size(rng)),
        1 => format!("cluster_size={}", pick(rng, &["512", "4k", "64k", "2M", "4M", "1000", "0", "0x1000"])),
        2 => format!("compat={}", pick(rng, &["v2", "v3", "0.10", "1.1", "v4", "", "1"])),
        3 => format!("refcount_bits={}", pick(rng, &["1", "8", "16", "020", "0x40", "3", "128", "-1", "x"])),
        4 => pick(rng, &["lazy_refcounts", "nolazy_refcounts", "lazy_refcounts=yes", "lazy_refcounts=ON"])
            .into(),
        5 => format!("compression_type={}", pick(rng, &["zlib", "zstd", "lz4", ""])),
        6 => pick(rng, &["extended_l2=off", "encryption=off", "data_file_raw=no", "nodata_file_raw"]).into(),
        _ => {
            pick(rng, &["foo=1", "foo", "backing_fmt=raw", "backing_file=base", "backing_file=no,,base", "="])
                .into()
        }
    }
}

fn line(rng: &mut Rng) -> Vec<String> {
    let is_qcow2 = !rng.one_in(4);
    let mut args = vec!["create".to_owned()];
    match rng.below(6) {
        0 => args.push(format!("--format={}", if is_qcow2 { "qcow2" } else { "raw" })),
        1 if !is_qcow2 => {}
        _ => args.extend(["-f".into(), if is_qcow2 { "qcow2" } else { "raw" }.into()]),
    }
    for _ in 0..rng.below(3) {
        let options: Vec<String> = (0..=rng.below(2)).map(|_| option(rng, is_qcow2)).collect();
        args.extend(["-o".into(), options.join(",")]);
    }
    if rng.one_in(6) {
        args.extend(["-b".into(), pick(rng, &["base", "gone", ""]).into()]);
    }
    if rng.one_in(6) {
        args.extend(["-F".into(), pick(rng, &["raw", "qcow2", "bogus"]).into()]);
    }
    args.extend(rng.one_in(10).then(|| "-u".into()));
    args.extend(rng.one_in(10).then(|| "-q".into()));
    args.push("image".into());
    args.extend((!rng.one_in(4)).then(|| size(rng)));
    args
}

/// Sizes that would fill a disk, or fit no file system: what they lead to depends on the machine.
fn is_large(stdout: &str) -> bool {
    let size =
        stdout.split(" size=").nth(1).and_then(|rest| rest.split([' ', '\n']).next()?.parse::<i64>().ok());
    size.is_some_and(|bytes| !(0..=1 << 40).contains(&bytes))
}

#[test]
fn oracle_random_lines_of_create_have_the_same_meaning() {
    let scratch = Scratch::new("lines");
    let ours = our_tool(&scratch, "qemu-img");
    let dir = scratch.path().join("work");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("base"), vec![0; 12345]).unwrap();
    let mut made = 0;
    for seed in 0..LINES {
        let args = line(&mut Rng::new(seed));
        let [here, there] = [ours.as_path(), Path::new("qemu-img")].map(|program| {
            let _ = std::fs::remove_file(dir.join("image"));
            let ran = run(program, &args, &dir);
            let info = run(Path::new("qemu-img"), &["info".into(), "-U".into(), "image".into()], &dir);
            (ran, if is_large(&info.stdout) { String::new() } else { normalised(&info.stdout) })
        });
        if is_large(&there.0.stdout) || is_known_difference(&args) {
            assert_eq!(here.0.stdout, there.0.stdout, "{seed}: {args:?}");
            continue;
        }
        assert_eq!(
            (&here.0.stdout, here.0.status),
            (&there.0.stdout, there.0.status),
            "{seed}: {args:?}\nhere: {}\nthere: {}",
            here.0.stderr,
            there.0.stderr
        );
        if there.0.status == 0 {
            made += 1;
            assert_eq!(here.1, there.1, "{seed}: {args:?}");
        }
    }
    assert!(made > LINES / 10, "only {made} lines made an image");
}

/// Their tables are made twice for large disks with small clusters.
fn is_known_difference(args: &[String]) -> bool {
    args.iter().any(|arg| arg.contains('G') || arg.contains('T'))
}
