//! Cases made from a table: kinds of images by commands.
//!
//! ```text
//!   kind   cluster size, version, refcounts, subclusters, ...      one row of KINDS: also a length and a cache mode
//!     x
//!   act    make, copy, stack, resize                               one function each: preparations and commands
//!     =
//!   tests/golden/matrix-ACT.txt                                    with what release 10.0 of the C tool prints
//! ```
//! and the cache modes by lengths that are no multiple of what direct I/O moves (`modes`).
//! A new row, or a new line of an act, takes effect with the next recording (`tests/golden/record.sh`); until then the test
//! says that the table and the recording differ. What we print where we differ stays when the cases are recorded again.

use std::fmt::Write as _;

use crate::golden;

/// One kind of image.
struct Kind {
    /// The options of `create`; `NAME` stands for that of the image.
    options: &'static str,
    /// Length of the disk, not always of whole clusters or sectors.
    size: &'static str,
    /// How files are opened.
    cache: &'static str,
}

const fn kind(options: &'static str, size: &'static str, cache: &'static str) -> Kind {
    Kind { options, size, cache }
}

#[rustfmt::skip]
const KINDS: &[Kind] = &[
    kind("cluster_size=512", "3000000", "writeback"),
    kind("cluster_size=512,refcount_bits=1", "1M", "none"),
    kind("cluster_size=512,compat=0.10", "1234567", "unsafe"),
    kind("cluster_size=1k,refcount_bits=64", "2500k", "directsync"),
    kind("cluster_size=2k,lazy_refcounts=on", "1000", "writethrough"),
    kind("cluster_size=4k", "10000384", "writeback"),
    kind("cluster_size=4k,compat=0.10", "4M", "none"),
    kind("cluster_size=4k,refcount_bits=2,lazy_refcounts=on", "2999999", "unsafe"),
    kind("cluster_size=4k,compression_type=zstd", "3M", "writethrough"),
    kind("cluster_size=8k,refcount_bits=32", "512", "directsync"),
    kind("cluster_size=16k,refcount_bits=8", "5000k", "none"),
    kind("cluster_size=16k,extended_l2=on", "3000000", "writeback"),
    kind("cluster_size=32k", "7M", "unsafe"),
    kind("cluster_size=64k", "1G", "none"),
    kind("cluster_size=64k,compat=0.10", "3000000", "writeback"),
    kind("cluster_size=64k,extended_l2=on", "100M", "directsync"),
    kind("cluster_size=64k,refcount_bits=32,compression_type=zstd", "2500000", "writethrough"),
    kind("cluster_size=64k,lazy_refcounts=on", "1100M", "none"),
    kind("cluster_size=128k,refcount_bits=1", "33M", "unsafe"),
    kind("cluster_size=256k,refcount_bits=4", "4097k", "writeback"),
    kind("cluster_size=512k,compat=0.10", "20M", "none"),
    kind("cluster_size=1M", "3000000", "directsync"),
    kind("cluster_size=1M,extended_l2=on,refcount_bits=64", "64M", "writeback"),
    kind("cluster_size=2M", "10M", "none"),
    kind("cluster_size=2M,compat=0.10", "12345678", "writethrough"),
    kind("data_file=NAME.data", "3000000", "writeback"),
    kind("data_file=NAME.data,data_file_raw=on", "3M", "none"),
    kind("cluster_size=4k,data_file=NAME.data,refcount_bits=8", "4097k", "directsync"),
    kind("cluster_size=16k,extended_l2=on,data_file=NAME.data", "5000k", "unsafe"),
    kind("cluster_size=512,data_file=NAME.data,data_file_raw=on,lazy_refcounts=on", "1234567", "writethrough"),
    kind("cluster_size=1M,data_file=NAME.data,compression_type=zstd", "33M", "none"),
];

const MODES: [&str; 5] = ["none", "writethrough", "writeback", "directsync", "unsafe"];

/// Lengths of raw files that direct I/O has to write in part, and their last cluster.
const MISALIGNED: [u64; 4] = [1000, 65_537, 300_032, 1_049_088];

/// The file of data that is copied: what is in it lies in whole units of 64 KiB, so that no file system matters.
const DATA: &str = "\
> sparse data 3000320
> fill data 65536 131072 11
> fill data 1048576 65536 22
> fill data 2097152 196608 33
";

/// Commands whose output may differ from the C tool's, and why: the beginning of a line.
const DIFFERENCES: &[(&str, &str)] = &[
    ("$ qemu-img map copy", PLACES),
    ("$ qemu-img map --output=json --start-offset=100000 --max-length=1100k copy", PLACES),
    ("$ qemu-img check -T", PLACES),
    ("$ qemu-img check over", PLACES),
    ("$ qemu-img check base", PLACES),
    ("$ qemu-img check image", PLACES),
    ("$ qemu-img map over", PLACES),
    ("$ qemu-img map --output=json over", PLACES),
    ("$ qemu-img info --backing-chain over", PLACES),
    ("$ qemu-img info over", PLACES),
    ("$ qemu-img info --output=json over", PLACES),
    ("$ qemu-img info image", PLACES),
    ("$ qemu-img info --output=json image", PLACES),
    (
        "$ qemu-img compare -f raw data image",
        "what was cut off inside a cluster shows again there, and is zeroes here",
    ),
];

const PLACES: &str = "new clusters go to other places in the file, and it ends with its last one";

/// New images, and what is said about them.
fn make(kind: &Kind) -> String {
    let Kind { options, size, cache } = kind;
    format!(
        "$ qemu-img create -f qcow2 -o {options} disk {size}
$ qemu-img info disk
$ qemu-img info --output=json disk
$ qemu-img check -T {cache} disk
$ qemu-img check --output=json disk
$ qemu-img map disk
$ qemu-img map --output=json --image-opts driver=qcow2,file.filename=disk
$ qemu-img measure -O qcow2 -o {options} --size {size}
$ qemu-img measure --output=json -O qcow2 -o {options},preallocation=full --size {size}
$ qemu-img create -q -f qcow2 -o {options},preallocation=metadata full {size}
$ qemu-img check full
$ qemu-img compare -T {cache} disk full
$ qemu-img compare -s disk full
"
    )
}

/// Copies of data, and what is said about them.
fn copy(kind: &Kind) -> String {
    let Kind { options, cache, .. } = kind;
    format!(
        "$ qemu-img measure -f raw -O qcow2 -o {options} data
$ qemu-img convert -T {cache} -f raw -O qcow2 -o {options} data copy
$ qemu-img compare -T {cache} -f raw -F qcow2 data copy
$ qemu-img check -T {cache} copy
$ qemu-img map copy
$ qemu-img map --output=json --start-offset=100000 --max-length=1100k copy
$ qemu-img measure --output=json -O qcow2 -o {options} copy
$ qemu-img measure -O raw copy
$ qemu-img convert -t {cache} -f qcow2 -O raw copy back
$ qemu-img compare -s -f raw -F raw data back
> fill back 2300000 1 77
$ qemu-img compare -f raw -F qcow2 back copy
$ qemu-img bench -c 20 -d 4 -s 64k -o 64k -t {cache} copy
"
    )
}

/// Images on images.
fn stack(kind: &Kind) -> String {
    let Kind { options, cache, .. } = kind;
    // Such an image cannot have a backing file.
    let options = options.replace(",data_file_raw=on", "");
    format!(
        "> qemu-img convert -f raw -O qcow2 -o {options} data base
$ qemu-img create -f qcow2 -o {options} -b base -F qcow2 over
$ qemu-img resize over +1000k
$ qemu-img info --backing-chain over
$ qemu-img map over
$ qemu-img map --output=json over
$ qemu-img compare -T {cache} base over
$ qemu-img rebase -t {cache} -b data -F raw over
$ qemu-img info over
$ qemu-img compare base over
$ qemu-img rebase -T {cache} -b '' over
$ qemu-img check over
$ qemu-img compare over base
$ qemu-img rebase -u -b base -F qcow2 over
$ qemu-img info --output=json over
$ qemu-img commit -t {cache} over
$ qemu-img check over
$ qemu-img check base
$ qemu-img compare -s over base
"
    )
}

/// Other lengths.
fn resize(kind: &Kind) -> String {
    let Kind { options, cache, .. } = kind;
    format!(
        "> qemu-img convert -f raw -O qcow2 -o {options} data image
$ qemu-img resize image 1M
$ qemu-img resize --shrink image 1M
$ qemu-img check -T {cache} image
$ qemu-img resize image +2000k
$ qemu-img resize --preallocation=metadata image +200000
$ qemu-img resize -q --preallocation=falloc image +1M
$ qemu-img info image
$ qemu-img check image
$ qemu-img compare -f raw data image
$ qemu-img resize -q --shrink image -- -3M
$ qemu-img info --output=json image
$ qemu-img compare -f raw data image
"
    )
}

/// The same content through all ways to write, each in a cache mode.
fn mode(cache: &str, len: u64) -> String {
    let (third, rest) = (len / 3, len - 2 * (len / 3));
    format!(
        "> sparse data {len}
> noise data 0 {third}
> noise data {} {rest}
$ qemu-img convert -t {cache} -T {cache} -f raw -O qcow2 data copy
$ qemu-img convert -t {cache} -T {cache} -f qcow2 -O raw copy back
$ digest back
$ qemu-img compare -T {cache} -f raw -F raw data back
$ qemu-img create -q -f qcow2 -b data -F raw over
$ qemu-io -t {cache} -f qcow2 -c 'write -P 65 {third} {third}' -c 'read -P 65 {third} {third}' -c 'write -z 1 {third}' over
$ qemu-io -t {cache} -f qcow2 -c 'writev -P 66 {third} 1 511 100' -c 'read -P 0 1 {third}' -c 'read -P 66 {third} 612' over
$ qemu-img rebase -t {cache} -T {cache} -b back -F raw over
$ qemu-img check -T {cache} over
$ qemu-img commit -t {cache} over
$ digest back
$ qemu-io -t {cache} -f raw -c 'read -P 66 {third} 612' -c 'write -P 67 {third} 600' -c 'discard 0 512' -c length back
$ digest back
$ qemu-img compare -T {cache} -f raw -F qcow2 back over
$ qemu-img dd -f raw -O raw bs=1000 if=back of=image
$ digest image
",
        len - rest
    )
}

fn modes() -> String {
    let mut text = String::from("# Made from the table in tests/it/matrix.rs.\n");
    for cache in MODES {
        for len in MISALIGNED {
            writeln!(text, "# {cache}, {len}").unwrap();
            text.push_str(&mode(cache, len));
            for file in ["data", "copy", "back", "over", "image"] {
                writeln!(text, "> remove {file}").unwrap();
            }
        }
    }
    text
}

/// A line with the name of the image that it makes in place of `NAME`.
fn named(line: &str) -> String {
    let name = line.split(' ').rfind(|word| NAMES.contains(word)).unwrap_or("disk");
    line.replace("NAME", name)
}

/// All cases of an act.
fn cases(act: fn(&Kind) -> String) -> String {
    let mut text = String::from("# Made from the table in tests/it/matrix.rs.\n");
    text.push_str(DATA);
    for kind in KINDS {
        writeln!(text, "# {}, {}", kind.options, kind.size).unwrap();
        for line in act(kind).lines().map(named) {
            if let Some((_, why)) = DIFFERENCES.iter().find(|(start, _)| line.starts_with(start)) {
                writeln!(text, "{} {why}", golden::MAY_DIFFER).unwrap();
            }
            writeln!(text, "{line}").unwrap();
        }
        for file in files(&act(kind)) {
            writeln!(text, "> remove {file}").unwrap();
            // Copies back are raw.
            if kind.options.contains("data_file=") && file != "back" {
                writeln!(text, "> remove {file}.data").unwrap();
            }
        }
    }
    text
}

const NAMES: [&str; 7] = ["disk", "full", "copy", "back", "base", "over", "image"];

/// The images that an act makes.
fn files(text: &str) -> Vec<&'static str> {
    NAMES.into_iter().filter(|name| text.contains(&format!(" {name}"))).collect()
}

#[test]
fn golden_matrix_of_new_images() {
    golden::check_made("matrix-make", &cases(make));
}

#[test]
fn golden_matrix_of_copies() {
    golden::check_made("matrix-copy", &cases(copy));
}

#[test]
fn golden_matrix_of_chains() {
    golden::check_made("matrix-stack", &cases(stack));
}

#[test]
fn golden_matrix_of_lengths() {
    golden::check_made("matrix-resize", &cases(resize));
}

#[test]
fn golden_matrix_of_cache_modes() {
    golden::check_made("matrix-modes", &modes());
}
