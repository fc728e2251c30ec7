-- A start and an end write to fewer places. A tenant's next fence stands in its agents' marks too, of which a former
-- program knows nothing; so do these: an unsettled attempt of a live run has 2 and is found by its run, and only those
-- of runs that are over have 1 and stand in the index.
UPDATE attempt SET unsettled = 2
WHERE unsettled = 1 AND (SELECT live FROM run WHERE run.run = attempt.run) = 1;
