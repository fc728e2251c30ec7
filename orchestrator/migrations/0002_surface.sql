-- Workflows can be paused and deleted, runs have an instant of a schedule, agents have marks; and every B-tree that a
-- burst need not touch is gone. Foreign keys are off while this runs.

-- Of the versions of a workflow: 1 in the newest, 2 in the newest of a deleted one, nothing in the others.
ALTER TABLE workflow ADD COLUMN current INTEGER;
UPDATE workflow SET current = 1
WHERE version = (SELECT max(version) FROM workflow AS newer
                 WHERE newer.tenant = workflow.tenant AND newer.workflow = workflow.workflow);
CREATE INDEX workflow_current ON workflow (tenant, workflow) WHERE current IS NOT NULL;

CREATE TABLE workflow_state (
    tenant   TEXT NOT NULL,
    workflow TEXT NOT NULL,
    record   TEXT NOT NULL,
    PRIMARY KEY (tenant, workflow)
) STRICT, WITHOUT ROWID;

-- What changes with every burst of an agent, apart from its record with the catalogue: counts when it is there.
CREATE TABLE agent_mark (
    tenant TEXT NOT NULL,
    agent  TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (tenant, agent)
) STRICT, WITHOUT ROWID;

-- live: 1 while it is running or cancelling, else 0. What is over is found by its state, what is live by that it is.
CREATE TABLE run_2 (
    run           TEXT NOT NULL PRIMARY KEY,
    tenant        TEXT NOT NULL,
    workflow      TEXT NOT NULL,
    version       INTEGER NOT NULL,
    state         TEXT NOT NULL,
    live          INTEGER NOT NULL,
    agent         TEXT,
    scheduled_for INTEGER,
    created_at    INTEGER NOT NULL,
    finished_at   INTEGER,
    record        TEXT NOT NULL,
    FOREIGN KEY (tenant, workflow, version) REFERENCES workflow (tenant, workflow, version)
) STRICT, WITHOUT ROWID;
INSERT INTO run_2
SELECT run, tenant, workflow, version, state, state IN ('running', 'cancelling'), record ->> '$.agent', NULL, created_at,
       finished_at, record
FROM run ORDER BY run;

CREATE TABLE task_2 (
    run    TEXT NOT NULL REFERENCES run (run),
    task   INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (run, task)
) STRICT, WITHOUT ROWID;
INSERT INTO task_2 SELECT run, task, record FROM task ORDER BY run, task;

-- Beside their task. Unsettled: its end is not known yet, or it was given up and may still be reported.
CREATE TABLE attempt_2 (
    run       TEXT NOT NULL,
    task      INTEGER NOT NULL,
    attempt   TEXT NOT NULL,
    unsettled INTEGER NOT NULL,
    record    TEXT NOT NULL,
    PRIMARY KEY (run, task, attempt),
    FOREIGN KEY (run, task) REFERENCES task (run, task)
) STRICT, WITHOUT ROWID;
INSERT INTO attempt_2 SELECT run, task, attempt, unsettled, record FROM attempt ORDER BY run, task, attempt;

-- Keys live for a day, runs longer.
CREATE TABLE idempotency_key_2 (
    tenant TEXT NOT NULL,
    key    TEXT NOT NULL,
    at     INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;
INSERT INTO idempotency_key_2 SELECT tenant, key, at, record FROM idempotency_key;

-- Numbered in commit order over all tenants by the one writer, never reused: the newest of all is never deleted.
CREATE TABLE notice_2 (
    tenant TEXT NOT NULL,
    seq    INTEGER NOT NULL,
    run    TEXT,
    at     INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (tenant, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO notice_2 SELECT tenant, seq, run, at, record FROM notice ORDER BY tenant, seq;

DROP TABLE notice;
DROP TABLE idempotency_key;
DROP TABLE attempt;
DROP TABLE task;
DROP TABLE run;
ALTER TABLE run_2 RENAME TO run;
ALTER TABLE task_2 RENAME TO task;
ALTER TABLE attempt_2 RENAME TO attempt;
ALTER TABLE idempotency_key_2 RENAME TO idempotency_key;
ALTER TABLE notice_2 RENAME TO notice;

CREATE INDEX run_by_time ON run (tenant, created_at, run);
CREATE INDEX run_by_workflow ON run (tenant, workflow, created_at, run);
CREATE INDEX run_by_agent ON run (tenant, agent, created_at, run) WHERE agent IS NOT NULL;
CREATE INDEX run_live ON run (tenant, created_at, run) WHERE live = 1;
CREATE INDEX run_over ON run (tenant, state, created_at, run) WHERE live = 0;
CREATE INDEX run_over_of_workflow ON run (tenant, workflow, state, created_at, run) WHERE live = 0;
-- An instant of a schedule makes one run, whatever happens.
CREATE UNIQUE INDEX run_scheduled ON run (tenant, workflow, scheduled_for) WHERE scheduled_for IS NOT NULL;
CREATE UNIQUE INDEX attempt_by_id ON attempt (attempt);
CREATE INDEX attempt_unsettled ON attempt (run) WHERE unsettled = 1;
CREATE INDEX idempotency_key_by_time ON idempotency_key (at);
CREATE INDEX notice_by_run ON notice (run, seq) WHERE run IS NOT NULL;
