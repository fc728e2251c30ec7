//! The moments at which a strict site begins a connection or tells anything on one: multiples of one span on the clock of
//! the host's boot. No state is needed to find them again, so another connection, and another life of the process, has
//! the same ones. Used by the connector and its sessions; decides nothing else.

use std::time::Duration;

use outpost_driver::Micros;

/// How far the moments are apart; without a span every moment is as good as any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Grid {
    span_us: u64,
}

impl Grid {
    pub(crate) fn of(span: Duration) -> Self {
        let span_us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self { span_us }
    }

    /// The last of its moments that has come by then.
    pub(crate) fn until(self, at: Micros) -> Micros {
        let over = at.0.checked_rem(self.span_us).unwrap_or(0);
        Micros(at.0 - over)
    }

    /// The first one that has not passed by then.
    pub(crate) fn from(self, at: Micros) -> Micros {
        let begun = self.until(at);
        if begun == at {
            at
        } else {
            Micros(begun.0.saturating_add(self.span_us))
        }
    }

    /// The first one behind what happened then: what is late for one moment uses up no other.
    pub(crate) fn behind(self, at: Micros) -> Micros {
        Micros(self.until(at).0.saturating_add(self.span_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_found_again_from_every_side_and_without_a_span_it_is_now() {
        let grid = Grid::of(Duration::from_micros(10));
        let around = |at: u64| {
            let at = Micros(at);
            [grid.until(at).0, grid.from(at).0, grid.behind(at).0]
        };
        assert_eq!(around(0), [0, 0, 10]);
        assert_eq!(around(9), [0, 10, 10]);
        assert_eq!(around(10), [10, 10, 20]);
        assert_eq!(around(11), [10, 20, 20]);
        let (none, at) = (Grid::default(), Micros(7));
        assert_eq!(
            [none.until(at), none.from(at), none.behind(at)],
            [at, at, at]
        );
        assert_eq!(grid.from(Micros(u64::MAX)), Micros(u64::MAX));
    }
}
