//! The rig: the core on a mirror store, and a site that behaves. Every turn ends with the core being what is durable.

mod asks;
mod bearers;
mod cancel;
mod clones;
mod configure;
mod dead;
mod doubts;
mod explain;
mod faults;
mod freezes;
mod guards;
mod invariants;
mod lifecycle;
mod masses;
mod naive;
mod place;
mod reconnect;
mod recover;
mod renewal;
mod reruns;
mod restores;
mod schedule_histories;
mod schedules;
mod shown;
mod site;
mod standings;

use std::collections::BTreeMap;

use outpost_driver::{Core, Effects, Micros};
use outpost_proto::ids::*;
use outpost_proto::message::*;
use outpost_proto::name::{AgentName, EntryHash, EntryName, TenantName};
use outpost_proto::outcome::{Outcome, Report};

use self::site::Site;
use crate::event::{Answer, Ask, Call, CloseReason, Denied, Event as Happened, Speech};
use crate::limits::Settings;
use crate::mirror::Mirror;
use crate::record::{NoticeKind, Phase, RunState, TaskState, Write};
use crate::safety::Safety;
use crate::spec::{Retry, TaskSpec, WorkflowSpec};
use crate::{Orchestrator, record::AttemptRecord};

const T0: Micros = Micros(1_700_000_000_000_000);
const ENTRIES: [(&str, bool); 3] = [("load", true), ("report", false), ("once", false)];

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn report(outcome: Outcome) -> Report {
    let refused = matches!(outcome, Outcome::Refused(_));
    Report {
        outcome,
        may_have_started: !refused,
        duration_ms: 7,
        exit_code: None,
        count: None,
    }
}

fn task(text: &str, entry: &str, needs: &[u16]) -> TaskSpec {
    TaskSpec {
        needs: needs.iter().copied().map(TaskIndex).collect(),
        retry: Retry {
            retries: 0,
            delay_ms: 1000,
            max_delay_ms: 4000,
        },
        ..TaskSpec::new(name(text), name(entry))
    }
}

fn workflow(text: &str, tasks: Vec<TaskSpec>) -> WorkflowSpec {
    WorkflowSpec::new(name(text), tasks)
}

fn applying(spec: WorkflowSpec) -> Ask {
    Ask::Apply {
        spec,
        source: String::new(),
        allow_unknown_entries: true,
        dry_run: false,
        expected_version: None,
    }
}

/// The core, its store and the time.
struct Rig {
    settings: Settings,
    core: Orchestrator,
    mirror: Mirror,
    now: Micros,
    calls: u64,
    conns: u64,
    lives: u8,
    /// Whether placement walks over everything.
    naive: bool,
}

impl Rig {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let mirror = Mirror::default();
        let core = Orchestrator::new(settings, [3; 32], T0, mirror.snapshot(T0));
        Self {
            settings,
            core,
            mirror,
            now: T0,
            calls: 0,
            conns: 0,
            lives: 3,
            naive: false,
        }
    }

    /// One turn that commits. Gives what was said.
    fn turn(&mut self, events: &[Happened]) -> Vec<Speech> {
        self.committed(events).speech
    }

    /// The same. Gives what was written.
    fn writes(&mut self, events: &[Happened]) -> Vec<Write> {
        self.committed(events).writes
    }

    fn committed(&mut self, events: &[Happened]) -> Effects<Write, Speech> {
        let mut out = Effects::new();
        for event in events {
            self.core.handle(self.now, event, &mut out);
        }
        self.core.settle(self.now, &mut out);
        out.writes.iter().for_each(|write| self.mirror.apply(write));
        assert_eq!(
            self.core.durable(),
            self.mirror.snapshot(self.now),
            "the core is what is durable"
        );
        out
    }

    /// One turn whose commit fails; `durable` says whether it happened all the same.
    fn failing_turn(&mut self, events: &[Happened], durable: bool) {
        let mut out = Effects::new();
        for event in events {
            self.core.handle(self.now, event, &mut out);
        }
        self.core.settle(self.now, &mut out);
        if durable {
            out.writes.iter().for_each(|write| self.mirror.apply(write));
        }
        self.core.reload(self.now, self.mirror.snapshot(self.now));
        self.be_naive();
        assert_eq!(
            self.core.durable(),
            self.mirror.snapshot(self.now),
            "the core is what is durable"
        );
    }

    /// A new process on the same store.
    fn restart(&mut self) {
        self.lives += 1;
        self.core = Orchestrator::new(
            self.settings,
            [self.lives; 32],
            self.now,
            self.mirror.snapshot(self.now),
        );
        self.be_naive();
        assert_eq!(
            self.core.durable(),
            self.mirror.snapshot(self.now),
            "the core is what is durable"
        );
    }

    /// Lets time pass, waking the core whenever it wants.
    fn pass_ms(&mut self, ms: u64) -> Vec<Speech> {
        let end = self.now.plus_ms(ms);
        let mut said = Vec::new();
        while let Some(next) = self.core.next_deadline().filter(|next| *next <= end) {
            assert!(
                next >= self.now || next == Micros(0),
                "a deadline that stays in the past spins"
            );
            self.now = self.now.max(next);
            said.extend(self.turn(&[]));
            assert!(
                self.core.next_deadline().is_none_or(|next| next > self.now),
                "settled means settled"
            );
        }
        self.now = end;
        said
    }

    fn ask_in(&mut self, tenant: &str, ask: Ask) -> (Result<Answer, Denied>, Vec<Speech>) {
        self.calls += 1;
        let call = Call(self.calls);
        let mut said = self.turn(&[Happened::Asked {
            call,
            tenant: name(tenant),
            ask,
        }]);
        let at = said
            .iter()
            .position(|speech| matches!(speech, Speech::Answer { .. }))
            .unwrap();
        let Speech::Answer {
            call: answered,
            answer,
        } = said.remove(at)
        else {
            unreachable!()
        };
        assert_eq!(answered, call);
        (answer, said)
    }

    fn ask(&mut self, ask: Ask) -> Result<Answer, Denied> {
        self.ask_in("acme", ask).0
    }

    fn apply(&mut self, spec: WorkflowSpec) {
        assert!(matches!(
            self.ask(applying(spec)),
            Ok(Answer::Applied { .. })
        ));
    }

    fn trigger(&mut self, workflow: &str) -> (RunId, Vec<Speech>) {
        let ask = Ask::Trigger {
            workflow: name(workflow),
            params: BTreeMap::new(),
            key: None,
        };
        let (answer, said) = self.ask_in("acme", ask);
        let Ok(Answer::Triggered { run, created: true }) = answer else {
            panic!("{answer:?}")
        };
        (run, said)
    }

    fn enrol(&mut self, agent: &str) {
        self.enrol_in("acme", agent);
    }

    fn enrol_in(&mut self, tenant: &str, agent: &str) {
        let ask = Ask::Invite {
            agent: name(agent),
            token_hash: format!("token of {agent}"),
            ttl_ms: 600_000,
        };
        assert!(matches!(
            self.ask_in(tenant, ask).0,
            Ok(Answer::Invited { .. })
        ));
        let answer = self.enrol_with(&format!("token of {agent}"), "key");
        assert_eq!(
            answer,
            Ok(Answer::Enrolled {
                tenant: name(tenant),
                agent: name(agent)
            })
        );
    }

    fn enrol_with(&mut self, token: &str, key: &str) -> Result<Answer, Denied> {
        self.calls += 1;
        let call = Call(self.calls);
        let said = self.turn(&[Happened::Enrol {
            call,
            token_hash: token.into(),
            key_hash: key.into(),
        }]);
        let [Speech::Answer { answer, .. }] = &said[..] else {
            panic!("{said:?}")
        };
        answer.clone()
    }

    /// An enrolled agent with a ready session and a lease.
    fn site(&mut self, agent: &str) -> Site {
        self.enrol(agent);
        let mut site = Site::new(agent);
        site.connect(self, vec![]);
        site
    }

    /// The same of another tenant.
    fn site_of(&mut self, tenant: &str, agent: &str) -> Site {
        self.enrol_in(tenant, agent);
        let mut site = Site::new(agent);
        site.tenant = name(tenant);
        site.connect(self, vec![]);
        site
    }

    /// Passes on to the core how it shall place.
    fn be_naive(&mut self) {
        for tenant in self.core.tenants.values_mut() {
            tenant.places.naive = self.naive;
        }
    }

    /// How often placement looked at a first task so far.
    fn looked(&self) -> u64 {
        let tenants = self.core.tenants.values();
        tenants.map(|tenant| tenant.places.looked).sum()
    }

    fn next_conn(&mut self) -> Conn {
        self.conns += 1;
        Conn(self.conns)
    }

    fn task_state(&self, run: RunId, task: u16) -> TaskState {
        self.mirror.tasks[&(run, TaskIndex(task))].state
    }

    fn run_state(&self, run: RunId) -> RunState {
        self.mirror.runs[&run].state
    }

    fn attempt(&self, attempt: AttemptId) -> &AttemptRecord {
        &self.mirror.attempts[&attempt]
    }

    fn phase(&self, attempt: AttemptId) -> Phase {
        self.attempt(attempt).phase
    }
}

/// What people read about safety: what happened, by whom, and why.
fn told(rig: &Rig) -> Vec<(Safety, Option<String>, Option<String>)> {
    let notices = rig.mirror.notices.iter();
    let told = notices.filter_map(|notice| match &notice.what {
        NoticeKind::Safety {
            what, by, reason, ..
        } => Some((*what, by.clone(), reason.clone())),
        NoticeKind::Run { .. }
        | NoticeKind::Task { .. }
        | NoticeKind::Attempt { .. }
        | NoticeKind::Workflow { .. }
        | NoticeKind::Skipped { .. }
        | NoticeKind::Agent { .. } => None,
    });
    told.collect()
}

fn messages(said: &[Speech]) -> Vec<DownMessage> {
    let sent = said.iter().filter_map(|speech| match speech {
        Speech::Send { messages, .. } => Some(messages.clone()),
        Speech::Close { .. } | Speech::Answer { .. } | Speech::Alarm { .. } => None,
    });
    sent.flatten().collect()
}

fn assigns(said: &[Speech]) -> Vec<Assign> {
    let assigns = messages(said)
        .into_iter()
        .filter_map(|message| match message {
            DownMessage::Assign(assign) => Some(assign),
            DownMessage::Welcome(_) | DownMessage::Directive { .. } | DownMessage::Granted(_) => {
                None
            }
        });
    assigns.collect()
}

fn directives(said: &[Speech]) -> Vec<Directive> {
    let directives = messages(said)
        .into_iter()
        .filter_map(|message| match message {
            DownMessage::Directive { directive, .. } => Some(directive),
            DownMessage::Welcome(_) | DownMessage::Assign(_) | DownMessage::Granted(_) => None,
        });
    directives.collect()
}

fn closes(said: &[Speech]) -> Vec<(Conn, CloseReason)> {
    let closes = said.iter().filter_map(|speech| match speech {
        Speech::Close { conn, why } => Some((*conn, *why)),
        Speech::Send { .. } | Speech::Answer { .. } | Speech::Alarm { .. } => None,
    });
    closes.collect()
}
