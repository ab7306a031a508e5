-- Statements of store/webhooks.py.

-- name: all
SELECT h.webhook_id, h.name, h.url, h.secret, h.kinds, h.teams, h.sites, h.min_energy_mj, h.send_resolved, h.by, h.created,
       h.failures, h.delivered, h.error,
       (SELECT count(*) FROM webhook_delivery d WHERE d.webhook_id = h.webhook_id AND d.state = 'waiting') AS waiting
FROM webhook h
WHERE %(webhook_id)s::bigint IS NULL OR h.webhook_id = %(webhook_id)s
ORDER BY h.webhook_id

-- name: lock
-- Two that are made at once count one another.
LOCK TABLE webhook IN SHARE ROW EXCLUSIVE MODE

-- name: count
SELECT count(*) FROM webhook

-- name: add
INSERT INTO webhook (name, url, secret, kinds, teams, sites, min_energy_mj, send_resolved, by)
VALUES (%(name)s, %(url)s, %(secret)s, %(kinds)s, %(teams)s, %(sites)s, %(min_energy_mj)s, %(send_resolved)s, %(by)s)
ON CONFLICT (name) DO NOTHING
RETURNING webhook_id

-- name: remove
DELETE FROM webhook WHERE webhook_id = %(webhook_id)s

-- name: deliveries
SELECT delivery_id, finding_id, firing, state, attempts, created, ended, reason
FROM webhook_delivery
WHERE webhook_id = %(webhook_id)s
ORDER BY delivery_id DESC
LIMIT %(limit)s

-- name: changed
-- Findings open now that nobody has looked at and that a webhook wants and does not know to be open; then those that
-- are over and that it thinks are open. teams: those whose engines were placed in the finding's time; of a finding
-- about a workload, that workload's alone.
WITH changed AS (
    SELECT h.webhook_id, f.finding_id, true AS firing
    FROM webhook h
    JOIN finding f ON f.until IS NULL AND f.state = 'open' AND f.energy_mj >= h.min_energy_mj
        AND (h.kinds = '{}' OR f.kind = ANY(h.kinds)) AND (h.sites = '{}' OR f.site = ANY(h.sites))
    WHERE NOT EXISTS (
        SELECT FROM webhook_told k WHERE k.webhook_id = h.webhook_id AND k.finding_id = f.finding_id AND k.firing
    )
    UNION ALL
    SELECT k.webhook_id, k.finding_id, false
    FROM webhook_told k JOIN finding f USING (finding_id)
    WHERE k.firing AND (f.until IS NOT NULL OR f.state NOT IN ('open', 'acknowledged'))
), whose AS MATERIALIZED (
    SELECT f.finding_id, COALESCE(array_agg(DISTINCT w.team ORDER BY w.team) FILTER (WHERE w.team <> ''), '{}') AS teams
    FROM (SELECT DISTINCT finding_id FROM changed) c
    JOIN finding f USING (finding_id)
    CROSS JOIN LATERAL (
        SELECT p.workload_id, p.since, p.until FROM placement p WHERE p.engine_id = ANY(f.engine_ids)
        UNION ALL
        SELECT p.workload_id, p.since, p.until FROM placement p
        WHERE f.engine_ids = '{}' AND p.accelerator_ids && f.board_ids
    ) p
    JOIN workload w USING (workload_id)
    WHERE p.until >= f.since AND p.since <= f.last_seen AND (f.workload = '' OR w.name = f.workload)
    GROUP BY f.finding_id
)
SELECT h.webhook_id, h.name AS receiver, h.send_resolved, c.finding_id, c.firing, COALESCE(o.teams, '{}') AS teams
FROM changed c
JOIN webhook h USING (webhook_id)
LEFT JOIN whose o USING (finding_id)
WHERE NOT c.firing OR h.teams = '{}' OR h.teams && o.teams
ORDER BY c.finding_id, h.webhook_id
LIMIT %(limit)s

-- name: tell
INSERT INTO webhook_told (webhook_id, finding_id, firing, changed)
VALUES (%(webhook_id)s, %(finding_id)s, %(firing)s, %(now)s)
ON CONFLICT (webhook_id, finding_id) DO UPDATE SET firing = EXCLUDED.firing, changed = EXCLUDED.changed
    WHERE webhook_told.firing <> EXCLUDED.firing
RETURNING webhook_id

-- name: queue
INSERT INTO webhook_delivery (webhook_id, finding_id, firing, body, created, next_try)
VALUES (%(webhook_id)s, %(finding_id)s, %(firing)s, %(body)s, %(now)s, %(now)s)

-- name: claim
-- What is due, the first few of each webhook, put off for as long as the claim holds: whoever dies meanwhile, it is
-- tried again then. What comes after an undelivered one about the same finding waits for it.
UPDATE webhook_delivery d SET next_try = %(claimed_until)s
FROM webhook h
WHERE h.webhook_id = d.webhook_id AND d.delivery_id IN (
    SELECT delivery_id FROM (
        SELECT w.delivery_id, row_number() OVER (PARTITION BY w.webhook_id ORDER BY w.delivery_id) AS place
        FROM webhook_delivery w JOIN webhook v USING (webhook_id)
        WHERE w.state = 'waiting' AND w.next_try <= %(now)s AND v.next_try <= %(now)s
            AND NOT EXISTS (
                SELECT FROM webhook_delivery e
                WHERE e.webhook_id = w.webhook_id AND e.finding_id = w.finding_id AND e.state = 'waiting'
                    AND e.delivery_id < w.delivery_id
            )
    ) due
    WHERE place <= %(each)s
)
RETURNING d.delivery_id, d.webhook_id, d.token::text AS token, d.body, d.attempts, d.created, h.url, h.secret, h.failures

-- name: end_delivery
UPDATE webhook_delivery SET state = %(state)s, attempts = attempts + 1, ended = %(now)s, reason = %(reason)s
WHERE delivery_id = %(delivery_id)s AND state = 'waiting'

-- name: put_off_delivery
UPDATE webhook_delivery SET attempts = attempts + 1, next_try = %(next_try)s, reason = %(reason)s
WHERE delivery_id = %(delivery_id)s AND state = 'waiting'

-- name: answered
-- It answers: with yes, or with a refusal of this one alone.
UPDATE webhook SET failures = 0, next_try = %(now)s, error = %(error)s,
    delivered = CASE WHEN %(error)s = '' THEN %(now)s ELSE delivered END
WHERE webhook_id = %(webhook_id)s

-- name: failed
UPDATE webhook SET failures = failures + 1, next_try = %(next_try)s, error = %(error)s WHERE webhook_id = %(webhook_id)s

-- name: waiting
SELECT count(*) FROM webhook_delivery WHERE state = 'waiting'

-- name: forget_deliveries
DELETE FROM webhook_delivery WHERE state <> 'waiting' AND ended < %(before)s

-- name: forget_told
DELETE FROM webhook_told WHERE NOT firing AND changed < %(before)s
