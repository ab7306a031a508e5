-- Statements of store/detection.py: who there is, and minutes for the detectors.

-- name: newest
SELECT max(time) FROM accelerator_minute WHERE time >= %(oldest)s AND time <= %(now)s

-- name: turn
SELECT nextval('detection_turn')

-- name: engines
-- Engines seen since `first`, under the workload and on the boards of their latest placement. A front end makes no
-- tokens of its own and a worker shows none: nothing is judged by them.
WITH latest AS (
    SELECT DISTINCT ON (engine_id) engine_id, workload_id, accelerator_ids, role FROM placement
    ORDER BY engine_id, until DESC, since DESC, placement_id DESC
), held AS (
    SELECT engine_id, array_agg(placement_id ORDER BY placement_id) AS placement_ids FROM placement GROUP BY engine_id
)
SELECT e.engine_id,
       s.name || '/' || n.name || ' ' || e.target || CASE WHEN e.series = '' THEN '' ELSE ' ' || e.series END AS name,
       s.name AS site, n.name AS node, n.simulated, latest.workload_id, w.name AS workload, w.model, w.team,
       latest.role, latest.accelerator_ids AS board_ids, held.placement_ids, n.interval_us
FROM engine e
JOIN node n USING (node_id)
JOIN site s USING (site_id)
JOIN latest USING (engine_id)
JOIN held USING (engine_id)
JOIN workload w USING (workload_id)
WHERE e.last_seen >= %(first)s AND latest.role NOT IN ('frontend', 'worker')
ORDER BY e.engine_id

-- name: boards
SELECT a.accelerator_id, a.uuid, s.name AS site, n.name AS node, n.simulated,
       COALESCE(a.power_limit_mw, 0) AS power_limit_mw
FROM accelerator a JOIN node n USING (node_id) JOIN site s USING (site_id)
WHERE a.last_seen >= %(first)s
ORDER BY a.accelerator_id

-- name: engine_minutes
-- Of tokens what is the engine's own to account for: see accounting/engines.py.
WITH energy AS (
    SELECT l.time, p.engine_id,
           sum(l.energy_mj) FILTER (WHERE account = 1) AS serving_mj,
           sum(l.energy_mj) FILTER (WHERE account = 2) AS idle_loaded_mj,
           sum(l.estimated_mj) AS estimated_mj
    FROM ledger_minute l
    JOIN placement p USING (placement_id)
    WHERE l.time >= %(first)s AND l.time < %(last)s AND l.placement_id = ANY(%(placement_ids)s)
    GROUP BY l.time, p.engine_id
), work AS (
    SELECT m.time, m.engine_id, sum(input_tokens) FILTER (WHERE p.role IS DISTINCT FROM 'decode') AS input_tokens,
           sum(COALESCE(cached_input_tokens, GREATEST(0, input_tokens - computed_input_tokens)))
               FILTER (WHERE p.role IS DISTINCT FROM 'decode') AS cached_input_tokens,
           sum(output_tokens) FILTER (WHERE p.role IS DISTINCT FROM 'prefill') AS output_tokens,
           sum(requests_finished) AS requests_finished,
           sum(preemptions) AS preemptions, sum(anomalies) AS anomalies, sum(covered_us) AS covered_us,
           avg(requests_running) AS running, avg(requests_waiting) AS waiting, avg(kv_cache_usage_ratio) AS kv_usage
    FROM engine_minute m
    LEFT JOIN placement p USING (placement_id)
    WHERE m.time >= %(first)s AND m.time < %(last)s AND m.engine_id = ANY(%(engine_ids)s)
    GROUP BY m.time, m.engine_id
)
SELECT w.engine_id::bigint, w.time, COALESCE(e.serving_mj, 0)::bigint, COALESCE(e.idle_loaded_mj, 0)::bigint,
       COALESCE(e.estimated_mj, 0)::bigint, COALESCE(w.input_tokens, 0)::bigint,
       COALESCE(w.cached_input_tokens, -1)::bigint, COALESCE(w.output_tokens, 0)::bigint,
       COALESCE(w.requests_finished, -1)::bigint, COALESCE(w.preemptions, -1)::bigint, w.anomalies::bigint,
       GREATEST(0, 60000000 - w.covered_us)::bigint,
       COALESCE(w.running, 'NaN')::float8, COALESCE(w.waiting, 'NaN')::float8, COALESCE(w.kv_usage, 'NaN')::float8
FROM work w LEFT JOIN energy e USING (time, engine_id)
ORDER BY w.engine_id, w.time

-- name: board_minutes
WITH energy AS (
    SELECT time, accelerator_id,
           sum(energy_mj) FILTER (WHERE account = 1) AS serving_mj,
           sum(energy_mj) FILTER (WHERE account = 2) AS idle_loaded_mj,
           sum(energy_mj) FILTER (WHERE account = 3) AS idle_empty_mj,
           sum(energy_mj) FILTER (WHERE account = 4) AS unattributed_mj
    FROM ledger_minute
    WHERE time >= %(first)s AND time < %(last)s AND accelerator_id = ANY(%(board_ids)s)
    GROUP BY time, accelerator_id
)
SELECT m.accelerator_id::bigint, m.time, COALESCE(e.serving_mj, 0)::bigint, COALESCE(e.idle_loaded_mj, 0)::bigint,
       COALESCE(e.idle_empty_mj, 0)::bigint, m.estimated_mj, m.anomalies::bigint,
       GREATEST(0, 60000000 - m.covered_us)::bigint, COALESCE(m.clock_event_reasons, 0),
       COALESCE(m.sm_clock_mhz, -1)::bigint, COALESCE(e.unattributed_mj, 0)::bigint,
       COALESCE(m.power_mw::float8, 'NaN'),
       COALESCE(m.power_mw::float8 / NULLIF(a.power_limit_mw, 0), 'NaN'), COALESCE(m.utilisation_ratio, 'NaN')::float8
FROM accelerator_minute m
JOIN accelerator a USING (accelerator_id)
LEFT JOIN energy e USING (time, accelerator_id)
WHERE m.time >= %(first)s AND m.time < %(last)s AND m.accelerator_id = ANY(%(board_ids)s)
ORDER BY m.accelerator_id, m.time

-- name: carried
-- The batch that engines exceeded in a hundredth of their minutes, as they were looked at.
SELECT engine_id, percentile_cont(0.99) WITHIN GROUP (ORDER BY requests_running)
FROM engine_minute
WHERE time >= %(oldest)s AND time < %(first)s AND engine_id = ANY(%(engine_ids)s) AND requests_running > 0
GROUP BY engine_id
HAVING count(*) >= 60

-- name: before
-- Workloads in the days before the minutes that are looked at: the busiest hour, where at least a day was seen, and the
-- usual hit ratio, a median of hours weighted by their input, where at least 6 are known. Hours of a cache-miss are not
-- usual, unless they came after somebody resolved it: then prompts may have changed for good. Once 6 hours were seen
-- since the last resolve, they alone count.
WITH hour AS (
    SELECT p.workload_id, l.time, sum(l.output_tokens) AS output_tokens,
           sum(l.input_tokens) FILTER (WHERE l.cached_input_tokens IS NOT NULL) AS input_tokens,
           sum(l.cached_input_tokens) AS cached_input_tokens
    FROM ledger_hour l JOIN placement p USING (placement_id)
    WHERE l.time >= %(oldest)s AND l.time < %(first)s AND p.workload_id = ANY(%(workload_ids)s)
    GROUP BY p.workload_id, l.time
), missed AS (
    SELECT w.workload_id, f.state, f.since, r.resolved, LEAST(COALESCE(f.until, 'infinity'), r.resolved) AS until
    FROM finding f
    JOIN workload w ON w.name = f.workload AND w.workload_id = ANY(%(workload_ids)s)
    CROSS JOIN LATERAL (
        SELECT max(time) AS resolved FROM finding_event e WHERE e.finding_id = f.finding_id AND e.what = 'resolved'
    ) r
    WHERE f.kind = 'cache-miss' AND f.since < %(first)s AND (f.until IS NULL OR f.until > %(oldest)s)
        AND EXISTS (SELECT FROM placement p WHERE p.workload_id = w.workload_id AND p.engine_id = ANY(f.engine_ids))
), usual AS (
    SELECT h.workload_id, h.time, h.input_tokens, h.cached_input_tokens::float8 / h.input_tokens AS ratio,
           COALESCE(h.time >= last.resolved, false) AS is_new,
           count(*) FILTER (WHERE h.time >= last.resolved) OVER (PARTITION BY h.workload_id) AS new_hours
    FROM hour h
    LEFT JOIN (SELECT workload_id, max(resolved) AS resolved FROM missed GROUP BY 1) AS last USING (workload_id)
    WHERE h.input_tokens > 0 AND NOT EXISTS (
        SELECT FROM missed m
        WHERE m.workload_id = h.workload_id AND m.state <> 'suppressed'
            AND h.time < m.until AND h.time + interval '1 hour' > m.since
    )
), ranked AS (
    SELECT workload_id, ratio, count(*) OVER whole AS hours, sum(input_tokens) OVER whole AS total,
           sum(input_tokens) OVER (PARTITION BY workload_id ORDER BY ratio, time) AS up_to_here
    FROM usual WHERE is_new OR new_hours < 6
    WINDOW whole AS (PARTITION BY workload_id)
), peak AS (
    SELECT workload_id, max(output_tokens)::float8 / 3600 AS tokens_per_s
    FROM hour WHERE time >= %(oldest_peak)s
    GROUP BY workload_id
    HAVING min(time) <= %(first)s - interval '1 day' AND max(output_tokens) > 0
), median AS (
    SELECT workload_id, min(ratio) AS ratio FROM ranked WHERE hours >= 6 AND 2 * up_to_here >= total GROUP BY workload_id
)
SELECT workload_id, COALESCE(p.tokens_per_s, 'NaN'), COALESCE(m.ratio, 'NaN')
FROM peak p FULL JOIN median m USING (workload_id)
