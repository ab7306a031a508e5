-- Statements of store/exposition.py: totals that only rise, and what is so right now. Nothing here reads all history.

-- name: hour_sums
-- What the hours of some nodes hold, by what /metrics tells apart.
SELECT n.site_id, COALESCE(p.workload_id, 0) AS workload_id, l.account, n.simulated,
       COALESCE(a.model, '') AS accelerator_model, sum(l.energy_mj)::bigint, sum(l.input_tokens)::bigint,
       sum(l.cached_input_tokens)::bigint, sum(l.output_tokens)::bigint
FROM ledger_hour l
JOIN node n USING (node_id)
LEFT JOIN placement p USING (placement_id)
LEFT JOIN accelerator a USING (accelerator_id)
WHERE l.node_id = ANY(%(node_ids)s) AND l.time >= %(first)s AND l.time < %(last)s
GROUP BY 1, 2, 3, 4, 5
UNION ALL
SELECT n.site_id, 0, 5, n.simulated, '', sum(h.energy_mj)::bigint, NULL, NULL, NULL
FROM host_hour h
JOIN node n USING (node_id)
WHERE h.node_id = ANY(%(node_ids)s) AND h.time >= %(first)s AND h.time < %(last)s
GROUP BY n.site_id, n.simulated

-- name: known_rows
SELECT site_id, workload_id, account, simulated, accelerator_model FROM exposed_energy

-- name: forget_idle_rows
DELETE FROM exposed_energy WHERE changed < now() - interval '90 days' AND site_id <> 0

-- name: move_totals
INSERT INTO exposed_energy AS e (site_id, workload_id, account, simulated, accelerator_model, energy_mj, shown_mj,
    input_tokens, shown_input_tokens, cached_input_tokens, shown_cached_input_tokens, output_tokens, shown_output_tokens,
    changed)
SELECT site_id, workload_id, account, simulated, accelerator_model, energy, GREATEST(energy, 0),
       input, GREATEST(input, 0 * input), cached, GREATEST(cached, 0 * cached), output, GREATEST(output, 0 * output), now()
FROM unnest(
    %(site_ids)s::integer[], %(workload_ids)s::integer[], %(accounts)s::smallint[], %(simulated)s::boolean[],
    %(accelerator_models)s::text[], %(energy_mj)s::bigint[], %(input_tokens)s::bigint[],
    %(cached_input_tokens)s::bigint[], %(output_tokens)s::bigint[]
) AS m (site_id, workload_id, account, simulated, accelerator_model, energy, input, cached, output)
ON CONFLICT (site_id, workload_id, account, simulated, accelerator_model) DO UPDATE SET
    energy_mj = e.energy_mj + EXCLUDED.energy_mj,
    shown_mj = GREATEST(e.shown_mj, e.energy_mj + EXCLUDED.energy_mj),
    input_tokens = CASE WHEN EXCLUDED.input_tokens IS NULL THEN e.input_tokens
        ELSE COALESCE(e.input_tokens, 0) + EXCLUDED.input_tokens END,
    shown_input_tokens = GREATEST(e.shown_input_tokens, CASE WHEN EXCLUDED.input_tokens IS NULL THEN NULL
        ELSE GREATEST(COALESCE(e.input_tokens, 0) + EXCLUDED.input_tokens, 0) END),
    cached_input_tokens = CASE WHEN EXCLUDED.cached_input_tokens IS NULL THEN e.cached_input_tokens
        ELSE COALESCE(e.cached_input_tokens, 0) + EXCLUDED.cached_input_tokens END,
    shown_cached_input_tokens = GREATEST(e.shown_cached_input_tokens, CASE WHEN EXCLUDED.cached_input_tokens IS NULL THEN NULL
        ELSE GREATEST(COALESCE(e.cached_input_tokens, 0) + EXCLUDED.cached_input_tokens, 0) END),
    output_tokens = CASE WHEN EXCLUDED.output_tokens IS NULL THEN e.output_tokens
        ELSE COALESCE(e.output_tokens, 0) + EXCLUDED.output_tokens END,
    shown_output_tokens = GREATEST(e.shown_output_tokens, CASE WHEN EXCLUDED.output_tokens IS NULL THEN NULL
        ELSE GREATEST(COALESCE(e.output_tokens, 0) + EXCLUDED.output_tokens, 0) END),
    changed = now()

-- name: count_findings
-- Brings exposed_waste in line with the findings seen since a time; older ones do not change any more.
-- A suppressed one wastes nothing that anybody should hear of.
WITH moved AS (
    SELECT f.finding_id, f.kind, f.site, f.workload, f.simulated, v.energy_mj, v.energy_mj - COALESCE(x.energy_mj, 0) AS by_mj
    FROM finding f
    CROSS JOIN LATERAL (SELECT CASE WHEN f.state = 'suppressed' THEN 0 ELSE f.energy_mj END AS energy_mj) v
    LEFT JOIN exposed_finding x USING (finding_id)
    WHERE (f.until IS NULL OR f.last_seen >= %(since)s) AND v.energy_mj IS DISTINCT FROM x.energy_mj
), kept AS (
    INSERT INTO exposed_finding (finding_id, energy_mj) SELECT finding_id, energy_mj FROM moved
    ON CONFLICT (finding_id) DO UPDATE SET energy_mj = EXCLUDED.energy_mj
), room AS (
    SELECT kind, site, workload, simulated,
           row_number() OVER (ORDER BY kind, site, workload) + (SELECT count(*) FROM exposed_waste) <= %(most)s AS fits
    FROM (SELECT DISTINCT kind, site, workload, simulated FROM moved) m
    WHERE NOT EXISTS (
        SELECT FROM exposed_waste w
        WHERE (w.kind, w.site, w.workload, w.simulated) = (m.kind, m.site, m.workload, m.simulated))
)
INSERT INTO exposed_waste AS w (kind, site, workload, simulated, energy_mj, shown_mj, changed)
SELECT m.kind, CASE WHEN r.fits IS FALSE THEN 'other' ELSE m.site END, CASE WHEN r.fits IS FALSE THEN 'other' ELSE m.workload END,
       m.simulated, sum(m.by_mj)::bigint, GREATEST(sum(m.by_mj), 0)::bigint, now()
FROM moved m
LEFT JOIN room r USING (kind, site, workload, simulated)
GROUP BY 1, 2, 3, 4
ON CONFLICT (kind, site, workload, simulated) DO UPDATE SET
    energy_mj = w.energy_mj + EXCLUDED.energy_mj,
    shown_mj = GREATEST(w.shown_mj, w.energy_mj + EXCLUDED.energy_mj),
    changed = now()

-- name: energy
SELECT CASE WHEN e.site_id = 0 THEN 'other' ELSE COALESCE(s.name, '') END AS site,
       CASE WHEN e.workload_id = -1 THEN 'other' ELSE COALESCE(w.name, '') END AS workload,
       CASE WHEN e.workload_id = -1 THEN 'other' ELSE COALESCE(w.model, '') END AS model,
       CASE WHEN e.workload_id = -1 THEN 'other' ELSE COALESCE(w.team, '') END AS team,
       e.accelerator_model, e.account, e.simulated, e.shown_mj, e.shown_input_tokens, e.shown_cached_input_tokens,
       e.shown_output_tokens
FROM exposed_energy e
LEFT JOIN site s USING (site_id)
LEFT JOIN workload w USING (workload_id)
ORDER BY 1, 2, 3, 4, 5, 6, 7

-- name: waste
SELECT kind, site, workload, simulated, shown_mj FROM exposed_waste ORDER BY 1, 2, 3, 4

-- name: findings_now
-- Kinds that were found at least once, whether or not there is one now: a series that is gone can't be told from 0.
SELECT k.kind, s.state, count(f.finding_id)::int AS findings
FROM (SELECT DISTINCT kind FROM exposed_waste) k
CROSS JOIN unnest(ARRAY['open', 'acknowledged', 'suppressed']) AS s (state)
LEFT JOIN finding f ON f.until IS NULL AND f.kind = k.kind AND f.state = s.state
GROUP BY 1, 2
ORDER BY 1, 2

-- name: waste_now
SELECT kind, site, workload, simulated, sum(mj_per_day)::bigint AS mj_per_day
FROM finding
WHERE until IS NULL AND state IN ('open', 'acknowledged') AND mj_per_day IS NOT NULL
GROUP BY 1, 2, 3, 4
ORDER BY 5 DESC
LIMIT %(most)s

-- name: nodes
-- The longest silent first: where there is not room for all, those matter. What is silent for a week is taken for removed.
SELECT s.name AS site, n.name AS node, n.simulated, n.last_seen
FROM node n
JOIN site s USING (site_id)
WHERE n.last_seen >= %(since)s
ORDER BY n.last_seen, 1, 2
LIMIT %(most)s

-- name: sites
-- Boards and their last settled minutes. A board that was not seen for a week is taken for removed.
SELECT s.name AS site, c.simulated, c.nodes, c.last_seen, c.boards, c.expected_minutes, m.energy_mj,
       COALESCE(m.covered_us, 0) AS covered_us
FROM (
    SELECT n.site_id, n.simulated, count(DISTINCT n.node_id)::int AS nodes, max(n.last_seen) AS last_seen,
           count(a.accelerator_id)::int AS boards,
           (count(a.accelerator_id) FILTER (WHERE a.first_seen < %(first)s))::int * %(minutes)s AS expected_minutes
    FROM node n
    LEFT JOIN accelerator a ON a.node_id = n.node_id AND a.last_seen >= %(since)s
    WHERE n.last_seen >= %(since)s
    GROUP BY n.site_id, n.simulated
) c
JOIN site s USING (site_id)
LEFT JOIN (
    SELECT n.site_id, n.simulated, sum(m.energy_mj)::bigint AS energy_mj,
           (sum(m.covered_us) FILTER (WHERE a.first_seen < %(first)s))::bigint AS covered_us
    FROM accelerator_minute m
    JOIN node n USING (node_id)
    JOIN accelerator a USING (accelerator_id)
    WHERE m.time >= %(first)s AND m.time < %(last)s
    GROUP BY n.site_id, n.simulated
) m USING (site_id, simulated)
ORDER BY 1, 2
LIMIT %(most)s

-- name: newest_minute
SELECT time FROM ledger_minute WHERE time >= %(oldest)s AND time < %(now)s ORDER BY time DESC LIMIT 1

-- name: waiting_spans
SELECT count(*)::int FROM (SELECT FROM dirty_span LIMIT 100000) d

-- name: meters
-- Chassis are left out: they are as many as the nodes, and nodes show themselves.
SELECT s.name AS site, m.name AS meter, m.level, t.shown_mj
FROM power_meter m
JOIN power_meter_total t USING (meter_id)
JOIN site s USING (site_id)
WHERE m.node_id = 0 AND m.last_seen >= %(since)s
ORDER BY 1, 2
LIMIT %(most)s
