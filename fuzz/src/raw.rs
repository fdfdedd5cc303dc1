//! A window on a file: nothing outside of it is touched, whatever its numbers are.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::Kind;
use drystone_core::control::{NewNode, Opening, Task};
use drystone_core::graph::node::ChildKey;
use drystone_format::raw::{Raw, RawOptions};
use drystone_testkit::disk::Image;
use drystone_testkit::graph::{SimDriver, SimGraph, insert_with_user};
use drystone_testkit::model::ByteModel;

use crate::Target;
use crate::input::Input;
use crate::request::{self, disk, sim};

/// The options of the driver, and requests through it.
pub const WINDOW: Target =
    Target { name: "raw_window", run, seeds, words: &[b"\0\0\0\0\0\0\x02\0"], len_max: 128, mutations: 2000 };

/// The longest file.
const LEN_MAX: u64 = 32 << 10;

fn seeds() -> Vec<Vec<u8>> {
    let seed = |offset: u64, size: u64, len: u16, requests: &[u8]| {
        [&offset.to_be_bytes()[..], &size.to_be_bytes(), &len.to_be_bytes(), requests].concat()
    };
    vec![
        seed(512, 4096, 8192, &[0, 1, 9, 3, 2, 60, 6, 1, 9, 5, 0, 0]),
        seed(0, u64::MAX, 1000, &[0, 0, 255, 4, 1, 2, 6, 0, 255]),
        seed(100, u64::MAX, 5000, &[130, 5, 80, 7, 0, 200]),
    ]
}

/// `[offset, size, length of the file] script`
fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (offset_host, size, len_file) = (input.u64(), input.u64(), u64::from(input.u16()) % LEN_MAX);
    let options = RawOptions { offset_host, len_bytes: Some(size).filter(|size| *size != u64::MAX) };
    // Any length a file may claim to have.
    for claimed in [len_file, u64::MAX, i64::MAX as u64, size ^ offset_host] {
        if let Ok(len) = options.len_in(claimed) {
            assert!(
                len.is_multiple_of(512) && len <= claimed.saturating_sub(offset_host).saturating_add(511)
            );
        }
    }
    let mut image = Image::new(len_file);
    image.write(0, &vec![0xee; usize::try_from(len_file).unwrap()]);
    used(&image, options, input.rest());
}

fn used(image: &Image, options: RawOptions, script: &[u8]) {
    let (sim, disk) = (sim(), disk(image));
    let graph = SimGraph::start(&sim);
    let file = disk.clone();
    let opened = graph.call(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let file = opening.add(NewNode { owned: false, ..SimDriver::node("file", &file) })?;
        let (driver, facts) = Raw::open(opening.visit(file).await?.io(), options)?;
        let node = opening.add(NewNode {
            name: Some("window".to_owned()),
            driver: Box::new(driver),
            facts,
            children: vec![(ChildKey::File, options.file_role(), file)],
            owned: false,
            force_share: false,
        })?;
        insert_with_user(task, opening, node, "guest".to_owned()).await
    });
    let len = options.len_in(image.len());
    assert_eq!(opened.is_ok(), len.is_ok());
    let (Ok(user), Ok(len)) = (opened, len) else { return };
    let (start, inside) = (options.offset_host, len.min(image.len() - options.offset_host));
    let mut contents = Image::new(len);
    contents.write(0, &image.bytes(start..start + inside));
    let model = Rc::new(RefCell::new(ByteModel::of(&contents)));
    let errors = request::run(&sim, &user, len, script, Some(&model));
    assert!(errors.iter().all(|error| error.kind() != Kind::Corrupt), "{errors:?}");
    let after = disk.image();
    assert_eq!(after.bytes(0..start), image.bytes(0..start), "bytes in front of the window");
    let end = (start + len).min(image.len());
    assert_eq!(after.bytes(end..image.len()), image.bytes(end..image.len()), "bytes behind the window");
    assert!(
        options.len_bytes.is_none() || after.len() == image.len(),
        "a window with a length grows its file"
    );
}
