-- Statements of store/detection.py: minutes for the detectors, findings in and out.

-- name: engine_minutes
WITH energy AS (
    SELECT l.time, p.engine_id,
           sum(l.energy_mj) FILTER (WHERE account = 1) AS serving_mj,
           sum(l.energy_mj) FILTER (WHERE account = 2) AS idle_loaded_mj,
           sum(l.estimated_mj) AS estimated_mj,
           sum(a.power_limit_mw) FILTER (WHERE l.energy_mj > 0) AS limit_mw,
           sum(l.span_us) AS span_us
    FROM ledger_minute l
    JOIN placement p USING (placement_id)
    JOIN accelerator a USING (accelerator_id)
    WHERE l.time >= %(first)s AND l.time < %(last)s
    GROUP BY l.time, p.engine_id
), work AS (
    SELECT time, engine_id, sum(output_tokens) AS output_tokens, sum(anomalies) AS anomalies,
           sum(covered_us) AS covered_us, avg(requests_running) AS running, avg(requests_waiting) AS waiting
    FROM engine_minute WHERE time >= %(first)s AND time < %(last)s
    GROUP BY time, engine_id
)
SELECT w.engine_id::bigint, w.time, COALESCE(e.serving_mj, 0)::bigint, COALESCE(e.idle_loaded_mj, 0)::bigint, 0::bigint,
       COALESCE(e.estimated_mj, 0)::bigint, COALESCE(w.output_tokens, 0)::bigint, w.anomalies::bigint,
       GREATEST(0, 60000000 - w.covered_us)::bigint,
       CASE WHEN e.limit_mw > 0 THEN (COALESCE(e.serving_mj, 0) + COALESCE(e.idle_loaded_mj, 0)) / 60.0 / e.limit_mw
            ELSE 'NaN' END::float8,
       'NaN'::float8, COALESCE(w.running, 'NaN')::float8, COALESCE(w.waiting, 'NaN')::float8
FROM work w LEFT JOIN energy e USING (time, engine_id)
ORDER BY w.engine_id, w.time

-- name: accelerator_minutes
WITH energy AS (
    SELECT time, accelerator_id,
           sum(energy_mj) FILTER (WHERE account = 1) AS serving_mj,
           sum(energy_mj) FILTER (WHERE account = 2) AS idle_loaded_mj,
           sum(energy_mj) FILTER (WHERE account = 3) AS idle_empty_mj
    FROM ledger_minute WHERE time >= %(first)s AND time < %(last)s AND accelerator_id <> 0
    GROUP BY time, accelerator_id
)
SELECT m.accelerator_id::bigint, m.time, COALESCE(e.serving_mj, 0)::bigint, COALESCE(e.idle_loaded_mj, 0)::bigint,
       COALESCE(e.idle_empty_mj, 0)::bigint, m.estimated_mj, 0::bigint, m.anomalies::bigint,
       GREATEST(0, 60000000 - m.covered_us)::bigint,
       CASE WHEN a.power_limit_mw > 0 THEN m.power_mw::float8 / a.power_limit_mw ELSE 'NaN' END::float8,
       COALESCE(m.utilisation_ratio, 'NaN')::float8, 'NaN'::float8, 'NaN'::float8
FROM accelerator_minute m
JOIN accelerator a USING (accelerator_id)
LEFT JOIN energy e USING (time, accelerator_id)
WHERE m.time >= %(first)s AND m.time < %(last)s
ORDER BY m.accelerator_id, m.time

-- name: engine_subjects
SELECT e.engine_id, 'engine:' || s.name || '/' || n.name || ' ' || e.target || CASE WHEN e.series = '' THEN '' ELSE ' ' || e.series END,
       s.name, n.name, COALESCE(w.name, ''), n.simulated
FROM engine e
JOIN node n USING (node_id)
JOIN site s USING (site_id)
LEFT JOIN LATERAL (
    SELECT w.name FROM placement p JOIN workload w USING (workload_id)
    WHERE p.engine_id = e.engine_id ORDER BY p.until DESC LIMIT 1) w ON true
WHERE e.engine_id = ANY(%(ids)s)

-- name: accelerator_subjects
SELECT a.accelerator_id, 'accelerator:' || a.uuid, s.name, n.name, '', n.simulated
FROM accelerator a JOIN node n USING (node_id) JOIN site s USING (site_id)
WHERE a.accelerator_id = ANY(%(ids)s)

-- name: window
SELECT (SELECT count(*) FROM accelerator) AS accelerators,
       (SELECT min(since) FROM finding WHERE until IS NULL) AS oldest_open,
       (SELECT max(time) FROM accelerator_minute WHERE time >= %(after)s AND time <= %(now)s) AS newest

-- name: findings_since
SELECT finding_id, kind, subject, state, since, until, last_seen, resolved FROM finding
WHERE until IS NULL OR until >= %(first)s OR last_seen >= %(first)s

-- name: insert_finding
INSERT INTO finding (kind, subject, state, site, node, workload, since, until, last_seen, energy_mj, evidence, summary, remedy, simulated)
VALUES (%(kind)s, %(subject)s, %(state)s, %(site)s, %(node)s, %(workload)s, %(since)s, %(until)s, %(last_seen)s,
        %(energy_mj)s, %(evidence)s, %(summary)s, %(remedy)s, %(simulated)s)

-- name: update_finding
UPDATE finding SET state = %(state)s, since = LEAST(since, %(since)s), until = %(until)s, last_seen = %(last_seen)s,
    energy_mj = %(energy_mj)s, evidence = %(evidence)s, summary = %(summary)s, remedy = %(remedy)s, workload = %(workload)s
WHERE finding_id = %(finding_id)s

-- name: close_finding
UPDATE finding SET state = CASE WHEN state = 'resolved' THEN state ELSE 'closed' END, until = last_seen
WHERE finding_id = %(finding_id)s
