-- Statements of store/phases.py: minutes of replicas as arrays, the day's phases in and out.

-- name: changed
-- Workload-days whose hours are not as they were when last learned; those waiting longest first, newest day first.
WITH now_seen AS (
    SELECT date_bin('1 day', h.time, 'epoch') AS time, p.workload_id, count(DISTINCT h.placement_id) AS replicas,
           concat_ws('/', count(*), sum(h.revision), sum(h.energy_mj), sum(h.estimated_mj), sum(h.covered_us),
                     sum(h.input_tokens), sum(h.cached_input_tokens), sum(h.output_tokens)) AS fingerprint
    FROM ledger_hour h
    JOIN placement p USING (placement_id)
    WHERE h.time >= %(first)s AND h.time < %(last)s
    GROUP BY 1, 2
), seen AS (
    SELECT time, workload_id, fingerprint, learned FROM phase_seen WHERE time >= %(first)s AND time < %(last)s
)
SELECT time, workload_id, COALESCE(n.replicas, 0)::bigint, COALESCE(n.fingerprint, '')
FROM now_seen n
FULL JOIN seen s USING (time, workload_id)
WHERE n.fingerprint IS DISTINCT FROM s.fingerprint
ORDER BY s.learned NULLS FIRST, time DESC, workload_id

-- name: placements
-- Front ends have no energy, and their tokens are those of the engines behind them.
SELECT p.placement_id, p.workload_id, cardinality(p.accelerator_ids)::bigint,
       COALESCE((SELECT min(a.model) FROM accelerator a WHERE a.accelerator_id = ANY(p.accelerator_ids)), '')
FROM placement p
WHERE p.workload_id = ANY(%(workload_ids)s) AND p.role <> 'frontend'
ORDER BY p.placement_id

-- name: replica_minutes
-- An engine that only prefills makes no output of its own, one that only decodes has no input: 0, which is known.
WITH energy AS (
    SELECT time, placement_id, sum(energy_mj) AS energy_mj, sum(estimated_mj) AS estimated_mj,
           sum(covered_us) AS covered_us, sum(span_us) AS span_us
    FROM ledger_minute
    WHERE time >= %(first)s AND time < %(last)s AND placement_id = ANY(%(placement_ids)s) AND account IN (1, 2)
    GROUP BY time, placement_id
), work AS (
    SELECT m.time, m.placement_id, sum(covered_us) AS covered_us, sum(anomalies) AS anomalies,
           sum(CASE WHEN p.role = 'decode' THEN 0
               ELSE COALESCE(computed_input_tokens, input_tokens - cached_input_tokens) END) AS uncached_input_tokens,
           sum(CASE WHEN p.role = 'decode' THEN 0
               ELSE COALESCE(cached_input_tokens, input_tokens - computed_input_tokens) END) AS cached_input_tokens,
           sum(CASE WHEN p.role = 'prefill' THEN 0 ELSE output_tokens END) AS output_tokens
    FROM engine_minute m
    JOIN placement p USING (placement_id)
    WHERE m.time >= %(first)s AND m.time < %(last)s AND m.placement_id = ANY(%(placement_ids)s)
    GROUP BY m.time, m.placement_id
)
SELECT placement_id::bigint, time, COALESCE(e.energy_mj, 0)::bigint, COALESCE(e.estimated_mj, 0)::bigint,
       COALESCE(e.covered_us, 0)::bigint, COALESCE(e.span_us, 0)::bigint, COALESCE(w.covered_us, 0)::bigint,
       COALESCE(w.anomalies, 0)::bigint, GREATEST(COALESCE(w.uncached_input_tokens, -1), -1)::bigint,
       GREATEST(COALESCE(w.cached_input_tokens, -1), -1)::bigint, COALESCE(w.output_tokens, -1)::bigint
FROM energy e FULL JOIN work w USING (time, placement_id)
ORDER BY placement_id, time

-- name: forget
DELETE FROM phase_day WHERE time = %(time)s AND workload_id = ANY(%(workload_ids)s)

-- name: insert_day
INSERT INTO phase_day (time, workload_id, accelerator_model, energy_mj, explained_mj, engine_us, uncached_input_tokens,
    output_tokens, cached_input_tokens, standing_mj, prefill_mj, decode_mj, minutes, wild_minutes, residual_ratio,
    r_squared, window_days, verdict, coefficients, errors, sums)
VALUES (%(time)s, %(workload_id)s, %(accelerator_model)s, %(energy_mj)s, %(explained_mj)s, %(engine_us)s,
    %(uncached_input_tokens)s, %(output_tokens)s, %(cached_input_tokens)s, %(explained_mj)s, 0, 0, 0, 0, 0, 'NaN', 1, 1,
    '{0,0,0}', '{NaN,NaN,NaN}', %(sums)s)

-- name: seen
INSERT INTO phase_seen (time, workload_id, fingerprint, learned)
SELECT %(time)s, u.workload_id, u.fingerprint, %(now)s
FROM unnest(%(workload_ids)s::integer[], %(fingerprints)s::text[]) AS u (workload_id, fingerprint)
ON CONFLICT (time, workload_id) DO UPDATE SET fingerprint = EXCLUDED.fingerprint, learned = EXCLUDED.learned

-- name: unsee
DELETE FROM phase_seen WHERE time = %(time)s AND workload_id = ANY(%(workload_ids)s)

-- name: day_sums
SELECT time, workload_id, accelerator_model, explained_mj, engine_us, uncached_input_tokens, output_tokens, sums
FROM phase_day
WHERE time >= %(first)s AND time < %(last)s AND workload_id = ANY(%(workload_ids)s)
ORDER BY workload_id, accelerator_model, time

-- name: refit
UPDATE phase_day
SET standing_mj = %(standing_mj)s, prefill_mj = %(prefill_mj)s, decode_mj = %(decode_mj)s, minutes = %(minutes)s,
    wild_minutes = %(wild_minutes)s, residual_ratio = %(residual_ratio)s, r_squared = %(r_squared)s,
    window_days = %(window_days)s, verdict = %(verdict)s, coefficients = %(coefficients)s, errors = %(errors)s
WHERE time = %(time)s AND workload_id = %(workload_id)s AND accelerator_model = %(accelerator_model)s

-- name: days
SELECT d.time, w.name AS workload, w.model, w.team, d.accelerator_model, d.energy_mj, d.explained_mj,
       d.uncached_input_tokens, d.output_tokens, d.cached_input_tokens, d.standing_mj, d.prefill_mj, d.decode_mj,
       d.minutes, d.wild_minutes, d.residual_ratio, d.r_squared, d.window_days, d.verdict, d.coefficients, d.errors,
       COALESCE(s.simulated, false) AS simulated
FROM phase_day d
JOIN workload w USING (workload_id)
LEFT JOIN (
    SELECT p.workload_id, bool_or(n.simulated) AS simulated
    FROM placement p
    JOIN engine e USING (engine_id)
    JOIN node n USING (node_id)
    GROUP BY p.workload_id
) s USING (workload_id)
WHERE d.time >= %(start)s AND d.time < %(end)s
    AND (%(workload)s::text[] IS NULL OR w.name = ANY(%(workload)s))
    AND (%(model)s::text[] IS NULL OR w.model = ANY(%(model)s))
    AND (%(team)s::text[] IS NULL OR w.team = ANY(%(team)s))
    AND (%(accelerator_model)s::text[] IS NULL OR d.accelerator_model = ANY(%(accelerator_model)s))
ORDER BY w.name, w.model, w.team, d.accelerator_model, d.time
LIMIT %(limit)s

-- name: latest
-- The newest price of a computed input token per workload; of the accelerator model with most energy on that day.
SELECT DISTINCT ON (workload_id) workload_id, coefficients[2], errors[2]
FROM phase_day
WHERE time >= %(first)s AND time <= %(at)s AND verdict = ANY(%(verdicts)s) AND coefficients[2] > 0
ORDER BY workload_id, time DESC, energy_mj DESC
