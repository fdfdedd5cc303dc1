//! The story of `cargo xtask demo`, played with the program that the tests have built.

#[path = "../../../../xtask/src/demo/flow.rs"]
mod flow;

use crate::common::Scratch;
use crate::common::serve::drystone;

#[test]
fn the_demo_ends_well() {
    let scratch = Scratch::new("demo");
    let mut told = Vec::new();
    let demo = flow::Demo { drystone: &drystone(), dir: scratch.path(), len_bytes: 64 << 20 };
    demo.play(&mut |line| told.push(line.to_owned()))
        .unwrap_or_else(|text| panic!("{text}\n{}", told.join("\n")));
    let told = told.join("\n");
    assert!(told.contains("nbd+unix:///?socket=") && told.contains("not a byte is lost"), "{told}");
    assert!(flow::next_steps(&drystone()).contains("serve disk.qcow2"));
}
