//! Every key of a workflow file: the one table that the parser takes its known words from and the published schema is
//! made of. A key that is not here does not exist.

use outpost_orchestrator_core::label::LABELS;
use outpost_orchestrator_core::spec::{PRIORITIES, TASKS};
use outpost_proto::limits::{PARAMETER_TEXT_BYTES, PARAMETERS};

/// Characters of a description.
pub(super) const DESCRIPTION: usize = 1000;
/// Further attempts of one task.
pub(super) const RETRIES: i64 = 100;
/// Values of an enum.
pub(super) const VALUES: usize = 100;
/// What a delay can be set to.
pub(super) const LONGEST_DELAY: (u64, &str) = (7 * 24 * 3_600_000, "7d");
/// What a timeout can be set to: as in a catalogue.
pub(super) const LONGEST_TIMEOUT: (u64, &str) = (30 * 24 * 3_600_000, "30d");
/// Shortest and longest interval of a schedule.
pub(super) const INTERVALS: ((u64, &str), (u64, &str)) =
    ((1000, "1s"), (366 * 24 * 3_600_000, "366d"));
/// What a number of runs, tasks or attempts at once can be set to.
pub(super) const AT_ONCE: (i64, i64) = (1, 1_000_000);
/// What the number of missed instants can be set to.
pub(super) const MISSED: (i64, i64) = (1, 100);

/// A mapping of known keys.
#[derive(Debug)]
pub(super) struct Section {
    /// What the schema calls it.
    pub(super) name: &'static str,
    /// For people.
    pub(super) about: &'static str,
    /// In the order people write them.
    pub(super) keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    /// The word.
    pub(super) name: &'static str,
    /// Whether it must be there.
    pub(super) required: bool,
    /// For people.
    pub(super) about: &'static str,
    /// What may stand behind it.
    pub(super) takes: Takes,
    /// Values as they stand in a file, in YAML's flow form.
    pub(super) examples: &'static [&'static str],
}

/// What may stand behind a key.
#[derive(Debug)]
pub(super) enum Takes {
    /// A name: 1 to 63 characters.
    Name,
    /// A queue's name.
    Queue,
    /// Text of at most so many characters.
    Text(usize),
    /// One of these words, each with what it means.
    Word(&'static [(&'static str, &'static str)]),
    /// A whole number between two bounds.
    Number(i64, i64),
    /// A length of time; the longest as people write it.
    Duration(&'static str),
    /// A cron expression of five fields or a nickname.
    Cron,
    /// An IANA time zone.
    Zone,
    /// A day or a day and a time.
    Instant,
    /// Texts, each once.
    Values,
    /// `true`, `false`, a whole number or text.
    Literal,
    /// Labels with the value each must have.
    Selector,
    /// Names of tasks, each once.
    Needs,
    /// Parameters with their values.
    Literals,
    /// Parameters with their values, or with `${params.NAME}` or `${each.NAME}`.
    Arguments,
    /// One name with a list of values.
    Each,
    /// Parameters with their declarations.
    Params,
    /// Keys of another section.
    Section(&'static Section),
    /// Tasks by name, or a list of them.
    Tasks,
}

const fn key(name: &'static str, takes: Takes, about: &'static str) -> Key {
    Key {
        name,
        required: false,
        about,
        takes,
        examples: &[],
    }
}

impl Key {
    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn like(mut self, examples: &'static [&'static str]) -> Self {
        self.examples = examples;
        self
    }
}

impl Section {
    /// The words.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + Clone + use<> {
        self.keys.iter().map(|key| key.name)
    }
}

const PRIORITY: Takes = Takes::Number(PRIORITIES.0 as i64, PRIORITIES.1 as i64);

/// The file.
pub(super) const FILE: Section = Section {
    name: "workflow",
    about: "A workflow: tasks that sites run, what each needs, and when.",
    keys: &[
        key("name", Takes::Name, "The workflow's name within the tenant.")
            .required()
            .like(&["nightly-backup"]),
        key("description", Takes::Text(DESCRIPTION), "For people.")
            .like(&["\"Dumps the database and checks the copy\""]),
        key("params", Takes::Params, "What a run can be given, by name.")
            .like(&["{top: {kind: int, min: 1, max: 100, default: 10}}"]),
        key(
            "schedule",
            Takes::Section(&SCHEDULE),
            "When runs are made without anybody asking: exactly one of `cron` and `every`.",
        )
        .like(&[
            "{cron: \"30 2 * * 1-5\", timezone: Europe/Berlin}",
            "{every: 15m}",
        ]),
        key("queue", Takes::Queue, "The queue of tasks that name none; only agents that serve it take them. Default: `default`.")
            .like(&["default"]),
        key("selector", Takes::Selector, "Labels that the agent of every task must have.")
            .like(&["{zone: eu}"]),
        key("priority", PRIORITY, "Of tasks that name none; higher ones are placed first. Default: 0.")
            .like(&["0", "50"]),
        key(
            "max_active_runs",
            Takes::Number(AT_ONCE.0, AT_ONCE.1),
            "Runs of this workflow that may have started tasks at once; further ones wait. Default: no limit.",
        )
        .like(&["1"]),
        key(
            "max_active_tasks",
            Takes::Number(AT_ONCE.0, AT_ONCE.1),
            "Tasks of this workflow active at once, over all its runs. Default: no limit.",
        )
        .like(&["16"]),
        key(
            "affinity",
            Takes::Word(&[
                ("run", "all tasks of a run go to one agent and share the run's directory (the default)"),
                ("none", "each task goes where there is room"),
            ]),
            "Whether the tasks of a run stay together.",
        )
        .like(&["run"]),
        key("defaults", Takes::Section(&DEFAULTS), "What a task takes when it does not say otherwise.")
            .like(&["{retries: 2, retry_delay: 30s}"]),
        key("tasks", Takes::Tasks, "The tasks: a mapping from name to task, or a list of tasks with a `name` each.")
            .required()
            .like(&["{dump: {entry: dump-database}, check: {entry: check-dump, needs: [dump]}}"]),
    ],
};

/// A parameter's declaration.
pub(super) const PARAM: Section = Section {
    name: "param",
    about: "What a run's parameter accepts.",
    keys: &[
        key(
            "kind",
            Takes::Word(&[
                ("flag", "true or false"),
                ("int", "a whole number, between `min` and `max`"),
                ("enum", "one of `values`"),
                ("date", "a day, YYYY-MM-DD"),
                ("text", "text of at most `max_length` bytes"),
            ]),
            "Its type.",
        )
        .required()
        .like(&["int"]),
        key(
            "min",
            Takes::Number(i64::MIN, i64::MAX),
            "Lowest value of an `int`.",
        )
        .like(&["1"]),
        key(
            "max",
            Takes::Number(i64::MIN, i64::MAX),
            "Highest value of an `int`.",
        )
        .like(&["100"]),
        key("values", Takes::Values, "What an `enum` can be.").like(&["[low, high]"]),
        key(
            "max_length",
            Takes::Number(1, PARAMETER_TEXT_BYTES as i64),
            "Most bytes of a `text`. Default: 256.",
        )
        .like(&["80"]),
        key(
            "default",
            Takes::Literal,
            "Used when a run gives none; without it the parameter is required.",
        )
        .like(&["10", "low", "true"]),
    ],
};

/// Keys of a parameter that belong to some kinds only.
pub(super) const OF_KIND: [(&str, &[&str]); 5] = [
    ("flag", &[]),
    ("int", &["min", "max"]),
    ("enum", &["values"]),
    ("date", &[]),
    ("text", &["max_length"]),
];

/// What tasks share with the section `defaults`.
macro_rules! tries {
    ($($own:expr),* $(,)?) => {
        &[
            $($own,)*
            key("retries", Takes::Number(0, RETRIES), "Further attempts after one that did not succeed. Default: 0.")
                .like(&["3"]),
            key("retry_delay", Takes::Duration(LONGEST_DELAY.1), "First delay; doubled each time and drawn with jitter. Default: 1s.")
                .like(&["30s", "1h30m"]),
            key("retry_max_delay", Takes::Duration(LONGEST_DELAY.1), "Longest delay. Default: 1h.")
                .like(&["5m"]),
            key("timeout", Takes::Duration(LONGEST_TIMEOUT.1), "How long one attempt may run. Default: what the catalogue entry says.")
                .like(&["10m"]),
        ]
    };
}

/// The section `defaults`.
pub(super) const DEFAULTS: Section = Section {
    name: "defaults",
    about: "What a task takes when it does not say otherwise.",
    keys: tries!(),
};

/// A task's name, where tasks are a list.
pub(super) const TASK_NAME: Key = key("name", Takes::Name, "The task's name within the workflow.")
    .required()
    .like(&["load"]);

/// A task.
pub(super) const TASK: Section = Section {
    name: "task",
    about: "One task.",
    keys: tries!(
        key(
            "entry",
            Takes::Name,
            "The entry of the site's catalogue that it runs."
        )
        .required()
        .like(&["dump-database"]),
        key(
            "needs",
            Takes::Needs,
            "Tasks that must have succeeded before."
        )
        .like(&["[extract, clean]"]),
        key(
            "for_each",
            Takes::Each,
            "Makes one task for each of the values, named after it; who needs this task needs all of them. Limits such as `max_active` hold for each."
        )
        .like(&["{region: [north, south]}"]),
        key(
            "with",
            Takes::Arguments,
            "What the entry's parameters are given: values, `${params.NAME}` for a parameter of the run, or `${each.NAME}` for the value of `for_each`."
        )
        .like(&["{top: \"${params.top}\", mode: full}"]),
        key(
            "queue",
            Takes::Queue,
            "Its queue. Default: the workflow's."
        )
        .like(&["big"]),
        key(
            "selector",
            Takes::Selector,
            "Labels that its agent must have, besides the workflow's."
        )
        .like(&["{disk: fast}"]),
        key(
            "priority",
            PRIORITY,
            "Higher ones are placed first. Default: the workflow's."
        )
        .like(&["10"]),
        key(
            "max_active",
            Takes::Number(AT_ONCE.0, AT_ONCE.1),
            "Attempts of this task active at once, over all runs of the workflow. Default: no limit."
        )
        .like(&["1"]),
    ),
};

/// The section `schedule`.
pub(super) const SCHEDULE: Section = Section {
    name: "schedule",
    about: "When runs are made without anybody asking: exactly one of `cron` and `every`.",
    keys: &[
        key("cron", Takes::Cron, "Minutes of a wall clock: minute, hour, day of month, month, day of week; or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.")
            .like(&["\"30 2 * * 1-5\"", "\"@daily\""]),
        key("every", Takes::Duration(INTERVALS.1.1), "An interval of at least 1s, counted from `start`, or from 1970 without one.")
            .like(&["15m", "1h30m"]),
        key("timezone", Takes::Zone, "Whose wall clock `cron`, `start` and `end` are read on. Default: UTC.")
            .like(&["Europe/Berlin"]),
        key("start", Takes::Instant, "No instant before: a day, or a day and a time.")
            .like(&["2026-01-01", "2026-01-01T06:30"]),
        key("end", Takes::Instant, "No instant after: a day, which is included, or a day and a time.")
            .like(&["2026-12-31T18:00"]),
        key(
            "missed",
            Takes::Word(&[
                ("skip", "they make no run"),
                ("latest", "the newest of them makes a run (the default)"),
                ("all", "each makes a run, up to `missed_limit`"),
            ]),
            "What becomes of instants that passed while the orchestrator was not there; one that is at most a minute late is not missed, and makes its run. A pause misses nothing.",
        )
        .like(&["latest"]),
        key("missed_limit", Takes::Number(MISSED.0, MISSED.1), "With `missed: all`, at most the newest so many. Default: 10.")
            .like(&["10"]),
        key("params", Takes::Literals, "What scheduled runs are given; parameters without a default must be here.")
            .like(&["{top: 10}"]),
    ],
};

/// Most entries of what `takes` says, where it has a bound.
pub(super) const fn most(takes: &Takes) -> usize {
    match takes {
        Takes::Selector => LABELS,
        Takes::Values | Takes::Each => VALUES,
        Takes::Literals | Takes::Arguments | Takes::Params => PARAMETERS,
        Takes::Needs | Takes::Tasks => TASKS,
        Takes::Name
        | Takes::Queue
        | Takes::Text(_)
        | Takes::Word(_)
        | Takes::Number(..)
        | Takes::Duration(_)
        | Takes::Cron
        | Takes::Zone
        | Takes::Instant
        | Takes::Literal
        | Takes::Section(_) => 1,
    }
}

/// Where else a word belongs, for people who put it into the wrong place.
pub(super) fn home(word: &str) -> Option<&'static str> {
    let places: [(&Section, &str); 5] = [
        (&FILE, "at the beginning of a line, not below another key"),
        (&TASK, "below a task"),
        (&SCHEDULE, "below `schedule`"),
        (&DEFAULTS, "below `defaults`"),
        (&PARAM, "below a parameter of `params`"),
    ];
    places
        .into_iter()
        .find(|(section, _)| section.names().any(|name| name == word))
        .map(|(_, place)| place)
}
