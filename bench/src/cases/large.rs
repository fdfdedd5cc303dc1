//! Disks whose tables are larger than the cache for them.
//!
//! ```text
//!  1 GiB     128 KiB of L2 tables      what is looked at once stays
//!  1 TiB     128 MiB                   three of four reads meet a table that is not in memory
//!  10 TiB    1.25 GiB                  nearly every one does
//! ```
//! In each round a side reads from all sizes in turn, depth by depth, so that a share is one of neighbours.

use std::time::Duration;

use super::{Bench, Binding, IOPS, last_cpu, load};
use crate::fio::{self, Target};
use crate::image::Format;
use crate::large::{self, Order};
use crate::rounds::{Row, Side, Unit};
use crate::server::{Server, Setup};

/// Lengths of the disks, in GiB; the others are compared with the first.
const SIZES: [(u64, &str); 3] = [(1, "1 GiB"), (1 << 10, "1 TiB"), (10 << 10, "10 TiB")];
const DEPTHS: [usize; 2] = [1, 16];
/// Until the caches are full.
const FILL: Duration = Duration::from_secs(2);

const MIB: Unit = Unit { name: "MiB", is_rate: false };
const SHARE: Unit = Unit { name: "share", is_rate: true };
const US: Unit = Unit { name: "us", is_rate: false };

pub(super) fn very_large(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for order in [Order::Scattered, Order::InOrder] {
        rows.extend(one_order(bench, order)?);
    }
    Ok(rows)
}

fn one_order(bench: &Bench<'_>, order: Order) -> Result<Vec<Row>, String> {
    let scratch = bench.scratch()?;
    let binding = Binding { cpu: Some(last_cpu()?), threads: 1 };
    let sides: Vec<Side> =
        [Side::C, Side::Ours].into_iter().filter(|side| bench.server(*side).is_some()).collect();
    let mut servers = Vec::new();
    for (len_gib, _) in SIZES {
        let image = scratch.path(&format!("{len_gib}.qcow2"));
        large::write(&image, len_gib, order)?;
        for side in &sides {
            let program = bench.server(*side).ok_or("no server")?;
            let setup = Setup {
                image: &image,
                is_read_only: true,
                format: Format::Qcow2,
                cpu: binding.cpu,
                threads: 1,
            };
            let server = program.serve(&setup, scratch.path(&format!("{side:?}-{len_gib}.sock")))?;
            rate(&server, 16, binding, FILL)?;
            servers.push((*side, server));
        }
    }
    let names = names(order);
    let names: Vec<(&str, Unit)> = names.iter().map(|(name, unit)| (name.as_str(), *unit)).collect();
    let rows = Row::measure_all(&names, &sides, bench.options.rounds, |side| {
        let own: Vec<&Server> =
            servers.iter().filter(|(whose, _)| *whose == side).map(|(_, server)| server).collect();
        one_round(&own, binding, bench.options.time)
    })?;
    rows.iter().for_each(super::progress);
    Ok(rows)
}

/// What [`one_round`] measures.
fn names(order: Order) -> Vec<(String, Unit)> {
    let mut names = Vec::new();
    for depth in DEPTHS {
        let row = |size: &str, what: &str| format!("{}, {size}, depth {depth}: {what}", order.name());
        names.extend(SIZES.map(|(_, size)| (row(size, "randread 4k"), IOPS)));
        names.extend(SIZES.map(|(_, size)| (row(size, "share of 1 GiB's"), SHARE)).into_iter().skip(1));
        names.extend(SIZES.map(|(_, size)| (row(size, "the server's time for a read"), US)));
    }
    names.extend(SIZES.map(|(_, size)| (format!("{}, {size}: memory", order.name()), MIB)));
    names
}

fn one_round(servers: &[&Server], binding: Binding, time: Duration) -> Result<Vec<f64>, String> {
    let mut values = Vec::new();
    for depth in DEPTHS {
        let measured: Vec<(f64, f64)> =
            servers.iter().map(|server| rate(server, depth, binding, time)).collect::<Result<_, _>>()?;
        let (first, _) = measured.first().copied().ok_or("no server")?;
        values.extend(measured.iter().map(|(iops, _)| iops));
        values.extend(measured.iter().skip(1).map(|(iops, _)| iops / first));
        values.extend(measured.iter().map(|(_, cpu_us)| cpu_us));
    }
    for server in servers {
        values.push(server.process.rss_kib()? / 1024.0);
    }
    Ok(values)
}

/// Reads a second, and what each takes of the server's processor time in microseconds.
fn rate(server: &Server, depth: usize, binding: Binding, time: Duration) -> Result<(f64, f64), String> {
    let before = server.process.cpu()?;
    let target = Target::default_export(&server.socket);
    let figures = fio::run(&load("randread", 4, depth), &target, binding.cpu, time)?;
    let spent = server.process.cpu()?.saturating_sub(before);
    Ok((figures.iops, spent.as_secs_f64() * 1e6 / figures.requests))
}
