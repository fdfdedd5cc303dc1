//! Scripts as text.

use std::path::Path;

use drystone_sim::script::Script;
use drystone_sim::{Options, draw, run_script};

#[test]
fn what_is_printed_parses_to_the_same_script() {
    for seed in 0..500 {
        let script = draw(seed, &Options::default());
        let text = script.to_string();
        assert_eq!(text.parse().as_ref(), Ok(&script), "{text}");
    }
}

#[test]
fn notes_are_passed_over() {
    let script: Script = "# why\nrun seed 3 threads 2\nimage raw len 4K\ndisk 0\n\nactor disk 0 thread 1\n  # first\n  flush\n"
        .parse()
        .unwrap();
    assert_eq!((script.seed, script.step_count()), (3, 1));
}

#[test]
fn a_text_that_is_no_script_is_refused_with_its_line() {
    const HEAD: &str = "run seed 3 threads 2\nimage raw len 4K\n";
    for (rest, fault) in [
        ("image raw len four", "line 3: 'four' is not a number of bytes"),
        (
            "image qcow2 cluster 4K refcount 16 len 4K on 1\ndisk 1",
            "line 0: image 1 cannot have that image behind it",
        ),
        ("disk 1", "line 0: image 1 cannot be a disk"),
        ("disk 0\nactor disk 0 thread 3", "line 0: there is no disk 0 or thread 3"),
        ("disk 0\nactor disk 0 thread 1\n  jump", "line 5: nobody knows how to 'jump'"),
        ("disk 0\nactor disk 0 thread 1\n  flush twice", "line 5: 'twice' is one word too many"),
        ("disk 0\nactor disk 0 thread 1\n  write 4K", "line 5: '4K' is not a range"),
        ("planet 0", "line 3: line 'planet' is unknown"),
    ] {
        let refused = format!("{HEAD}{rest}").parse::<Script>().unwrap_err();
        assert_eq!(refused.to_string(), fault);
    }
}

/// What failed once, as short as it could be made.
#[test]
fn scripts_that_found_something_find_nothing_any_more() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let script: Script = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        for seed in script.seed..script.seed + 40 {
            let script = Script { seed, ..script.clone() };
            run_script(&script).unwrap_or_else(|failure| panic!("{}: {failure}", path.display()));
        }
        count += 1;
    }
    assert!(count >= 2, "{count} scripts");
}
