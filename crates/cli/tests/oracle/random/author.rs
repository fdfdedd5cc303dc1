//! What is done: sequences of commands of the tools, drawn from a seed.
//!
//! | images | |
//! |---|---|
//! | `a` to `e` | qcow2, of all shapes; `a.data` and so on are their data files |
//! | `r`, `s` | raw |
//!
//! The format of an image is that of its name, for ever: a file of one format that is read as another one shows where its
//! clusters lie, and that is nobody's promise. Not here: how commands are run and compared.

use crate::common::dice::Dice;

const MADE: [&str; 5] = ["a", "b", "c", "d", "e"];
const RAW: [&str; 2] = ["r", "s"];
const SIZES: [&str; 22] = [
    "1M", "1M", "1M", "512k", "1000k", "1048064", "65536", "64513", "0", "3M", "131072", "1536", "2M", "1",
    "511", "1025", "4097", "777777", "5M", "2560k", "9M", "300k",
];
const MODES: [&str; 5] = ["none", "writethrough", "writeback", "directsync", "unsafe"];
const PREALLOCATIONS: [&str; 4] = ["off", "metadata", "falloc", "full"];
const STEPS: usize = 24;

/// One command line; the first word is the tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command(pub(super) Vec<String>);

impl Command {
    fn of(tool: &str, words: Vec<String>) -> Self {
        Self([vec![tool.to_owned()], words].concat())
    }

    fn img(name: &str, words: Vec<String>) -> Self {
        Self::of("qemu-img", [vec![name.to_owned()], words].concat())
    }

    /// What is done: the command of the image tool, or `-f` and so on for the other one.
    pub(super) fn name(&self) -> &str {
        if self.0[0] == "qemu-img" { &self.0[1] } else { &self.0[0] }
    }

    /// The same with one request less, for each of the requests of a script.
    pub(super) fn shorter(&self) -> Vec<Self> {
        let is_it = |at: usize| self.0[0] == "qemu-io" && self.0[at] == "-c" && self.0[at + 1] != "aio_flush";
        let scripts = (0..self.0.len().saturating_sub(1)).filter(|at| is_it(*at));
        let without = |at: usize| {
            let mut words = self.0.clone();
            words.drain(at..at + 2);
            Self(words)
        };
        scripts.map(without).collect()
    }
}

/// Words apart from each other by spaces.
fn words(line: &str) -> Vec<String> {
    line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The commands of a seed.
pub(super) fn sequence(seed: u64) -> Vec<Command> {
    let mut author = Author(Dice::new(seed));
    let mut commands = Vec::new();
    for name in MADE.into_iter().take(3).chain(RAW) {
        commands.push(author.create(name));
        commands.extend((!author.0.once_in(4)).then(|| author.requests(name)));
    }
    commands.extend((0..STEPS).map(|_| author.any()));
    commands
}

pub(super) fn format(name: &str) -> &'static str {
    if RAW.contains(&name) || name.ends_with(".data") { "raw" } else { "qcow2" }
}

struct Author(Dice);

impl Author {
    fn once_in(&mut self, n: usize) -> bool {
        self.0.once_in(n)
    }

    fn pick(&mut self, of: &[&'static str]) -> &'static str {
        self.0.pick(of)
    }

    fn made(&mut self) -> &'static str {
        self.pick(&MADE)
    }

    fn image(&mut self) -> &'static str {
        if self.once_in(6) { self.pick(&RAW) } else { self.made() }
    }

    fn size(&mut self) -> &'static str {
        self.pick(&SIZES)
    }

    fn any(&mut self) -> Command {
        match self.0.below(40) {
            0..=1 => {
                let name = self.image();
                self.create(name)
            }
            2..=4 => self.overlay(),
            5..=12 => {
                let name = self.image();
                self.requests(name)
            }
            13..=15 => self.map(),
            16 => self.info(),
            17..=18 => self.check(),
            19..=23 => self.convert(),
            24..=25 => self.rebase(),
            26..=27 => self.commit(),
            28..=29 => self.resize(),
            30..=31 => self.amend(),
            32..=33 => self.snapshot(),
            34..=35 => self.bitmap(),
            36 => self.measure(),
            37..=38 => self.compare(),
            _ => self.dd(),
        }
    }

    /// Options of a new image, behind `-o`; none for some.
    fn shape(&mut self, name: &str) -> String {
        let mut options: Vec<String> = Vec::new();
        if format(name) == "raw" {
            if self.once_in(3) {
                options.push(format!("preallocation={}", self.pick(&["off", "falloc", "full", "metadata"])));
            }
        } else {
            let is_extended = self.once_in(5);
            let clusters = if is_extended {
                &["16k", "64k", "128k", "32k"][..]
            } else {
                &["", "", "512", "4k", "64k", "2M", "1k", "16k"]
            };
            let cluster = self.pick(clusters);
            options.extend((!cluster.is_empty()).then(|| format!("cluster_size={cluster}")));
            options.extend(is_extended.then(|| "extended_l2=on".to_owned()));
            if self.once_in(5) && !is_extended {
                options.push(format!("compat={}", self.pick(&["0.10", "1.1", "v2", "v3"])));
            }
            if self.once_in(3) {
                options.push(format!("refcount_bits={}", self.pick(&["1", "2", "4", "8", "16", "32", "64"])));
            }
            if self.once_in(5) {
                options.push(format!("preallocation={}", self.pick(&PREALLOCATIONS)));
            }
            options.extend(self.once_in(6).then(|| "lazy_refcounts=on".to_owned()));
            options.extend(self.once_in(5).then(|| "compression_type=zstd".to_owned()));
            if self.once_in(6) {
                options.push(format!("data_file={name}.data"));
                options.extend(self.once_in(2).then(|| "data_file_raw=on".to_owned()));
            }
        }
        if options.is_empty() { String::new() } else { format!("-o {}", options.join(",")) }
    }

    fn create(&mut self, name: &str) -> Command {
        let shape = self.shape(name);
        let size = self.size();
        Command::img("create", words(&format!("-f {} {shape} {name} {size}", format(name))))
    }

    fn overlay(&mut self) -> Command {
        let (name, below) = (self.made(), self.image());
        let shape = self.shape(name);
        let size = if self.once_in(2) { self.size() } else { "" };
        Command::img(
            "create",
            words(&format!("-f qcow2 {shape} -b {below} -F {} {name} {size}", format(below))),
        )
    }

    fn place(&mut self) -> (String, String) {
        let at = match self.0.below(7) {
            0 => 0,
            1 => 512,
            2 => 65536,
            3 => 4096,
            4 => self.0.below(2000) * 512,
            5 => self.0.below(60) * 65536,
            _ => self.0.below(1_000_000),
        };
        let len = match self.0.below(11) {
            0 => 512,
            1 => 65536,
            2 => 4096,
            3 => 1,
            4 => 100,
            5 => 131_072,
            6 => 200_000,
            7 => (1 + self.0.below(300)) * 512,
            8 => (1 + self.0.below(30)) * 65536,
            9 => 2 << 20,
            _ => 1 + self.0.below(300_000),
        };
        (at.to_string(), len.to_string())
    }

    fn request(&mut self) -> Vec<String> {
        let (at, len) = self.place();
        let byte = self.0.byte();
        let what = self.pick(&[
            "write",
            "write",
            "write",
            "write -z",
            "write -z -u",
            "write -z -n",
            "discard",
            "read",
            "aio_write",
            "writev",
            "write -f",
            "write -c",
            "aio_read",
            "readv",
            "alloc",
            "truncate",
            "flush",
            "length",
            "info",
            "map",
            "aio_write -z",
            "reopen",
        ]);
        match what {
            "flush" | "length" | "info" | "map" => vec![what.to_owned()],
            "reopen" => vec![
                self.pick(&["reopen -w", "reopen -o discard=unmap", "reopen -c none", "reopen"]).to_owned(),
            ],
            "alloc" | "discard" => vec![format!("{what} {at} {len}")],
            "truncate" if self.once_in(2) => vec![format!("truncate {}", self.size())],
            "truncate" => vec![format!("truncate -m {} {}", self.pick(&PREALLOCATIONS), self.size())],
            "aio_write -z" => vec![format!("{what} {at} {len}"), "aio_flush".to_owned()],
            _ if what.starts_with("aio") => {
                vec![format!("{what} -P {byte} {at} {len}"), "aio_flush".to_owned()]
            }
            "readv" | "writev" if self.once_in(2) => {
                let (_, other) = self.place();
                vec![format!("{what} -P {byte} {at} {len} {other}")]
            }
            "write -c" if self.once_in(3) => vec![format!("{what} -P {byte} {at} {len}")],
            "write -c" => {
                let at = self.0.below(16) * 65536;
                vec![format!("{what} -P {byte} {at} {}", 65536 * (1 + self.0.below(4)))]
            }
            "read" if self.once_in(2) => vec![format!("read -v {at} 64")],
            _ if what.contains("-z") => vec![format!("{what} {at} {len}")],
            _ => vec![format!("{what} -P {byte} {at} {len}")],
        }
    }

    fn requests(&mut self, name: &str) -> Command {
        let mut args = Vec::new();
        if self.once_in(6) {
            args.extend(["-d".to_owned(), self.pick(&["unmap", "ignore", "on", "off"]).to_owned()]);
        }
        if self.once_in(6) {
            args.extend(["-t".to_owned(), self.pick(&MODES).to_owned()]);
        }
        for _ in 0..1 + self.0.below(3) {
            for request in self.request() {
                args.extend(["-c".to_owned(), request]);
            }
        }
        let (options, image) = self.spelled(name, true);
        args.extend(options);
        args.push(image);
        Command::of("qemu-io", args)
    }

    /// An image as a command line may say it: what goes before it, and its name. A plain one has no filter.
    fn spelled(&mut self, name: &str, is_plain: bool) -> (Vec<String>, String) {
        let format = format(name);
        let below = format!(r#""driver":"file","filename":"{name}""#);
        match self.0.below(24) {
            0 => (words("--image-opts"), format!("driver={format},file.driver=file,file.filename={name}")),
            1 => (Vec::new(), format!(r#"json:{{"driver":"{format}","file":{{{below}}}}}"#)),
            2 if !is_plain => (
                Vec::new(),
                format!(r#"json:{{"driver":"{format}","file":{{"driver":"blkdebug","image":{{{below}}}}}}}"#),
            ),
            3 if !is_plain => (
                Vec::new(),
                format!(
                    r#"json:{{"driver":"copy-on-read","file":{{"driver":"{format}","file":{{{below}}}}}}}"#
                ),
            ),
            4..=6 if format == "qcow2" => (Vec::new(), name.to_owned()),
            7 => (Vec::new(), format!("file:{name}")),
            _ => (words(&format!("-f {format}")), name.to_owned()),
        }
    }

    /// A command of one image that it only reads: its options, and the image at the end.
    fn look(&mut self, command: &str, mut options: Vec<String>) -> Command {
        let name = self.image();
        let (how, image) = self.spelled(name, ["info", "check"].contains(&command));
        options.extend(how);
        options.push(image);
        Command::img(command, options)
    }

    fn number(&mut self, end: usize) -> String {
        self.0.below(end).to_string()
    }

    fn map(&mut self) -> Command {
        if self.once_in(5) {
            let name = self.image();
            return Command::of(
                "qemu-io",
                vec!["-r".into(), "-f".into(), format(name).into(), "-c".into(), "map".into(), name.into()],
            );
        }
        let mut options = if self.once_in(4) { Vec::new() } else { words("--output=json") };
        for flag in ["-s", "-l"] {
            if self.once_in(5) {
                options.extend([flag.to_owned(), self.number(2_000_000)]);
            }
        }
        self.look("map", options)
    }

    fn info(&mut self) -> Command {
        let line = [self.pick(&["", "--output=json"]), self.pick(&["", "--backing-chain"])].join(" ");
        self.look("info", words(&line))
    }

    fn check(&mut self) -> Command {
        let line = [self.pick(&["", "--output=json"]), self.pick(&["", "", "-r all", "-r leaks"])].join(" ");
        self.look("check", words(&line))
    }

    fn convert(&mut self) -> Command {
        let target = self.image();
        let mut line = String::new();
        let choices = [
            (5, &["-c"][..]),
            (5, &["-S 0", "-S 4k", "-S 64k", "-S 512", "-S 1M"]),
            (8, &["-W"]),
            (8, &["-m 1", "-m 2", "-m 5", "-m 16"]),
            (12, &["--salvage"]),
            (12, &["-p"]),
            (10, &["-l s1", "-l 1", "-l s2", "-l snapshot.id=1", "-l snapshot.name=s1"]),
            (8, &["--bitmaps", "--bitmaps --skip-broken-bitmaps"]),
            (10, &["-t none", "-t directsync", "-t unsafe", "-T none", "-T unsafe"]),
            (12, &["-C"]),
            (12, &["-r 1G"]),
        ];
        for (odds, of) in choices {
            if self.once_in(odds) {
                line = format!("{line} {}", self.pick(of));
            }
        }
        if self.once_in(7) {
            let below = self.image();
            line = format!("{line} -B {below} -F {}", format(below));
        }
        let shape = self.shape(target);
        if self.once_in(4) {
            line.push_str(self.pick(&[" -n", " -n", " -n", " -n --target-is-zero"]));
        } else {
            line = format!("{line} {shape}");
        }
        let source = self.image();
        let (how, image) = self.spelled(source, false);
        let mut args = [words(&line), how].concat();
        args.push(image);
        // More than one source, of the same format.
        if self.once_in(7) {
            let of = if format(source) == "raw" { &RAW[..] } else { &MADE };
            args.push(self.pick(of).to_owned());
        }
        args.extend(["-O".to_owned(), format(target).to_owned(), target.to_owned()]);
        Command::img("convert", args)
    }

    fn rebase(&mut self) -> Command {
        let name = self.made();
        let mut line = String::from("-f qcow2");
        for (odds, flag) in [(3, " -u"), (10, " -p"), (12, " -c"), (10, " -t none"), (10, " -T unsafe")] {
            if self.once_in(odds) {
                line.push_str(flag);
            }
        }
        let below = if self.once_in(6) { "" } else { self.image() };
        let mut args = words(&line);
        args.extend(["-b".to_owned(), below.to_owned()]);
        if !below.is_empty() {
            args.extend(["-F".to_owned(), format(below).to_owned()]);
        }
        args.push(name.to_owned());
        Command::img("rebase", args)
    }

    fn commit(&mut self) -> Command {
        let mut line = String::from("-f qcow2");
        for (odds, flag) in [(3, " -d"), (10, " -p"), (10, " -r 2G"), (10, " -t none")] {
            if self.once_in(odds) {
                line.push_str(flag);
            }
        }
        if self.once_in(4) {
            line = format!("{line} -b {}", self.image());
        }
        Command::img("commit", words(&format!("{line} {}", self.made())))
    }

    fn resize(&mut self) -> Command {
        let name = self.image();
        let shrink = self.pick(&["", "--shrink"]);
        let preallocation = match self.0.below(3) {
            0 => format!("--preallocation={}", self.pick(&PREALLOCATIONS)),
            _ => String::new(),
        };
        let sign = self.pick(&["+", "-", "", ""]);
        let line = format!("{shrink} {preallocation} -f {} {name}", format(name));
        Command::img("resize", words(&format!("{line} {sign}{}", self.size())))
    }

    fn amend(&mut self) -> Command {
        let name = self.made();
        let data = format!("data_file={name}.data");
        let options = [
            "compat=0.10",
            "compat=1.1",
            "lazy_refcounts=on",
            "lazy_refcounts=off",
            "refcount_bits=8",
            "refcount_bits=64",
            "refcount_bits=16",
            "refcount_bits=1",
            "size=2M",
            "size=1M",
            "backing_file=a,backing_fmt=qcow2",
            "backing_file=",
            "data_file_raw=on",
            "data_file_raw=off",
            "cluster_size=64k",
            "compression_type=zlib",
            "preallocation=off",
            "encryption=off",
            "compat=1.1,refcount_bits=1",
            "extended_l2=off",
        ];
        let option = if self.once_in(20) { data } else { self.pick(&options).to_owned() };
        Command::img("amend", words(&format!("-f qcow2 -o {option} {name}")))
    }

    fn snapshot(&mut self) -> Command {
        let what = self.pick(&[
            "-c s1", "-c s1", "-c s2", "-c s2", "-a s1", "-d s1", "-l", "-a 1", "-d 2", "-a s2", "-l -U",
        ]);
        Command::img("snapshot", words(&format!("{what} {}", self.made())))
    }

    fn bitmap(&mut self) -> Command {
        let what = self.pick(&[
            "--add",
            "--add",
            "--add",
            "--add -g 4k",
            "--add -g 512",
            "--add -g 1M",
            "--remove",
            "--clear",
            "--disable",
            "--enable",
            "--add --disable",
            "--merge b2",
            "--merge b1",
            "--add --merge b1",
            "--merge b1 --disable",
        ]);
        let source = if self.once_in(10) && what.contains("--merge") {
            let other = self.made();
            format!("-b {other} -F qcow2")
        } else {
            String::new()
        };
        let line = format!("{what} {source} -f qcow2 {} {}", self.made(), self.pick(&["b1", "b2"]));
        Command::img("bitmap", words(&line))
    }

    fn measure(&mut self) -> Command {
        let target = self.image();
        let shape = self.shape(target);
        let line = format!("{} -O {} {shape}", self.pick(&["", "--output=json"]), format(target));
        if self.once_in(5) {
            return Command::img("measure", words(&format!("{line} --size {}", self.size())));
        }
        let more = self.pick(&["", "", "", "-l s1", "-l s2"]);
        self.look("measure", words(&format!("{line} {more}")))
    }

    fn compare(&mut self) -> Command {
        let (one, two) = (self.image(), self.image());
        let line = format!(
            "{} -f {} -F {} {one} {two}",
            self.pick(&["", "", "", "-s", "-p", "-T none"]),
            format(one),
            format(two)
        );
        Command::img("compare", words(&line))
    }

    fn dd(&mut self) -> Command {
        let (source, target) = (self.image(), self.image());
        let block = self.pick(&["512", "4096", "1000", "64k", "1M"]);
        let count = if self.once_in(3) { format!("count={}", self.0.below(300)) } else { String::new() };
        let skip = if self.once_in(3) { format!("skip={}", self.0.below(300)) } else { String::new() };
        let line = format!(
            "-f {} -O {} bs={block} if={source} of={target} {count} {skip}",
            format(source),
            format(target)
        );
        Command::img("dd", words(&line))
    }
}
