//! What says which image is meant, and what a file is: names, first bytes, LUKS headers.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use drystone_base::Kind;
use drystone_blockdev::formats::{Formats, parse_rules};
use drystone_blockdev::name::{Name, parse, resolve};
use drystone_blockdev::options::Options;
use drystone_filter::blkdebug::config::{Section, parse_sections};
use drystone_format::luks;
use drystone_nbd::Uri;
use drystone_qmp::wire::{Decoder, Limits};

use crate::Target;

/// The format of a file by its first bytes.
pub const PROBE: Target = Target {
    name: "probe",
    run: probe,
    seeds: || MAGICS.iter().map(|magic| [*magic, &[0, 0, 0, 3], &[0; 508]].concat()).collect(),
    words: MAGICS,
    len_max: 2048,
    mutations: 20_000,
};

/// The name of an image, as a header or a user writes it.
pub const NAME: Target = Target {
    name: "name",
    run: name,
    seeds: || NAMES.iter().map(|name| name.as_bytes().to_vec()).collect(),
    words: &[
        b"json:",
        b"file:",
        b"\"driver\"",
        b"\"file.filename\"",
        b"\"backing\"",
        b"null",
        b"/",
        b".",
        b"nbd://",
        b"{}",
        b"blkdebug:",
        b"blkverify:",
    ],
    len_max: 4096,
    mutations: 20_000,
};

/// The rules of `blkdebug`, as its file has them.
pub const RULES: Target = Target {
    name: "blkdebug_rules",
    run: rules,
    seeds: || RULE_FILES.iter().map(|text| text.as_bytes().to_vec()).collect(),
    words: &[
        b"[inject-error]\n",
        b"[set-state]\n",
        b"event = \"",
        b"\"\n",
        b"errno = \"5\"\n",
        b"sector = \"-1\"\n",
        b"once = \"on\"\n",
        b"new_state = \"2\"\n",
        b"iotype = \"write-zeroes\"\n",
        b"l2_update",
    ],
    len_max: 2048,
    mutations: 10_000,
};

const RULE_FILES: &[&str] = &[
    "# rules\n[inject-error]\nevent = \"read_aio\"\nerrno = \"28\"\nonce = \"on\"\nimmediately = \"off\"\n",
    "[set-state]\nevent = \"l2_update\"\nstate = \"1\"\nnew_state = \"2\"\n\n[inject-error]\nevent=\"none\"\nsector=\"-1\"\n",
    "[inject-error]\nevent = \"pwritev\"\niotype = \"write\"\nsector = \"10\"\nstate = \"2\"\n",
];

/// The header of an encrypted volume.
pub const LUKS: Target = Target {
    name: "luks",
    run: luks,
    seeds: || {
        let mut bytes = b"LUKS\xba\xbe\0\x01aes".to_vec();
        bytes.resize(luks::HEADER_BYTES, 0);
        bytes[40..51].copy_from_slice(b"xts-plain64");
        bytes[72..78].copy_from_slice(b"sha256");
        bytes[104..112].copy_from_slice(&[0, 0, 16, 0, 0, 0, 0, 64]);
        vec![bytes]
    },
    words: &[b"LUKS\xba\xbe\0\x01", b"xts-essiv:sha256"],
    len_max: 1024,
    mutations: 20_000,
};

/// How files of formats begin that are not `raw`, whatever follows.
const MAGICS: &[&[u8]] = &[
    b"QFI\xfb",
    b"LUKS\xba\xbe",
    b"QED\0",
    b"KDMV",
    b"COWD",
    b"vhdxfile",
    b"conectix",
    b"# Disk DescriptorFile\n",
];

/// Magic numbers behind which nothing else can be meant.
const SURE: &[&[u8]] =
    &[b"QFI\xfb\0\0\0\x02", b"QFI\xfb\0\0\0\x03", b"LUKS\xba\xbe\0\x01", b"QED\0", b"vhdxfile"];

const NAMES: &[&str] = &[
    "disk.qcow2",
    "/a/b/../c",
    "file:/x:y",
    "host_device:/dev/sda",
    "nbd+unix:///e?socket=s",
    "blkdebug:rules:blkverify:/raw:disk.qcow2",
    "blkdebug::nbd://host/e",
    r#"blkverify:raw:json:{"driver": "null-co"}"#,
    "nbd://[fe80::1]:10809/export/%c3%a4",
    r#"json:{"driver": "qcow2", "file": {"driver": "file", "filename": "x"}, "backing": null}"#,
    r#"json:{"driver": "raw", "file.driver": "file", "file.filename": "x", "offset": "1M", "size": 512}"#,
];

/// Sections are the same when they are written again; rules are made of them, or the option is named that is wrong.
fn rules(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let rules = parse_rules(text);
    let Ok(sections) = parse_sections(text) else {
        assert!(rules.is_err());
        return;
    };
    let line = |(key, value): &(String, String)| format!("{key} = \"{value}\"\n");
    let section =
        |one: &Section| format!("[{}]\n{}", one.name, one.options.iter().map(line).collect::<String>());
    let written: String = sections.iter().map(section).collect();
    // A key may begin as another line does.
    let is_plain = |one: &Section| one.options.iter().all(|(key, _)| !key.starts_with(['#', '[']));
    if sections.iter().all(is_plain) {
        assert_eq!(parse_sections(&written).as_ref().ok(), Some(&sections), "{written}");
    }
    match rules {
        Ok(rules) => assert_eq!(rules.len(), sections.len()),
        Err(error) => assert_eq!(error.kind(), Kind::InvalidInput, "{}", error.report()),
    }
}

fn probe(bytes: &[u8]) {
    let formats = Formats::builtin();
    match formats.probe(bytes) {
        Ok(format) => {
            let is_sure = SURE.iter().any(|magic| bytes.starts_with(magic));
            assert!(!is_sure || format.name() != "raw", "a known format is taken for raw");
            assert!(formats.find(format.name()).is_ok());
        }
        Err(error) => assert_eq!(error.kind(), Kind::Unsupported),
    }
}

fn name(bytes: &[u8]) {
    let name = OsStr::from_bytes(bytes);
    let has_protocol = bytes.iter().find(|byte| matches!(byte, b':' | b'/')) == Some(&b':');
    if let Ok(path) = resolve(name, Some(Path::new("/folder"))) {
        assert!(has_protocol || path.is_absolute());
    }
    assert!(resolve(name, None).is_err() || has_protocol || bytes.starts_with(b"/"));
    if let Ok(uri) = String::from_utf8_lossy(bytes).parse::<Uri>() {
        assert_eq!(uri.to_string().parse(), Ok(uri), "a URI that is written is another");
    }
    match parse(name) {
        Err(error) => assert!(matches!(error.kind(), Kind::InvalidInput | Kind::Unsupported)),
        Ok(Name::Path { path, driver }) => {
            assert!(!path.as_os_str().is_empty());
            assert_eq!(driver.is_some(), has_protocol, "a protocol is taken for a path, or a path for one");
        }
        Ok(Name::Options(options)) => understood(&bytes[b"json:".len()..], options),
        Ok(Name::Node(options)) => {
            let again = Options::from_json(&options.to_string());
            assert_eq!(again.as_ref().ok(), Some(&options), "options of a node that are written are others");
        }
    }
}

/// Options are the same after another way round, and no stricter reader sees two meanings in them.
fn understood(text: &[u8], mut options: Options) {
    let again = Options::from_json(&options.to_string());
    assert_eq!(again.as_ref().ok(), Some(&options), "options that are written are others");
    let closed = [text, b" "].concat();
    let read = Decoder::new(Limits::DEFAULT).next(&mut &closed[..]);
    if let Some(Err(error)) = read {
        assert!(!error.desc.contains("duplicate key"), "an option that is said twice: {}", error.desc);
    }
    let _ = (
        options.flat(),
        options.take_text("driver"),
        options.take_child("file"),
        options.take_child("backing"),
    );
    let _ = (options.take_number("size"), options.take_number("offset"), options.take_switch("read-only"));
    let left = options.to_string() != "{}";
    assert_eq!(options.finish("raw").is_err(), left, "an option that nobody takes is not noticed");
}

fn luks(bytes: &[u8]) {
    let Ok(header) = luks::Header::parse(bytes) else { return };
    assert!(bytes.len() >= luks::HEADER_BYTES);
    assert!(header.cipher_key_bits() / 8 <= header.key_bytes);
    assert!(header.cipher_mode.starts_with(header.chaining()));
    assert!(header.initial_values().0.chars().count() <= 32);
    assert!(header.cipher_name.chars().count() <= 32 && header.uuid.chars().count() <= 40);
}
