//! What is to happen at which instant, in order. Setting and firing cost a logarithm, the next instant costs nothing.
//!
//! Timers are hints: whoever set one looks at the state again when it fires, so a stale timer does no harm.

use std::collections::BTreeSet;

use outpost_driver::Micros;

/// Instants and what is due then.
#[derive(Debug, Clone)]
pub(crate) struct Timers<T: Ord> {
    due: BTreeSet<(Micros, T)>,
}

impl<T: Ord> Timers<T> {
    pub(crate) fn new() -> Self {
        Self {
            due: BTreeSet::new(),
        }
    }

    pub(crate) fn set(&mut self, at: Micros, what: T) {
        self.due.insert((at, what));
    }

    pub(crate) fn clear(&mut self, at: Micros, what: T) {
        self.due.remove(&(at, what));
    }

    /// The earliest thing that is due by now, taken out.
    pub(crate) fn fire(&mut self, now: Micros) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        self.due.pop_first().map(|(_, what)| what)
    }

    pub(crate) fn next(&self) -> Option<Micros> {
        self.due.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_fires_in_order_and_once() {
        let mut timers = Timers::new();
        timers.set(Micros(3), "c");
        timers.set(Micros(1), "a");
        timers.set(Micros(2), "b");
        timers.clear(Micros(2), "b");
        assert_eq!(timers.next(), Some(Micros(1)));
        assert_eq!(timers.fire(Micros(2)), Some("a"));
        assert_eq!(timers.fire(Micros(2)), None);
        assert_eq!(timers.fire(Micros(3)), Some("c"));
        assert_eq!((timers.fire(Micros(9)), timers.next()), (None, None));
    }
}
