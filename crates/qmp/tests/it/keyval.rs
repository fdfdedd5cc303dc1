//! Dotted keys of the command line, against what the C daemon was seen to make of them.

use drystone_qmp::keyval;
use drystone_qmp::schema::types::blockdev::{
    BlockdevDriverOptions, BlockdevOptions, BlockdevRef, Qcow2OverlapCheckMode, Qcow2OverlapChecks,
};
use drystone_qmp::schema::types::export::{BlockExportOptions, NbdServerOptions};
use drystone_qmp::schema::types::monitor::{ChardevBackend, ChardevOptions, MonitorOptions};
use drystone_qmp::schema::types::object::{ObjectOptions, ObjectOptionsData};
use drystone_qmp::schema::types::socket::SocketAddressData;
use drystone_qmp::schema::visit::NESTING_MAX;
use drystone_qmp::{QmpError, Value};
use proptest::prelude::*;

use crate::golden::{ACCEPTED, agrees};
use crate::script::Script;

fn blockdev(text: &str) -> Result<BlockdevOptions, QmpError> {
    keyval::parse(text, Some("driver"))
}

/// The error of `--blockdev`.
fn refusal(text: &str) -> String {
    blockdev(text).unwrap_err().desc
}

#[test]
fn nested_keys_make_nested_nodes() {
    let options =
        blockdev("driver=qcow2,node-name=top,file.driver=file,file.filename=a,,b=c,overlap-check=all")
            .unwrap();
    assert_eq!(options.node_name.as_deref(), Some("top"));
    let BlockdevDriverOptions::Qcow2(qcow2) = options.driver else { panic!() };
    assert_eq!(qcow2.overlap_check, Some(Qcow2OverlapChecks::Mode(Qcow2OverlapCheckMode::All)));
    let BlockdevRef::Definition(file) = qcow2.file else { panic!() };
    let BlockdevDriverOptions::File(file) = file.driver else { panic!() };
    assert_eq!(file.filename, "a,b=c");
}

#[test]
fn scalars_are_read_by_their_type() {
    let options = blockdev("null-co,size=0x10,latency-ns=010,read-zeroes=yes,read-only=off").unwrap();
    assert_eq!(options.read_only, Some(false));
    let BlockdevDriverOptions::NullCo(null) = options.driver else { panic!() };
    assert_eq!((null.size, null.latency_ns, null.read_zeroes), (Some(16), Some(8), Some(true)));
}

#[test]
fn the_last_of_a_repeated_key_counts() {
    let options = blockdev("driver=null-co,driver=null-aio,node-name=a,node-name=b").unwrap();
    assert_eq!(options.node_name.as_deref(), Some("b"));
    assert!(matches!(options.driver, BlockdevDriverOptions::NullAio(_)));
}

#[test]
fn a_brace_begins_json_where_types_are_strict() {
    assert!(blockdev("{'driver':'null-co','size':16}").is_ok());
    assert_eq!(
        refusal("{'driver':'null-co','size':'16'}"),
        "Invalid parameter type for 'size', expected: integer"
    );
    assert_eq!(refusal("{"), "JSON parse error, premature EOI");
    assert_eq!(refusal("{} {}"), "Expecting at most one JSON value");
}

#[test]
fn mistakes_are_named_as_in_the_c_daemon() {
    let script = Script::parse(include_str!("golden/keyval.txt"));
    let mut differences = String::new();
    for case in &script.cases {
        let text = std::str::from_utf8(&case.input).unwrap();
        let actual = blockdev(text).err().map_or_else(|| ACCEPTED.to_owned(), |error| error.desc);
        if !agrees(&case.expected(), std::slice::from_ref(&actual)) {
            differences += &format!("{text}\n  expected {:?}\n  actual {actual}\n", case.expected());
        }
    }
    assert!(differences.is_empty(), "{differences}");
    assert_eq!(refusal(""), "Parameter 'driver' is missing");
}

#[test]
fn nesting_is_bounded() {
    let deep = |levels: usize| format!("driver=null-co,{}=1", vec!["a"; levels].join("."));
    assert_eq!(refusal(&deep(NESTING_MAX)), "Parameter 'a' is unexpected");
    assert!(refusal(&deep(NESTING_MAX + 1)).starts_with("Invalid parameter 'a.a"));
}

#[test]
fn every_option_of_the_daemon_has_a_type() {
    let server: NbdServerOptions =
        keyval::parse("addr.type=inet,addr.host=::,addr.port=10809,max-connections=0", None).unwrap();
    assert!(matches!(server.addr.r#type, SocketAddressData::Inet(inet) if inet.port == "10809"));
    let export: BlockExportOptions = keyval::parse(
        "nbd,id=e,node-name=n,writable=on,bitmaps.0=a,bitmaps.1.node=n,bitmaps.1.name=b",
        Some("type"),
    )
    .unwrap();
    assert_eq!(export.writable, Some(true));
    let object: ObjectOptions = keyval::parse("iothread,id=io0,poll-max-ns=0", Some("qom-type")).unwrap();
    let ObjectOptionsData::Iothread(iothread) = object.qom_type;
    assert_eq!(iothread.poll_max_ns, Some(0));
    let monitor: MonitorOptions = keyval::parse("m,mode=control,pretty=on", Some("chardev")).unwrap();
    assert_eq!((monitor.chardev.as_str(), monitor.pretty), ("m", Some(true)));
}

/// The address and flags of a `--chardev socket`.
fn socket(text: &str) -> Result<(SocketAddressData, Option<bool>, Option<bool>), QmpError> {
    let chardev: ChardevOptions = keyval::parse_flags(text, Some("backend"))?;
    let ChardevBackend::Socket(socket) = chardev.backend else { panic!() };
    Ok((socket.address()?.r#type, socket.server, socket.wait))
}

#[test]
fn channels_have_flags() {
    let expected = socket("socket,id=m,path=/a,,b,server=on,wait=off").unwrap();
    assert!(matches!(&expected.0, SocketAddressData::Unix(unix) if unix.path == "/a,b"));
    assert_eq!((expected.1, expected.2), (Some(true), Some(false)));
    assert_eq!(socket("socket,id=m,path=/a,,b,server,nowait").unwrap(), expected);
    assert!(matches!(socket("socket,id=m,host=h,port=1").unwrap().0, SocketAddressData::Inet(_)));
    assert!(matches!(socket("socket,id=m,fd=3").unwrap().0, SocketAddressData::Fd(_)));
    for wrong in
        ["socket,id=m", "socket,id=m,host=h", "socket,id=m,path=p,host=h,port=1", "socket,path=p", "zz,id=m"]
    {
        assert!(socket(wrong).is_err(), "{wrong}");
    }
    let stdio: ChardevOptions = keyval::parse_flags("stdio,id=m,signal=off", Some("backend")).unwrap();
    assert!(matches!(stdio.backend, ChardevBackend::Stdio(stdio) if stdio.signal == Some(false)));
}

#[test]
fn help_is_asked_for_by_a_word_of_its_own() {
    assert!(keyval::asks_for_help("help"));
    assert!(keyval::asks_for_help("iothread,help"));
    assert!(!keyval::asks_for_help("iothread,id=help"));
}

/// A tree of strings, as dotted keys.
fn dotted(value: &Value, prefix: &str, out: &mut Vec<String>) {
    let key = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| dotted(value, &key(name), out)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| dotted(value, &key(&index.to_string()), out));
        }
        Value::String(text) => out.push(format!("{prefix}={}", text.replace(',', ",,"))),
        other => panic!("{other}"),
    }
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = "[ -~]{0,6}".prop_map(Value::String);
    let inner = leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Value::Array),
            prop::collection::btree_map("[a-z][a-z0-9_-]{0,3}", inner, 1..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    prop::collection::btree_map("[a-z][a-z-]{0,3}", inner, 0..4)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
}

proptest! {
    #[test]
    fn what_is_written_as_dotted_keys_is_read_back(tree in tree()) {
        let mut pairs = Vec::new();
        dotted(&tree, "", &mut pairs);
        prop_assert_eq!(keyval::parse_value(&pairs.join(","), None), Ok(tree));
    }

    #[test]
    fn no_text_is_too_strange(text in "[a-z0-9.,={}\"' _-]{0,60}") {
        drop(blockdev(&text));
    }
}
