//! What the core costs as live tasks grow: time and allocations per end of an attempt and per turn with nothing to do,
//! bytes per live task. Printed, not judged; `cargo bench -p outpost-orchestrator-core`.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints times"
)]

#[path = "../tests/growth/counting.rs"]
mod counting;
#[path = "../tests/growth/load.rs"]
mod load;

use std::time::Instant;

use load::{Cost, Load, Shape};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

const SHAPES: [Shape; 5] = [
    Shape::Wide,
    Shape::Chains,
    Shape::Limited,
    Shape::Apart,
    Shape::Small,
];
const ENDS: u32 = 900;

/// Nanoseconds, requests for memory and writes of one step, on average.
fn measure(steps: u32, mut step: impl FnMut() -> Cost) -> (u128, u64, usize) {
    let mut all = Cost::default();
    let begun = Instant::now();
    for _ in 0..steps {
        let cost = step();
        all.asked += cost.asked;
        all.writes += cost.writes;
    }
    let elapsed = begun.elapsed().as_nanos();
    (
        elapsed / u128::from(steps),
        all.asked / u64::from(steps),
        all.writes / steps as usize,
    )
}

fn main() {
    println!("shape     live tasks   ns/end allocs writes  ns/idle allocs   bytes/task");
    for shape in SHAPES {
        for tasks in [1_000, 10_000, 100_000] {
            let mut load = Load::new(shape, tasks);
            let bytes = load.bytes_per_task;
            let (idle, idle_asked, _) = measure(ENDS, || load.beat());
            let (end, asked, writes) = measure(ENDS, || load.end_one());
            let shape = format!("{shape:?}");
            println!(
                "{shape:<9} {tasks:>10} {end:>8} {asked:>6} {writes:>6} {idle:>8} {idle_asked:>6} {bytes:>12.0}"
            );
        }
    }
}
