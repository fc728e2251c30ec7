-- What a burst tells about one run is one row, so that it is written to one place and not to two for each notice.

-- Numbered in commit order over all tenants by the one writer, never reused: the newest of all is never deleted. A row
-- holds the notices `first` to `seq`, an array in their order, all of one burst and about one run or none.
CREATE TABLE notice_3 (
    tenant TEXT NOT NULL,
    seq    INTEGER NOT NULL,
    first  INTEGER NOT NULL,
    run    TEXT,
    at     INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (tenant, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO notice_3 SELECT tenant, seq, seq, run, at, '[' || record || ']' FROM notice ORDER BY tenant, seq;
DROP TABLE notice;
ALTER TABLE notice_3 RENAME TO notice;
CREATE INDEX notice_by_run ON notice (run, seq) WHERE run IS NOT NULL;
