-- Statements of store/lifecycle.py: findings as detection keeps them.

-- name: known
SELECT finding_id, kind, subject, state, since, until, last_seen, acknowledged, resolved, energy_mj, carried_mj, counted_from,
       evidence, remedy
FROM finding
WHERE merged_into IS NULL AND (until IS NULL OR until >= %(first)s OR last_seen >= %(first)s)
ORDER BY finding_id

-- name: insert
INSERT INTO finding (kind, subject, state, site, node, workload, engine_ids, board_ids, simulated, since, until, last_seen,
    known, found, energy_mj, carried_mj, counted_from, mj_per_day, evidence, summary, remedy)
VALUES (%(kind)s, %(subject)s, %(state)s, %(site)s, %(node)s, %(workload)s, %(engine_ids)s, %(board_ids)s, %(simulated)s,
    %(since)s, %(until)s, %(last_seen)s, %(known)s, %(found)s, %(energy_mj)s, %(carried_mj)s, %(counted_from)s, %(mj_per_day)s,
    %(evidence)s, %(summary)s, %(remedy)s)
RETURNING finding_id

-- name: update
-- Opened again after a person resolved it: what was said of the earlier stretch stands in its history.
UPDATE finding SET state = %(state)s, workload = %(workload)s, engine_ids = %(engine_ids)s, board_ids = %(board_ids)s,
    since = LEAST(since, %(since)s), until = %(until)s, last_seen = %(last_seen)s, known = LEAST(known, %(known)s),
    energy_mj = %(energy_mj)s, carried_mj = %(carried_mj)s, counted_from = %(counted_from)s, mj_per_day = %(mj_per_day)s,
    evidence = %(evidence)s, summary = %(summary)s, remedy = %(remedy)s, revision = revision + 1,
    acknowledged = CASE WHEN state = 'resolved' AND %(state)s <> 'resolved' THEN NULL ELSE acknowledged END,
    resolved = CASE WHEN %(state)s = 'resolved' THEN resolved END
WHERE finding_id = %(finding_id)s
    AND (state, until, last_seen, energy_mj, evidence) IS DISTINCT FROM
        (%(state)s, %(until)s, %(last_seen)s, %(energy_mj)s, %(evidence)s)

-- name: close
UPDATE finding SET state = %(state)s, until = last_seen, mj_per_day = NULL, revision = revision + 1
WHERE finding_id = %(finding_id)s

-- name: absorb
-- What a finding that is about to be merged into this one knew and counted.
UPDATE finding f SET energy_mj = f.energy_mj + o.energy_mj, since = LEAST(f.since, o.since), known = LEAST(f.known, o.known),
    found = LEAST(f.found, o.found), revision = f.revision + 1
FROM finding o
WHERE f.finding_id = %(into)s AND o.finding_id = %(finding_id)s

-- name: merge
-- Two incidents turned out to be one: the other finding counts nothing any more.
UPDATE finding SET state = 'closed', until = COALESCE(until, last_seen), energy_mj = 0, carried_mj = 0, mj_per_day = NULL,
    merged_into = %(into)s, revision = revision + 1
WHERE finding_id = %(finding_id)s

-- name: event
INSERT INTO finding_event (finding_id, what, by, note) VALUES (%(finding_id)s, %(what)s, %(by)s, %(note)s)

-- name: forget_saving
DELETE FROM finding_saving WHERE finding_id = %(finding_id)s

-- name: windows
SELECT kind, subject, workload, node, site, since, until FROM suppression WHERE until >= %(first)s
