//! Several monitors, and clients that behave badly: nobody else notices.

use serde_json::{Value, json};

use crate::client::Served;
use crate::common::folder::Folder;
use crate::common::nbd::NbdClient;

fn add(node: &str, format: &str, file: &std::path::Path) -> serde_json::Value {
    json!({ "driver": format, "node-name": node, "file": { "driver": "file", "filename": file } })
}

#[test]
fn a_hundred_monitors_are_served_at_once_and_all_hear_of_events() {
    let folder = Folder::new();
    Served::image(&folder, "raw", "a.raw", 1 << 20);
    let socket = "addr.type=unix,addr.path=$DIR/nbd.sock";
    let served = Served::start_in(folder, 100, &["--nbd-server", socket]);
    let mut clients: Vec<_> = (0..100).map(|number| served.client(number)).collect();
    clients[0].ok("blockdev-add", &add("a", "raw", &served.folder.file("a.raw")));
    for (number, client) in clients.iter_mut().enumerate() {
        let id = format!("e{number}");
        client.ok("block-export-add", &json!({ "type": "nbd", "id": id, "name": id, "node-name": "a" }));
    }
    assert_eq!(clients[7].ok("query-block-exports", &json!({})).as_array().unwrap().len(), 100);
    for (number, client) in clients.iter_mut().enumerate() {
        client.ok("block-export-del", &json!({ "id": format!("e{number}") }));
        let own = client.events.iter().find(|event| event["data"]["id"] == format!("e{number}"));
        assert!(own.is_some(), "the event comes before the reply");
    }
    for client in &mut clients {
        assert_eq!(client.ok("query-block-exports", &json!({})), json!([]));
        assert_eq!(client.events.len(), 100, "everybody hears of everything");
    }
}

#[test]
fn commands_of_one_monitor_are_answered_in_their_order() {
    let folder = Folder::new();
    Served::image(&folder, "qcow2", "a.qcow2", 1 << 20);
    let served = Served::start_in(folder, 1, &[]);
    let mut client = served.client(0);
    let mut text = String::new();
    for number in 0..200 {
        let arguments = add("a", "qcow2", &served.folder.file("a.qcow2"));
        text += &json!({ "execute": "blockdev-add", "arguments": arguments, "id": 2 * number }).to_string();
        let arguments = json!({ "node-name": "a" });
        text +=
            &json!({ "execute": "blockdev-del", "arguments": arguments, "id": 2 * number + 1 }).to_string();
    }
    let mut input = client.input.try_clone().unwrap();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, text.as_bytes()));
    for number in 0..400 {
        assert_eq!(client.reply(), json!({ "return": {}, "id": number }));
    }
    writer.join().unwrap().unwrap();
}

#[test]
fn a_client_that_comes_back_is_greeted_again() {
    let served = Served::start(1, &[]);
    for _ in 0..50 {
        served.client(0).ok("query-block", &json!({}));
    }
    drop(served.greeted(0));
    served.client(0).ok("query-version", &json!({}));
}

#[test]
fn garbage_is_answered_with_errors_and_harms_nobody() {
    let served = Served::start(2, &[]);
    let (mut bad, mut good) = (served.client(0), served.client(1));
    for garbage in ["}", "nonsense\n", "{\"execute\": 1}", "[1,2", "\u{1}\u{2}\n", "\"text\"\n"] {
        bad.send(garbage);
        bad.send("\n");
        good.ok("query-block", &json!({}));
    }
    // Whatever it has said, it can go on after what no JSON allows.
    bad.send("\u{1}\n{\"execute\": \"query-block\", \"id\": \"again\"}");
    while bad.reply().get("id").is_none() {}
    // Half a request, and away.
    bad.send("{\"execute\": \"query-bl");
    drop(bad);
    good.ok("query-block", &json!({}));
    served.client(0).ok("query-block", &json!({}));
}

#[test]
fn a_request_without_an_end_is_refused_before_it_fills_the_memory() {
    let served = Served::start(2, &[]);
    let mut bad = served.client(0);
    let mut good = served.client(1);
    let chunk = "x".repeat(1 << 20);
    bad.send("{\"execute\": \"");
    // More than any request may have. An error comes in between, and what follows is no request either.
    for _ in 0..32 {
        if std::io::Write::write_all(&mut bad.input, chunk.as_bytes()).is_err() {
            break;
        }
    }
    good.ok("query-block", &json!({}));
    assert!(bad.reply().get("error").is_some());
}

#[test]
fn a_client_that_never_reads_stops_itself_and_nobody_else() {
    let folder = Folder::new();
    Served::image(&folder, "raw", "a.raw", 1 << 20);
    let served = Served::start_in(folder, 2, &[]);
    let (mut bad, mut good) = (served.client(0), served.client(1));
    good.ok("blockdev-add", &add("a", "raw", &served.folder.file("a.raw")));
    let request = json!({ "execute": "query-named-block-nodes" }).to_string();
    bad.input.set_nonblocking(true).unwrap();
    // Until the daemon reads no more.
    let mut sent = 0_u64;
    while std::io::Write::write_all(&mut bad.input, request.as_bytes()).is_ok() {
        sent += 1;
        assert!(sent < 1_000_000, "somebody collects requests without an end");
    }
    for _ in 0..20 {
        good.ok("query-named-block-nodes", &json!({}));
    }
    drop(bad);
    served.client(0).ok("query-block", &json!({}));
}

#[test]
fn a_change_goes_on_when_its_client_goes() {
    let folder = Folder::new();
    for number in 0..50 {
        Served::image(&folder, "qcow2", &format!("{number}.qcow2"), 1 << 20);
    }
    let served = Served::start_in(folder, 2, &[]);
    let mut watcher = served.client(1);
    for number in 0..50 {
        let mut client = served.client(0);
        let file = served.folder.file(&format!("{number}.qcow2"));
        let request =
            json!({ "execute": "blockdev-add", "arguments": add(&format!("n{number}"), "qcow2", &file) });
        client.send(&request.to_string());
        drop(client);
        // The next client is served when what the last one began has ended.
    }
    served.client(0).ok("query-block", &json!({}));
    let nodes = watcher.ok("query-named-block-nodes", &json!({ "flat": true }));
    let nodes = nodes.as_array().unwrap();
    for node in nodes.iter().filter(|node| node["drv"] == "qcow2") {
        watcher.ok("blockdev-del", &json!({ "node-name": node["node-name"] }));
    }
    assert_eq!(watcher.ok("query-named-block-nodes", &json!({})), json!([]), "nothing is left half done");
}

#[test]
fn deleting_a_node_has_freed_its_locks_when_it_answers() {
    let folder = Folder::new();
    Served::image(&folder, "qcow2", "a.qcow2", 1 << 20);
    let socket = "addr.type=unix,addr.path=$DIR/nbd.sock";
    let one = Served::start_in(folder, 1, &["--nbd-server", socket]);
    let two = Served::start(1, &[]);
    let (mut first, mut second) = (one.client(0), two.client(0));
    let file = one.folder.file("a.qcow2");
    for _ in 0..20 {
        first.ok("blockdev-add", &add("a", "qcow2", &file));
        first
            .ok("block-export-add", &json!({ "type": "nbd", "id": "e", "node-name": "a", "writable": true }));
        let mut client = NbdClient::open(&one.folder.file("nbd.sock"), "a").unwrap();
        assert_eq!(client.write(0, 65536, 7), 0);
        assert_eq!(client.read(512, 2), Ok(vec![7, 7]));
        assert!(second.refused("blockdev-add", &add("b", "qcow2", &file)).contains("lock"));
        let text = first.refused("blockdev-del", &json!({ "node-name": "a" }));
        assert!(text.contains("NBD export"), "it is said who uses it: {text}");
        first.ok("block-export-del", &json!({ "id": "e", "mode": "hard" }));
        assert!(client.is_cut());
        first.ok("blockdev-del", &json!({ "node-name": "a" }));
        second.ok("blockdev-add", &add("b", "qcow2", &file));
        second.ok("blockdev-del", &json!({ "node-name": "b" }));
    }
}

#[test]
fn a_server_stops_while_clients_are_busy() {
    let folder = Folder::new();
    Served::image(&folder, "qcow2", "a.qcow2", 16 << 20);
    let served = Served::start_in(folder, 1, &["--object", "iothread,id=t0"]);
    let mut client = served.client(0);
    client.ok("blockdev-add", &add("a", "qcow2", &served.folder.file("a.qcow2")));
    for _ in 0..5 {
        let socket = served.folder.file("nbd.sock");
        let address = json!({ "type": "unix", "data": { "path": socket } });
        client.ok("nbd-server-start", &json!({ "addr": address }));
        let export =
            json!({ "type": "nbd", "id": "e", "node-name": "a", "writable": true, "iothread": "t0" });
        client.ok("block-export-add", &export);
        let refused = client.refused("object-del", &json!({ "id": "t0" }));
        assert!(refused.contains("in use"), "{refused}");
        let writers: Vec<_> = (0..4_u64)
            .map(|number| {
                let mut nbd = NbdClient::open(&socket, "a").unwrap();
                std::thread::spawn(move || {
                    let write = |at| {
                        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| nbd.write(at, 4096, 1)))
                    };
                    (0..)
                        .map(|turn| (number << 22) + ((turn % 1024) << 12))
                        .map(write)
                        .take_while(Result::is_ok)
                        .count()
                })
            })
            .collect();
        client.ok("nbd-server-stop", &json!({}));
        client.event("BLOCK_EXPORT_DELETED");
        for writer in writers {
            writer.join().unwrap();
        }
    }
    client.ok("object-del", &json!({ "id": "t0" }));
    client.ok("blockdev-del", &json!({ "node-name": "a" }));
}

#[test]
fn a_job_has_ended_when_the_command_that_ends_it_is_answered() {
    let folder = Folder::new();
    Served::image(&folder, "qcow2", "a.qcow2", 1 << 20);
    let served = Served::start_in(folder, 1, &[]);
    let mut client = served.client(0);
    for verb in ["job-finalize", "block-job-finalize", "job-cancel"].into_iter().cycle().take(30) {
        client.ok("blockdev-add", &add("a", "qcow2", &served.folder.file("a.qcow2")));
        client.ok("block-stream", &json!({ "device": "a", "job-id": "j", "auto-finalize": false }));
        client.event("BLOCK_JOB_PENDING");
        client.ok(verb, &json!({ "id": "j" }));
        assert_eq!(client.ok("query-jobs", &json!({})), json!([]));
        let is_ended =
            |event: &Value| event["event"] == "JOB_STATUS_CHANGE" && event["data"]["status"] == "null";
        assert!(client.events.iter().any(is_ended), "{verb}: {:?}", client.events);
        client.events.clear();
        client.ok("blockdev-del", &json!({ "node-name": "a" }));
    }
}
