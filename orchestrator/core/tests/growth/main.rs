//! Nothing grows with what waits: counts of allocations and writes, and bytes per live task. Times are the benchmark's.

mod counting;
mod load;

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
/// Ends that are averaged over: enough that a node of a tree that splits now and then does not count.
const ENDS: u64 = 400;

/// Requests for memory and writes of one end and the placement that follows, on average.
fn per_end(load: &mut Load) -> (u64, u64) {
    let mut all = Cost::default();
    for _ in 0..ENDS {
        let cost = load.end_one();
        all.asked += cost.asked;
        all.writes += cost.writes;
    }
    (all.asked / ENDS, all.writes as u64 / ENDS)
}

#[test]
fn one_more_end_costs_the_same_whatever_waits() {
    for shape in SHAPES {
        let few = per_end(&mut Load::new(shape, 2_000));
        let many = per_end(&mut Load::new(shape, 40_000));
        assert!(many.0 <= few.0 + 4, "{shape:?}: {few:?} and {many:?}");
        assert!(many.1 <= few.1 + 1, "{shape:?}: {few:?} and {many:?}");
        assert!(many.1 <= 12, "{shape:?}: {many:?} writes");
    }
}

#[test]
fn a_turn_with_nothing_to_do_writes_nothing_and_costs_the_same_whatever_waits() {
    for shape in SHAPES {
        let (mut few, mut many) = (Load::new(shape, 2_000), Load::new(shape, 40_000));
        // The first one acknowledges what was given.
        let _ = (few.beat(), many.beat());
        let (few, many) = (few.beat(), many.beat());
        assert_eq!((few.asked, 0), (many.asked, many.writes), "{shape:?}");
    }
}

#[test]
fn a_live_task_costs_less_than_a_kibibyte() {
    for shape in SHAPES {
        let load = Load::new(shape, 40_000);
        assert!(
            load.bytes_per_task < 1024.0,
            "{shape:?}: {}",
            load.bytes_per_task
        );
    }
}
