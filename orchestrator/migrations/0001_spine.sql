-- One row per thing. The record column holds the thing whole, as JSON; the other columns repeat what lists filter and
-- sort by. Times are microseconds since 1970.

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Made by an administrator; the record is the core's and comes with the tenant's first event.
CREATE TABLE tenant (
    tenant     TEXT NOT NULL PRIMARY KEY,
    created_at INTEGER NOT NULL,
    record     TEXT
) STRICT, WITHOUT ROWID;

-- Hashes only: a token itself is never stored.
CREATE TABLE token (
    id         TEXT NOT NULL PRIMARY KEY,
    hash       TEXT NOT NULL UNIQUE,
    tenant     TEXT REFERENCES tenant (tenant),
    role       TEXT NOT NULL,
    label      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;
CREATE INDEX token_by_tenant ON token (tenant, created_at DESC);

CREATE TABLE workflow (
    tenant     TEXT NOT NULL REFERENCES tenant (tenant),
    workflow   TEXT NOT NULL,
    version    INTEGER NOT NULL,
    applied_at INTEGER NOT NULL,
    record     TEXT NOT NULL,
    PRIMARY KEY (tenant, workflow, version)
) STRICT;

CREATE TABLE agent (
    tenant      TEXT NOT NULL REFERENCES tenant (tenant),
    agent       TEXT NOT NULL,
    enrolled_at INTEGER NOT NULL,
    removed     INTEGER NOT NULL,
    record      TEXT NOT NULL,
    PRIMARY KEY (tenant, agent)
) STRICT;

CREATE TABLE invite (
    token_hash TEXT NOT NULL PRIMARY KEY,
    tenant     TEXT NOT NULL REFERENCES tenant (tenant),
    agent      TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    record     TEXT NOT NULL
) STRICT;
CREATE INDEX invite_by_expiry ON invite (expires_at);

CREATE TABLE run (
    run         TEXT NOT NULL PRIMARY KEY,
    tenant      TEXT NOT NULL,
    workflow    TEXT NOT NULL,
    version     INTEGER NOT NULL,
    state       TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    finished_at INTEGER,
    record      TEXT NOT NULL,
    FOREIGN KEY (tenant, workflow, version) REFERENCES workflow (tenant, workflow, version)
) STRICT;
CREATE INDEX run_by_time ON run (tenant, created_at, run);
CREATE INDEX run_by_workflow ON run (tenant, workflow, created_at, run);
CREATE INDEX run_by_state ON run (tenant, state, created_at, run);
CREATE INDEX run_live ON run (run) WHERE state IN ('running', 'cancelling');

CREATE TABLE task (
    run    TEXT NOT NULL REFERENCES run (run),
    task   INTEGER NOT NULL,
    state  TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (run, task)
) STRICT, WITHOUT ROWID;

-- Unsettled: its end is not known yet, or it was given up and may still be reported.
CREATE TABLE attempt (
    attempt     TEXT NOT NULL PRIMARY KEY,
    tenant      TEXT NOT NULL,
    run         TEXT NOT NULL,
    task        INTEGER NOT NULL,
    agent       TEXT NOT NULL,
    phase       TEXT NOT NULL,
    unsettled   INTEGER NOT NULL,
    assigned_at INTEGER NOT NULL,
    record      TEXT NOT NULL,
    FOREIGN KEY (run, task) REFERENCES task (run, task)
) STRICT;
CREATE INDEX attempt_by_run ON attempt (run, assigned_at, attempt);
CREATE INDEX attempt_unsettled ON attempt (run) WHERE unsettled = 1;

CREATE TABLE idempotency_key (
    tenant TEXT NOT NULL,
    key    TEXT NOT NULL,
    run    TEXT NOT NULL REFERENCES run (run),
    at     INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_key_by_time ON idempotency_key (at);

-- Numbered in commit order, never reused: what event streams are read from.
CREATE TABLE notice (
    seq    INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    run    TEXT,
    at     INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT;
CREATE INDEX notice_by_tenant ON notice (tenant, seq);
CREATE INDEX notice_by_run ON notice (run, seq) WHERE run IS NOT NULL;
