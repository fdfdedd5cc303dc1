//! Drystone's tools and the installed C tools, measured side by side.
//!
//! ```text
//!  round 1:  A  B  floor      A      the C tool
//!  round 2:  B  A  floor      B      ours (or the C tool again: `--aa` shows the noise)
//!  round 3:  A  B  floor      floor  a server without a block layer: what the kernel and the client cost anyway
//! ```
//! One figure alone says nothing on a shared machine; the ratio of two neighbours in time does. So every row is the
//! median of the rounds' ratios, with the smallest and the largest of them, and the share of the floor.
//!
//! | module | does |
//! |---|---|
//! | `options` | the command line |
//! | `cases`   | what is measured |
//! | `rounds`  | the order above, medians and ratios |
//! | `server`  | starts and stops NBD servers, reads their processor time and memory |
//! | `daemon`, `qmp` | the same for storage daemons, and their client |
//! | `floor`   | the server without a block layer |
//! | `fio`     | the client |
//! | `image`, `large` | disk images in memory; ones of many TiB |
//! | `process` | children under a time limit |
//! | `report`  | Markdown and JSON |

#![forbid(unsafe_code)]

mod cases;
mod daemon;
mod fio;
mod floor;
mod image;
mod large;
mod options;
mod process;
mod qmp;
mod report;
mod rounds;
mod server;

use std::process::ExitCode;

use options::{Command, Options};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match options::parse(&args) {
        Ok(Command::Help) => {
            print!("{}", options::USAGE);
            Ok(true)
        }
        Ok(Command::List) => {
            cases::ALL.iter().for_each(|case| println!("{:10} {}", case.name, case.about));
            Ok(true)
        }
        Ok(Command::Floor { socket, file }) => floor::serve(&socket, &file).map(|()| true),
        Ok(Command::Run(options)) => run(&options),
        Err(text) => Err(text),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("drystone-bench: {text}");
            ExitCode::from(2)
        }
    }
}

/// Runs the cases; whether none failed. A case that fails does not end the others.
fn run(options: &Options) -> Result<bool, String> {
    let bench = cases::Bench { options };
    let mut report = report::Report::new(options);
    let mut is_good = true;
    for case in cases::ALL.iter().filter(|case| options.wants(case.name)) {
        eprintln!("== {}", case.name);
        match (case.run)(&bench) {
            Ok(rows) => report.add(case, options, rows),
            Err(text) => {
                eprintln!("drystone-bench: {}: {text}", case.name);
                is_good = false;
            }
        }
        report.save(options)?;
    }
    print!("{}", report.markdown());
    Ok(is_good)
}
