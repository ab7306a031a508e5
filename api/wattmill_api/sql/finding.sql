-- Statements of store/findings.py.

-- name: find
SELECT
    finding_id, kind, subject, state, site, node, workload, since, until, last_seen, energy_mj, evidence, summary,
    remedy, acknowledged, resolved, note, simulated
FROM finding
WHERE (%(state)s::text IS NULL OR state = %(state)s)
    AND (%(kind)s::text[] IS NULL OR kind = ANY(%(kind)s))
    AND (%(workload)s::text[] IS NULL OR workload = ANY(%(workload)s))
    AND (%(node)s::text[] IS NULL OR node = ANY(%(node)s))
    AND (%(site)s::text[] IS NULL OR site = ANY(%(site)s))
    AND (%(start)s::timestamptz IS NULL OR COALESCE(until, last_seen) >= %(start)s)
    AND (%(end)s::timestamptz IS NULL OR since < %(end)s)
    AND (%(finding_id)s::bigint IS NULL OR finding_id = %(finding_id)s)
ORDER BY until IS NULL DESC, energy_mj DESC, finding_id
LIMIT %(limit)s

-- name: acknowledge
UPDATE finding
SET state = 'acknowledged', acknowledged = COALESCE(acknowledged, now()),
    note = CASE WHEN %(note)s::text = '' THEN note ELSE %(note)s END
WHERE finding_id = %(finding_id)s AND state IN ('open', 'acknowledged')
RETURNING finding_id

-- name: resolve
-- Over from now on: if the waste goes on, the next detection opens a new finding.
UPDATE finding
SET state = 'resolved', resolved = COALESCE(resolved, now()), until = COALESCE(until, now()),
    note = CASE WHEN %(note)s::text = '' THEN note ELSE %(note)s END
WHERE finding_id = %(finding_id)s
RETURNING finding_id

-- name: count_open
SELECT count(*) FROM finding WHERE state = 'open'
