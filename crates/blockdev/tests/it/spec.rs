//! Options as users write them.

use drystone_base::Kind;
use drystone_blockdev::options::Options;
use drystone_blockdev::request::{OpenRequest, Source};
use drystone_blockdev::settings::Settings;

use crate::host::{Folder, json, on_control, open, overlay, read_only};

#[test]
fn options_open_what_they_describe() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.raw("disk", b"0123456789");
        let name = path.display();
        for (text, expected, format) in [
            (
                format!(r#"{{"driver": "raw", "file": {{"driver": "file", "filename": "{name}"}}}}"#),
                b"01",
                "raw",
            ),
            (
                format!(r#"{{"driver": "raw", "offset": "2", "size": 512, "file.filename": "{name}"}}"#),
                b"23",
                "raw",
            ),
            (format!(r#"{{"driver": "file", "filename": "{name}", "locking": "off"}}"#), b"01", "file"),
            (format!(r#"{{"file.filename": "{name}", "read-only": true}}"#), b"01", "raw"),
            (r#"{"driver": "raw", "file": {"driver": "null-co", "size": "1k"}}"#.to_owned(), b"\0\0", "raw"),
            (r#"{"driver": "null-aio", "size": 512, "read-zeroes": "on"}"#.to_owned(), b"\0\0", "null-aio"),
            (r#"{"driver": "memory", "size": 512}"#.to_owned(), b"\0\0", "memory"),
        ] {
            let image = open(task, &json(&text)).await.unwrap();
            assert_eq!(image.read(task, 0, 2).await, expected, "{text}");
            assert_eq!(image.formats(), [format]);
            image.close(task).await;
        }
    });
}

#[test]
fn options_that_are_wrong_are_named() {
    on_control(async |task| {
        let folder = Folder::new();
        let name = folder.raw("disk", b"").display().to_string();
        for (text, option) in [
            (format!(r#"{{"driver": "raw", "bogus": 1, "file.filename": "{name}"}}"#), "bogus"),
            (format!(r#"{{"driver": "raw", "file": {{"filename": "{name}", "bogus": 1}}}}"#), "bogus"),
            (format!(r#"{{"driver": "raw", "offset": "x", "file.filename": "{name}"}}"#), "offset"),
            (format!(r#"{{"driver": "file", "filename": "{name}", "aio": "fast"}}"#), "aio"),
            (format!(r#"{{"driver": "file", "filename": "{name}", "aio": "native"}}"#), "aio"),
            (format!(r#"{{"driver": "file", "filename": "{name}", "cache": {{"bogus": 1}}}}"#), "bogus"),
            (format!(r#"{{"driver": "file", "filename": "{name}", "discard": "maybe"}}"#), "discard"),
            (format!(r#"{{"driver": "file", "filename": "{name}", "force-share": true}}"#), "force-share"),
            (
                format!(r#"{{"driver": "raw", "file.filename": "{name}", "backing": null, "size": 1}}"#),
                "size",
            ),
            (
                format!(
                    r#"{{"driver": "raw", "file.filename": "{name}", "backing": {{"driver": "memory"}}}}"#
                ),
                "backing",
            ),
            (r#"{"driver": "file"}"#.to_owned(), "filename"),
            (r#"{"driver": "null-co", "size": 18446744073709551615}"#.to_owned(), "size"),
        ] {
            let error = open(task, &json(&text)).await.unwrap_err();
            assert_eq!((error.kind(), error.option()), (Kind::InvalidInput, Some(option)), "{text}");
        }
    });
}

#[test]
fn children_take_over_what_they_are_not_told() {
    on_control(async |task| {
        let folder = Folder::new();
        folder.raw("base", b"");
        overlay(task, &folder.path("top"), Some(("base", "raw"))).await;
        let settings = Settings { cache_direct: true, ..Settings::default() };
        let request = OpenRequest { settings, ..crate::host::request(folder.path("top")) };
        let image = match open(task, &request).await {
            Err(error) if error.kind() == Kind::Unsupported => return eprintln!("{}", error.report()),
            image => image.unwrap(),
        };
        let files: Vec<u32> = image
            .layers
            .iter()
            .map(|layer| task.gs().with(|graph| graph.node_handle(layer.file.unwrap()).unwrap()))
            .map(|node| node.request_alignment())
            .collect();
        assert!(files.iter().all(|align| *align >= 512), "{files:?}");
        image.write(task, 7, b"odd").await.unwrap();
        assert_eq!(image.read(task, 6, 5).await, b"\0odd\0");
    });
}

#[test]
fn nodes_have_the_names_that_users_give_them() {
    on_control(async |task| {
        let folder = Folder::new();
        let path = folder.raw("disk", b"data").display().to_string();
        let text = format!(
            r#"{{"driver": "raw", "node-name": "top", "file": {{"driver": "file", "node-name": "bottom", "filename": "{path}"}}}}"#
        );
        let request = OpenRequest {
            owned: true,
            ..OpenRequest::of(Source::Options(Options::from_json(&text).unwrap()))
        };
        let image = open(task, &request).await.unwrap();
        let (top, bottom) = (task.gs().find("top").unwrap(), task.gs().find("bottom").unwrap());
        assert_eq!((image.top, image.layers[0].file), (top, Some(bottom)));
        image.close(task).await;
        assert!(task.gs().find("top").is_ok(), "an owned node stays");

        let window = r#"{"driver": "raw", "size": 512, "file": "bottom"}"#;
        let image = open(task, &json(window)).await.unwrap();
        assert_eq!(image.read(task, 0, 4).await, b"data");
        let said = OpenRequest {
            format: Some("raw".into()),
            ..OpenRequest::of(Source::Options(
                Options::from_json(r#"{"file": "bottom", "size": 512}"#).unwrap(),
            ))
        };
        assert!(!open(task, &said).await.unwrap().layers[0].is_probed);
        let missing = open(task, &json(r#"{"driver": "raw", "file": "nowhere"}"#)).await.unwrap_err();
        assert_eq!((missing.kind(), missing.node()), (Kind::NotFound, Some("nowhere")));
        let taken = OpenRequest { node_name: Some("top".into()), ..read_only(path) };
        assert_eq!(open(task, &taken).await.unwrap_err().kind(), Kind::AlreadyExists);
    });
}
