//! Finds tasks that wait for themselves.

/// Cycles told of one file: each can be as long as the file.
const CYCLES: usize = 10;

/// Every cycle that closes an edge back into the path it was reached by: tasks in order, the first one repeated at the
/// end, and the place of the closing edge as (task, position within its needs). At most [`CYCLES`]; `needs[t]` are the tasks that `t`
/// needs.
pub(super) fn cycles(needs: &[Vec<usize>]) -> Vec<(Vec<usize>, (usize, usize))> {
    let mut found = Vec::new();
    let mut done = vec![false; needs.len()];
    let mut place_on_path: Vec<Option<usize>> = vec![None; needs.len()];
    for start in 0..needs.len() {
        if done[start] {
            continue;
        }
        // Tasks on the path with the next of their needs to look at.
        let mut path = vec![(start, 0)];
        place_on_path[start] = Some(0);
        while let Some((task, next)) = path.last_mut() {
            let (task, position) = (*task, *next);
            let Some(&need) = needs[task].get(position) else {
                path.pop();
                place_on_path[task] = None;
                done[task] = true;
                continue;
            };
            *next += 1;
            if let Some(place) = place_on_path[need] {
                let mut cycle: Vec<usize> = path[place..].iter().map(|(task, _)| *task).collect();
                cycle.push(need);
                found.push((cycle, (task, position)));
                if found.len() >= CYCLES {
                    return found;
                }
            } else if !done[need] {
                place_on_path[need] = Some(path.len());
                path.push((need, 0));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diamond_has_none() {
        assert!(cycles(&[vec![], vec![0], vec![0], vec![1, 2]]).is_empty());
    }

    #[test]
    fn each_is_told_once_from_where_it_is_entered() {
        let found = cycles(&[vec![1], vec![2], vec![0, 1], vec![3]]);
        let paths: Vec<_> = found.iter().map(|(path, _)| path.clone()).collect();
        assert_eq!(paths, [vec![0, 1, 2, 0], vec![1, 2, 1], vec![3, 3]]);
        assert_eq!(found[1].1, (2, 1));
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let needs: Vec<Vec<usize>> = (0..100_000)
            .map(|task| vec![(task + 1) % 100_000])
            .collect();
        assert_eq!(cycles(&needs).len(), 1);
    }
}
