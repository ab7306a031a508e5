-- Statements of store/curves.py: minutes of replicas as arrays, counts of curves in and out.

-- name: placements
-- Replicas of the window and what makes them comparable. One whose boards are unknown has no energy per token, one that
-- only prefills has no output, and a part of a board is like no other. Those that only decode are like each other.
SELECT p.placement_id, p.engine_id, COALESCE(NULLIF(w.model, ''), w.name), a.model,
       e.engine_kind || CASE WHEN p.role = 'decode' THEN ' decode' ELSE '' END,
       cardinality(p.accelerator_ids), n.simulated, n.interval_us
FROM placement p
JOIN engine e USING (engine_id)
JOIN node n USING (node_id)
JOIN workload w USING (workload_id)
JOIN LATERAL (
    SELECT min(model) AS model FROM accelerator WHERE accelerator_id = ANY(p.accelerator_ids)
) a ON a.model <> ''
WHERE p.until >= %(first)s AND p.since < %(last)s AND p.role IN ('', 'decode') AND cardinality(p.shares_ppm) = 0
ORDER BY p.placement_id

-- name: add_families
INSERT INTO curve_family (model, accelerator_model, engine_kind, boards, simulated)
SELECT DISTINCT * FROM unnest(%(models)s::text[], %(accelerator_models)s::text[], %(engine_kinds)s::text[],
    %(boards)s::integer[], %(simulated)s::boolean[])
ON CONFLICT DO NOTHING

-- name: families
SELECT family_id, model, accelerator_model, engine_kind, boards, simulated FROM curve_family

-- name: versions
SELECT engine_id, (extract(epoch FROM since) * 1000000)::bigint, version FROM engine_version
WHERE engine_id = ANY(%(engine_ids)s)
ORDER BY engine_id, since

-- name: hours
SELECT h.time, f.family_id,
       concat_ws('/', count(*), sum(h.revision), sum(h.energy_mj), sum(h.estimated_mj), sum(h.covered_us),
                 sum(h.input_tokens), sum(h.cached_input_tokens), sum(h.output_tokens))
FROM ledger_hour h
JOIN unnest(%(placement_ids)s::integer[], %(family_ids)s::integer[]) AS f (placement_id, family_id) USING (placement_id)
WHERE h.time >= %(first)s AND h.time < %(last)s
GROUP BY 1, 2

-- name: seen
SELECT time, family_id, fingerprint, learnt FROM curve_seen WHERE time >= %(first)s AND time < %(last)s

-- name: incidents
-- When replicas did not run as they should: what they cost then is no measure. A regression that nothing confirms, no
-- change of version and no person, counts for its first hours only: what stays so is the new usual, and a false one
-- can't keep the curve wrong that it was told from.
SELECT p.placement_id, f.since,
       CASE WHEN f.kind = 'regression' AND f.acknowledged IS NULL AND NOT f.evidence ? 'version_after'
            THEN LEAST(COALESCE(f.until, f.last_seen), f.since + %(unconfirmed)s)
            ELSE COALESCE(f.until, f.last_seen) END
FROM finding f
JOIN placement p ON p.engine_id = ANY(f.engine_ids) OR (f.engine_ids = '{}' AND p.accelerator_ids && f.board_ids)
WHERE f.kind = ANY(%(kinds)s) AND f.since < %(last)s AND COALESCE(f.until, f.last_seen) > %(first)s
    AND p.until >= %(first)s AND p.since < %(last)s
ORDER BY 1, 2, 3

-- name: minutes
WITH energy AS (
    SELECT time, placement_id, sum(energy_mj) FILTER (WHERE account = 1) AS serving_mj,
           sum(estimated_mj) AS estimated_mj, sum(span_us - covered_us) AS untrusted_us
    FROM ledger_minute
    WHERE time >= %(first)s AND time < %(last)s AND placement_id = ANY(%(placement_ids)s)
    GROUP BY time, placement_id
), work AS (
    SELECT m.time, m.placement_id, sum(input_tokens) FILTER (WHERE p.role <> 'decode') AS input_tokens,
           sum(COALESCE(cached_input_tokens, GREATEST(0, input_tokens - computed_input_tokens)))
               FILTER (WHERE p.role <> 'decode') AS cached_input_tokens,
           sum(output_tokens) AS output_tokens, sum(covered_us) AS covered_us, avg(requests_running) AS running
    FROM engine_minute m
    JOIN placement p USING (placement_id)
    WHERE m.time >= %(first)s AND m.time < %(last)s AND m.placement_id = ANY(%(placement_ids)s)
    GROUP BY m.time, m.placement_id
)
SELECT w.placement_id::bigint, w.time, COALESCE(e.serving_mj, 0)::bigint, COALESCE(e.estimated_mj, 0)::bigint,
       GREATEST(e.untrusted_us, 60000000 - w.covered_us, 0)::bigint,
       (COALESCE(w.input_tokens, 0) - GREATEST(w.cached_input_tokens, 0))::bigint,
       COALESCE(w.output_tokens, 0)::bigint, COALESCE(w.running, 'NaN')::float8
FROM work w LEFT JOIN energy e USING (time, placement_id)
ORDER BY w.placement_id, w.time

-- name: clear_hour
DELETE FROM curve_hour WHERE time = %(time)s AND family_id = ANY(%(family_ids)s)

-- name: insert_hour
INSERT INTO curve_hour (time, family_id, version, minutes, cost_cells, cost_minutes, speed_cells, speed_minutes,
    moment_groups, moments)
VALUES (%(time)s, %(family_id)s, %(version)s, %(minutes)s, %(cost_cells)s, %(cost_minutes)s, %(speed_cells)s,
    %(speed_minutes)s, %(moment_groups)s, %(moments)s)

-- name: saw
INSERT INTO curve_seen (time, family_id, fingerprint, learnt)
SELECT %(time)s, u.family_id, u.fingerprint, %(now)s
FROM unnest(%(family_ids)s::integer[], %(fingerprints)s::text[]) AS u (family_id, fingerprint)
ON CONFLICT (time, family_id) DO UPDATE SET fingerprint = EXCLUDED.fingerprint, learnt = EXCLUDED.learnt

-- name: clear_day
DELETE FROM curve_day WHERE time = %(time)s AND family_id = ANY(%(family_ids)s)

-- name: insert_day
INSERT INTO curve_day (time, family_id, version, minutes, cost_cells, cost_minutes, speed_cells, speed_minutes,
    moment_groups, moments)
VALUES (%(time)s, %(family_id)s, %(version)s, %(minutes)s, %(cost_cells)s, %(cost_minutes)s, %(speed_cells)s,
    %(speed_minutes)s, %(moment_groups)s, %(moments)s)

-- name: hour_counts
SELECT family_id, version, time, array_send(cost_cells), array_send(cost_minutes), array_send(speed_cells),
       array_send(speed_minutes), array_send(moment_groups), array_send(moments)
FROM curve_hour
WHERE time >= %(first)s AND time < %(last)s AND family_id = ANY(%(family_ids)s)
ORDER BY family_id, version, time

-- name: day_counts
SELECT d.family_id, d.version, d.time, array_send(cost_cells), array_send(cost_minutes), array_send(speed_cells),
       array_send(speed_minutes), array_send(moment_groups), array_send(moments)
FROM curve_day d
JOIN unnest(%(family_ids)s::integer[], %(versions)s::text[]) AS wanted (family_id, version) USING (family_id, version)
WHERE d.time >= %(first)s AND d.time < %(last)s
ORDER BY d.family_id, d.version, d.time

-- name: learnt
-- How much was learnt of each family and version in a window.
SELECT d.family_id, d.version, sum(d.minutes)::bigint, count(*), min(d.time), max(d.time)
FROM curve_day d
JOIN curve_family f USING (family_id)
WHERE d.time >= %(first)s AND d.time < %(last)s AND d.minutes > 0
    AND (%(model)s::text[] IS NULL OR f.model = ANY(%(model)s))
    AND (%(accelerator_model)s::text[] IS NULL OR f.accelerator_model = ANY(%(accelerator_model)s))
    AND (%(family_ids)s::integer[] IS NULL OR d.family_id = ANY(%(family_ids)s))
GROUP BY d.family_id, d.version
ORDER BY d.family_id, d.version

-- name: engines
-- Every engine with the replica that it is or was last.
SELECT DISTINCT ON (p.engine_id) p.engine_id, p.placement_id
FROM placement p
WHERE p.until >= %(first)s
ORDER BY p.engine_id, p.until DESC, p.since DESC, p.placement_id DESC

-- name: placements_of_workloads
SELECT p.placement_id FROM placement p JOIN workload w USING (workload_id)
WHERE w.name = ANY(%(names)s) AND p.until >= %(first)s AND p.since < %(last)s

-- name: forget_hours
DELETE FROM curve_hour WHERE time < %(before)s

-- name: forget_seen
DELETE FROM curve_seen WHERE time < %(before)s

-- name: forget_days
DELETE FROM curve_day WHERE time < %(before)s
