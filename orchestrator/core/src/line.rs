//! Queued tasks in order: lines of tasks that the same things hold up, and the gates that lines wait at.
//!
//! All tasks of a line may go to the same agents and count against the same limits, so whatever stops its first task
//! stops all of them: nothing ever looks behind the first. A line is either ready, and shows its first task to its
//! target, or waits at the one gate that is closed for it. Nothing here walks over what waits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use outpost_proto::ids::{RunId, TaskIndex};
use outpost_proto::name::{AgentName, TaskName, WorkflowName};

/// Place of a queued task in the order: priority, then the run's creation, the run, the task. No two are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) priority: Reverse<i8>,
    pub(crate) created: u64,
    pub(crate) run: RunId,
    pub(crate) task: TaskIndex,
}

impl Key {
    /// Comes before every other.
    pub(crate) const FIRST: Self = Self {
        priority: Reverse(i8::MAX),
        created: 0,
        run: RunId(0),
        task: TaskIndex(0),
    };
}

/// A set of agents that can take the same tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PoolId(pub(crate) u32);

/// Tasks that ask the same of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClassId(pub(crate) u32);

/// Who may take the tasks of a line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// The agent of their run.
    Agent(AgentName),
    /// Any of these.
    Pool(PoolId),
}

/// What makes a line's target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The run has its agent.
    Bound(AgentName),
    /// It has none, or needs none.
    Class(ClassId),
}

/// What all tasks of a line have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) source: Source,
    pub(crate) workflow: WorkflowName,
    /// The task, if it has a limit of its own.
    pub(crate) limited: Option<TaskName>,
    /// Their runs have not begun, so that each of them counts as one more.
    pub(crate) fresh: bool,
}

/// A limit at which lines wait.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Gate {
    pub(crate) workflow: WorkflowName,
    pub(crate) limit: Limit,
}

/// Which limit of a workflow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Limit {
    /// Runs that have begun and are not over.
    Runs,
    /// Active tasks of all its runs.
    Tasks,
    /// Active attempts of this task in all its runs.
    Task(TaskName),
}

/// A line of this number exists while tasks are in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LineId(u32);

#[derive(Debug)]
struct Line {
    kind: Kind,
    target: Target,
    head: Key,
    /// The gate it waits at; `None` while it is ready.
    gate: Option<Gate>,
}

/// Where the next task may come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Spring {
    /// The first line that waits at a gate which may be open.
    Gate(Gate),
    /// The first ready line of a target that may have room.
    Target(Target),
}

/// The first task of each line, where it is offered.
#[derive(Debug, Default)]
struct Shown {
    ready: BTreeSet<(Target, Key, LineId)>,
    waiting: BTreeSet<(Gate, Key, LineId)>,
}

impl Shown {
    fn hide(&mut self, id: LineId, line: &Line) {
        match &line.gate {
            Some(gate) => self.waiting.remove(&(gate.clone(), line.head, id)),
            None => self.ready.remove(&(line.target.clone(), line.head, id)),
        };
    }

    fn show(&mut self, id: LineId, line: &Line) {
        match &line.gate {
            Some(gate) => self.waiting.insert((gate.clone(), line.head, id)),
            None => self.ready.insert((line.target.clone(), line.head, id)),
        };
    }
}

/// All queued tasks of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    tasks: BTreeSet<(LineId, Key)>,
    lines: BTreeMap<LineId, Line>,
    ids: BTreeMap<Kind, LineId>,
    /// Lines of each class: of a class that moves, nobody else's are looked at.
    by_class: BTreeSet<(ClassId, LineId)>,
    shown: Shown,
    /// What to look at with the next placement.
    awake: BTreeSet<Spring>,
    free: Vec<LineId>,
}

impl Lines {
    /// Adds a task; `target` is its kind's.
    pub(crate) fn add(&mut self, kind: Kind, target: Target, key: Key) -> LineId {
        let id = match self.ids.get(&kind) {
            Some(id) => *id,
            None => self.open_line(kind, target, key),
        };
        self.tasks.insert((id, key));
        let Some(head) = self.head(id) else {
            return id;
        };
        if key < head {
            self.set_head(id, key);
        }
        if key <= head
            && let Some(line) = self.lines.get(&id)
        {
            let spring = match &line.gate {
                Some(_) => None,
                None => Some(Spring::Target(line.target.clone())),
            };
            self.awake.extend(spring);
        }
        id
    }

    fn open_line(&mut self, kind: Kind, target: Target, head: Key) -> LineId {
        let next = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
        let id = self.free.pop().unwrap_or(LineId(next));
        self.ids.insert(kind.clone(), id);
        if let Source::Class(class) = kind.source {
            self.by_class.insert((class, id));
        }
        let line = Line {
            kind,
            target,
            head,
            gate: None,
        };
        self.shown.show(id, &line);
        self.lines.insert(id, line);
        id
    }

    fn head(&self, id: LineId) -> Option<Key> {
        self.lines.get(&id).map(|line| line.head)
    }

    /// Takes a task out.
    pub(crate) fn remove(&mut self, id: LineId, key: Key) {
        if !self.tasks.remove(&(id, key)) {
            return;
        }
        let next = self.tasks.range((id, Key::FIRST)..).next();
        match next.copied().filter(|(of, _)| *of == id) {
            Some((_, next)) if self.head(id) == Some(key) => self.set_head(id, next),
            Some(_) => {}
            None => self.close_line(id),
        }
    }

    fn close_line(&mut self, id: LineId) {
        let Some(line) = self.lines.remove(&id) else {
            return;
        };
        self.shown.hide(id, &line);
        self.ids.remove(&line.kind);
        if let Source::Class(class) = line.kind.source {
            self.by_class.remove(&(class, id));
        }
        self.free.push(id);
        if self.lines.is_empty() {
            self.free.clear();
        }
    }

    fn set_head(&mut self, id: LineId, head: Key) {
        self.change(id, |line| line.head = head);
    }

    fn change(&mut self, id: LineId, change: impl FnOnce(&mut Line)) {
        let Some(line) = self.lines.get_mut(&id) else {
            return;
        };
        self.shown.hide(id, line);
        change(line);
        self.shown.show(id, line);
    }

    /// Lets a line wait at a closed gate.
    pub(crate) fn park(&mut self, id: LineId, gate: Gate) {
        self.change(id, |line| line.gate = Some(gate));
    }

    /// Lets a line go on to its target, which is to be looked at.
    pub(crate) fn unpark(&mut self, id: LineId) {
        self.change(id, |line| line.gate = None);
        if let Some(line) = self.lines.get(&id) {
            self.awake.insert(Spring::Target(line.target.clone()));
        }
    }

    /// All lines of a class have another target.
    pub(crate) fn retarget(&mut self, class: ClassId, target: &Target) {
        let ids: Vec<LineId> = self.of_class(class).collect();
        for id in ids {
            self.change(id, |line| line.target = target.clone());
        }
        self.awake.insert(Spring::Target(target.clone()));
    }

    fn of_class(&self, class: ClassId) -> impl Iterator<Item = LineId> {
        let all = (class, LineId(0))..=(class, LineId(u32::MAX));
        self.by_class.range(all).map(|(_, id)| *id)
    }

    /// Makes the next placement look at what this target could take.
    pub(crate) fn wake(&mut self, target: Target) {
        self.look_at(Spring::Target(target));
    }

    /// Makes the next placement look at what waits at this gate.
    pub(crate) fn opened(&mut self, gate: Gate) {
        self.look_at(Spring::Gate(gate));
    }

    /// Where nothing waits, whatever comes is looked at anyway.
    fn look_at(&mut self, spring: Spring) {
        if self.first(&spring).is_some() {
            self.awake.insert(spring);
        }
    }

    /// Makes the next placement look at everything that waits at a limit of this workflow.
    pub(crate) fn limits_changed(&mut self, workflow: &WorkflowName) {
        let from = Gate {
            workflow: workflow.clone(),
            limit: Limit::Runs,
        };
        let gates = self
            .shown
            .waiting
            .range((from, Key::FIRST, LineId(0))..)
            .take_while(|(gate, _, _)| gate.workflow == *workflow);
        let gates: BTreeSet<Gate> = gates.map(|(gate, _, _)| gate.clone()).collect();
        self.awake.extend(gates.into_iter().map(Spring::Gate));
    }

    /// What was woken since, each with the first task it has to offer.
    pub(crate) fn woken(&mut self) -> impl Iterator<Item = (Key, Spring)> {
        let awake = std::mem::take(&mut self.awake);
        awake.into_iter().filter_map(|spring| {
            let (key, _) = self.first(&spring)?;
            Some((key, spring))
        })
    }

    /// Whether something is to be looked at.
    pub(crate) fn is_awake(&self) -> bool {
        !self.awake.is_empty()
    }

    /// The first task there, and its line.
    pub(crate) fn first(&self, spring: &Spring) -> Option<(Key, LineId)> {
        match spring {
            Spring::Gate(gate) => {
                let from = (gate.clone(), Key::FIRST, LineId(0));
                let (of, key, line) = self.shown.waiting.range(from..).next()?;
                (of == gate).then_some((*key, *line))
            }
            Spring::Target(target) => {
                let from = (target.clone(), Key::FIRST, LineId(0));
                let (of, key, line) = self.shown.ready.range(from..).next()?;
                (of == target).then_some((*key, *line))
            }
        }
    }

    pub(crate) fn kind(&self, id: LineId) -> Option<&Kind> {
        self.lines.get(&id).map(|line| &line.kind)
    }

    /// Queued tasks that come before this one for the same target. Walks over them: only to explain.
    pub(crate) fn ahead(&self, target: &Target, key: Key) -> usize {
        let lines = self
            .lines
            .iter()
            .filter(|(_, line)| line.target == *target && line.gate.is_none() && line.head < key);
        lines
            .map(|(id, _)| self.tasks.range((*id, Key::FIRST)..(*id, key)).count())
            .sum()
    }

    /// All tasks that wait for such a target, at a gate or not. Walks over them.
    pub(crate) fn waiting(&self, suits: impl Fn(&Target) -> bool) -> impl Iterator<Item = Key> {
        let lines = self.lines.iter();
        let lines = lines.filter(move |(_, line)| suits(&line.target));
        lines.flat_map(|(id, _)| {
            let from = self.tasks.range((*id, Key::FIRST)..);
            from.take_while(move |(of, _)| of == id)
                .map(|(_, key)| *key)
        })
    }

    /// Whether tasks of a workflow wait here that had a limit of their own when they came.
    pub(crate) fn has_limited(&self, workflow: &WorkflowName) -> bool {
        self.ids
            .keys()
            .any(|kind| kind.limited.is_some() && kind.workflow == *workflow)
    }

    /// Whether tasks of a class wait here.
    pub(crate) fn has_class(&self, class: ClassId) -> bool {
        self.of_class(class).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(priority: i8, created: u64, task: u16) -> Key {
        Key {
            priority: Reverse(priority),
            created,
            run: RunId(1),
            task: TaskIndex(task),
        }
    }

    fn kind(workflow: &str, fresh: bool) -> Kind {
        Kind {
            source: Source::Class(ClassId(0)),
            workflow: workflow.parse().unwrap(),
            limited: None,
            fresh,
        }
    }

    const POOL: Target = Target::Pool(PoolId(0));

    fn gate(workflow: &str) -> Gate {
        Gate {
            workflow: workflow.parse().unwrap(),
            limit: Limit::Tasks,
        }
    }

    #[test]
    fn priority_comes_first_then_age_then_the_task() {
        let mut keys = [
            key(0, 1, 0),
            key(5, 9, 0),
            key(0, 1, 1),
            key(-5, 0, 0),
            key(0, 0, 7),
        ];
        keys.sort();
        assert_eq!(
            keys,
            [
                key(5, 9, 0),
                key(0, 0, 7),
                key(0, 1, 0),
                key(0, 1, 1),
                key(-5, 0, 0)
            ]
        );
    }

    #[test]
    fn the_first_of_all_ready_lines_is_shown_and_a_parked_line_is_not() {
        let mut lines = Lines::default();
        let first = lines.add(kind("a", true), POOL, key(0, 1, 0));
        let other = lines.add(kind("b", true), POOL, key(0, 2, 0));
        let pool = Spring::Target(POOL);
        assert_eq!(lines.first(&pool), Some((key(0, 1, 0), first)));
        lines.park(first, gate("a"));
        assert_eq!(lines.first(&pool), Some((key(0, 2, 0), other)));
        // What comes before the head of a parked line waits with it.
        assert_eq!(lines.add(kind("a", true), POOL, key(9, 3, 0)), first);
        assert_eq!(lines.first(&pool), Some((key(0, 2, 0), other)));
        let at_gate = Spring::Gate(gate("a"));
        assert_eq!(lines.first(&at_gate), Some((key(9, 3, 0), first)));
        lines.unpark(first);
        assert_eq!(lines.first(&at_gate), None);
        assert_eq!(lines.first(&pool), Some((key(9, 3, 0), first)));
    }

    #[test]
    fn a_line_ends_with_its_last_task_and_leaves_nothing() {
        let mut lines = Lines::default();
        for round in 0..3 {
            let line = lines.add(kind("a", false), POOL, key(0, round, 0));
            lines.add(kind("a", false), POOL, key(0, round, 1));
            lines.park(line, gate("a"));
            lines.remove(line, key(0, round, 0));
            assert_eq!(
                lines.first(&Spring::Gate(gate("a"))),
                Some((key(0, round, 1), line))
            );
            lines.remove(line, key(0, round, 1));
            assert!(lines.tasks.is_empty());
            assert!(lines.lines.is_empty() && lines.ids.is_empty() && lines.by_class.is_empty());
            assert!(lines.shown.ready.is_empty() && lines.shown.waiting.is_empty());
        }
    }

    #[test]
    fn a_class_of_tasks_can_be_given_to_others() {
        let mut lines = Lines::default();
        let line = lines.add(kind("a", false), POOL, key(0, 0, 0));
        let other = Target::Pool(PoolId(1));
        lines.retarget(ClassId(0), &other);
        assert_eq!(lines.first(&Spring::Target(POOL)), None);
        assert_eq!(
            lines.first(&Spring::Target(other.clone())),
            Some((key(0, 0, 0), line))
        );
        assert_eq!(lines.ahead(&other, key(0, 1, 0)), 1);
    }

    #[test]
    fn a_class_that_moves_passes_the_lines_of_no_other() {
        let mut lines = Lines::default();
        for n in 0..1_000 {
            let mut other = kind("a", false);
            other.source = Source::Class(ClassId(n + 1));
            lines.add(other, POOL, key(0, u64::from(n), 0));
        }
        let line = lines.add(kind("a", false), POOL, key(1, 0, 0));
        assert!(lines.of_class(ClassId(0)).eq([line]));
        let there = Target::Pool(PoolId(1));
        lines.retarget(ClassId(0), &there);
        assert_eq!(
            lines.first(&Spring::Target(there)),
            Some((key(1, 0, 0), line))
        );
        assert!(lines.has_class(ClassId(0)) && !lines.has_class(ClassId(1_001)));
    }
}
