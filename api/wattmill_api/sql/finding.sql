-- Statements of store/findings.py.

-- name: find
SELECT
    f.finding_id, f.kind, f.subject, f.state, f.site, f.node, f.workload, f.since, f.until, f.last_seen, f.known, f.found, f.revision,
    f.merged_into, f.energy_mj, f.mj_per_day, f.evidence, f.summary, f.remedy, f.acknowledged, f.resolved, f.note, f.simulated,
    s.since AS saving_since, s.until AS saving_until, s.method AS saving_method, s.saved_mj
FROM finding f LEFT JOIN finding_saving s USING (finding_id)
WHERE (%(state)s::text IS NULL OR f.state = %(state)s)
    AND (%(kind)s::text[] IS NULL OR f.kind = ANY(%(kind)s))
    AND (%(workload)s::text[] IS NULL OR f.workload = ANY(%(workload)s))
    AND (%(node)s::text[] IS NULL OR f.node = ANY(%(node)s))
    AND (%(site)s::text[] IS NULL OR f.site = ANY(%(site)s))
    AND (%(start)s::timestamptz IS NULL OR COALESCE(f.until, f.last_seen) >= %(start)s)
    AND (%(end)s::timestamptz IS NULL OR f.since < %(end)s)
    AND CASE WHEN %(finding_id)s::bigint IS NULL THEN f.merged_into IS NULL ELSE f.finding_id = %(finding_id)s END
ORDER BY f.until IS NULL DESC, f.energy_mj DESC, f.finding_id
LIMIT %(limit)s

-- name: history
SELECT time, what, by, note FROM finding_event WHERE finding_id = %(finding_id)s ORDER BY event_id

-- name: event
INSERT INTO finding_event (finding_id, what, by, note) VALUES (%(finding_id)s, %(what)s, %(by)s, %(note)s)

-- name: acknowledge
UPDATE finding
SET state = 'acknowledged', acknowledged = COALESCE(acknowledged, now()),
    note = CASE WHEN %(note)s::text = '' THEN note ELSE %(note)s END
WHERE finding_id = %(finding_id)s AND state IN ('open', 'acknowledged')
RETURNING finding_id

-- name: resolve
-- Over from now on: if the waste goes on for an hour, detection opens it again.
UPDATE finding
SET state = 'resolved', resolved = COALESCE(resolved, now()), until = COALESCE(until, now()), mj_per_day = NULL,
    note = CASE WHEN %(note)s::text = '' THEN note ELSE %(note)s END
WHERE finding_id = %(finding_id)s AND state <> 'resolved' AND merged_into IS NULL
RETURNING finding_id

-- name: count_open
SELECT count(*) FROM finding WHERE state = 'open'

-- name: boards
SELECT a.uuid
FROM finding f
JOIN accelerator a ON a.accelerator_id = ANY(f.board_ids)
WHERE f.finding_id = %(finding_id)s
ORDER BY a.device_index, a.uuid
