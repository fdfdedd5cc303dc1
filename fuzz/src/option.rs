//! What a command line says: options with dotted keys, sizes and numbers.

use drystone_blockdev::options::Options;
use drystone_qmp::Value;
use drystone_qmp::keyval;
use drystone_qmp::schema::types::blockdev::BlockdevOptions;
use drystone_qmp::schema::{Notation, parse, to_value};

use crate::Target;

/// The comma lists of the image tools.
#[path = "../../crates/cli/src/args/list.rs"]
mod list;
/// The numbers of the image tools.
#[path = "../../crates/cli/src/args/number.rs"]
mod number;

/// `driver=qcow2,file.driver=file,…`
pub const KEYVAL: Target = Target {
    name: "keyval",
    run: key_values,
    seeds: || KEYVALS.iter().map(|text| text.as_bytes().to_vec()).collect(),
    words: &[
        b"driver=",
        b",,",
        b".0=",
        b"=",
        b",",
        b".",
        b"file.",
        b"backing.",
        b"on",
        b"off",
        b"qcow2",
        b"null",
    ],
    len_max: 1024,
    mutations: 20_000,
};

/// Sizes, numbers and switches.
pub const NUMBER: Target = Target {
    name: "number",
    run: numbers,
    seeds: || NUMBERS.iter().map(|text| text.as_bytes().to_vec()).collect(),
    words: &[
        b"0x",
        b".",
        b"k",
        b"M",
        b"G",
        b"T",
        b"P",
        b"E",
        b"-",
        b"+",
        b"18446744073709551615",
        b"99999999",
    ],
    len_max: 128,
    mutations: 20_000,
};

const KEYVALS: &[&str] = &[
    "driver=qcow2,node-name=disk,file.driver=file,file.filename=a,,b,read-only=on",
    "raw,file=f,offset=0x10,size=010",
    "a.0=x,a.1=y,a.2.b=z",
    r#"{"driver": "null-co", "size": 512}"#,
    "driver=qcow2,file.driver=null-co,file.size=1,backing.driver=null-co,backing.node-name=b",
];

const NUMBERS: &[&str] =
    &["0", "1.5G", ".5k", "0x200", " +8M", "020", "16", "-1", "7.9E", "18446744073709551615", "on"];

fn key_values(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = keyval::asks_for_help(text);
    entries(text);
    for implied in [None, Some("driver")] {
        if let Ok(value) = keyval::parse_value(text, implied) {
            let mut written = String::new();
            if write(&value, "", &mut written) {
                assert_eq!(keyval::parse_value(&written, None).as_ref(), Ok(&value), "{written:?}");
            }
        }
        if let Ok(options) = keyval::parse::<BlockdevOptions>(text, implied) {
            let json = to_value(&options);
            let again = parse::<BlockdevOptions>(json.clone(), Notation::Json).map(|again| to_value(&again));
            assert_eq!(again.as_ref().ok(), Some(&json), "options of a node are not read back");
        }
        let _ = keyval::parse_flags::<BlockdevOptions>(text, implied);
    }
}

/// A list of the image tools, written again, and joined with itself.
fn entries(text: &str) {
    let entries = list::split(text);
    let write = |(key, value): &list::Entry| match value {
        None => key.clone(),
        Some(value) => format!("{key}={}", list::escape(value)),
    };
    if entries.iter().all(|(key, _)| !key.is_empty()) {
        let written: Vec<String> = entries.iter().map(write).collect();
        assert_eq!(list::split(&written.join(",")), entries, "{written:?}");
    }
    // Behind a key without a value, two commas are not one of the value; the C tool joins such lists, too.
    let ends_in_value = entries.last().is_some_and(|(_, value)| value.is_some());
    if list::is_joinable(text) && (ends_in_value || !text.ends_with(',')) {
        let joined = list::split(&format!("{text},{text}"));
        assert_eq!(joined, [&entries[..], &entries].concat(), "two lists are not one behind the other");
    }
    assert!(!list::asks_for_help(text) || text.contains("help") || text.contains('?'));
}

/// Writes options as a command line has them; false for what it cannot say: empty objects and lists.
fn write(value: &Value, key: &str, out: &mut String) -> bool {
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match value {
        Value::String(text) => {
            let comma = if out.is_empty() { "" } else { "," };
            out.push_str(&format!("{comma}{key}={}", text.replace(',', ",,")));
            true
        }
        Value::Object(members) if !members.is_empty() => {
            members.iter().all(|(name, value)| write(value, &below(name), out))
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().all(|(index, value)| write(value, &below(&index.to_string()), out))
        }
        _ => false,
    }
}

fn numbers(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let size = number::parse_size(text);
    if let Ok(plain) = text.parse::<u64>() {
        assert_eq!(size, Ok(plain), "decimal digits are a size");
    }
    if let Ok(size) = size {
        // Written out, it is the same.
        assert_eq!(number::parse_size(&size.to_string()), Ok(size));
        bounded(text, size);
    }
    let mut options = Options::default();
    options.set("size", text).unwrap();
    if let Ok(Some(ours)) = options.take_number("size") {
        assert_eq!(size, Ok(ours), "the image tools and `json:` names differ");
    }
    let number = number::parse_number(text);
    if let Ok(ours) = parse::<u64>(Value::from(text), Notation::Keyval) {
        assert_eq!(number, Ok(ours), "the image tools and the daemon differ");
    }
    let switch = parse::<bool>(Value::from(text), Notation::Keyval);
    assert_eq!(number::parse_switch(text), switch.ok());
}

/// A size is between its whole part and one more of its unit.
fn bounded(text: &str, size: u64) {
    let Some(start) = text.find(|c: char| c.is_ascii_digit() || c == '.') else { return };
    let text = &text[start..];
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'X') | None => return,
        Some(last) => {
            b"BKMGTPE".iter().position(|known| *known == last).map_or(1, |power| 1_u128 << (10 * power))
        }
    };
    let is_decimal = text.bytes().rev().skip(1).all(|byte| byte.is_ascii_digit() || byte == b'.');
    let (Ok(whole), true) = (if end == 0 { Ok(0) } else { text[..end].parse::<u128>() }, is_decimal) else {
        return;
    };
    assert!(whole * unit <= u128::from(size) && u128::from(size) <= (whole + 1) * unit, "{text:?} is {size}");
}
