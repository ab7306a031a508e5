-- Statements of store/query.py: what people and tools ask. Every one over a time series binds time.
--
-- Dimensions that are not asked for are NULL, so that one text serves every grouping. `hour_start` to `hour_end` is read
-- from hours (inside it `day_start` to `day_end` from days), the rest from minutes; all hold the same sums. Slices are the stretches between two changes of any price.

-- name: ping
SELECT 1

-- name: one_snapshot
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ

-- name: ledger_entry
-- A part of `energy`: the ledger's rows as they are.
SELECT
    l.*,
    account = 1 AND input_tokens IS NULL AS input_unknown,
    account = 1 AND cached_input_tokens IS NULL AS cached_unknown,
    account = 1 AND output_tokens IS NULL AS output_unknown,
    false AS host_unknown
FROM (
    SELECT time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens,
           cached_input_tokens, output_tokens, covered_us, span_us
    FROM ledger_day WHERE time >= %(day_start)s AND time < %(day_end)s
    UNION ALL
    SELECT time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens,
           cached_input_tokens, output_tokens, covered_us, span_us
    FROM ledger_hour WHERE time >= %(hour_start)s AND time < %(day_start)s
    UNION ALL
    SELECT time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens,
           cached_input_tokens, output_tokens, covered_us, span_us
    FROM ledger_hour WHERE time >= %(day_end)s AND time < %(hour_end)s
    UNION ALL
    SELECT time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens,
           cached_input_tokens, output_tokens, covered_us, span_us
    FROM ledger_minute WHERE time >= %(start)s AND time < %(hour_start)s
    UNION ALL
    SELECT time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens,
           cached_input_tokens, output_tokens, covered_us, span_us
    FROM ledger_minute WHERE time >= %(hour_end)s AND time < %(end)s
) l

-- name: shared_entry
-- A part of `energy`: as `ledger_entry`, with each node's host energy shared among its rows of the same minute (or hour)
-- by their energy: whole millijoules, largest remainder, so that the shares sum to the host's meter. Where the boards
-- used nothing there is nobody to share with, and it stays a row of its own. Days hold what their hours' shares sum to;
-- one that roll-up has not shared out yet says that its host is unknown. `every`: what names of tables begin with.
-- Hosts and rows meet in a window and not in a join: one by time alone would hold every row against every node.
WITH entry AS (
    SELECT time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens,
           cached_input_tokens, output_tokens, covered_us, span_us
    FROM {every}ledger_hour WHERE time >= %(hour_start)s AND time < %(day_start)s
    UNION ALL
    SELECT time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens,
           cached_input_tokens, output_tokens, covered_us, span_us
    FROM {every}ledger_hour WHERE time >= %(day_end)s AND time < %(hour_end)s
    UNION ALL
    SELECT time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens,
           cached_input_tokens, output_tokens, covered_us, span_us
    FROM {every}ledger_minute WHERE time >= %(start)s AND time < %(hour_start)s
    UNION ALL
    SELECT time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens,
           cached_input_tokens, output_tokens, covered_us, span_us
    FROM {every}ledger_minute WHERE time >= %(hour_end)s AND time < %(end)s
), host_entry AS (
    SELECT time, node_id, energy_mj, estimated_mj
    FROM {every}host_hour WHERE time >= %(hour_start)s AND time < %(day_start)s
    UNION ALL
    SELECT time, node_id, energy_mj, estimated_mj
    FROM {every}host_hour WHERE time >= %(day_end)s AND time < %(hour_end)s
    UNION ALL
    SELECT time, node_id, energy_mj, estimated_mj
    FROM {every}host_minute WHERE time >= %(start)s AND time < %(hour_start)s
    UNION ALL
    SELECT time, node_id, energy_mj, estimated_mj
    FROM {every}host_minute WHERE time >= %(hour_end)s AND time < %(end)s
), met AS (
    SELECT
        u.*, sum(host_mj) OVER node AS node_host_mj, sum(host_estimated_mj) OVER node AS node_estimated_mj,
        sum(energy_mj) OVER node AS node_mj
    FROM (
        SELECT entry.*, NULL::numeric AS host_mj, NULL::numeric AS host_estimated_mj FROM entry
        UNION ALL
        SELECT time, node_id, 0, 0, 5, NULL, NULL, NULL, NULL, NULL, 0, 0, sum(energy_mj), sum(estimated_mj)
        FROM host_entry
        GROUP BY time, node_id
    ) u
    WINDOW node AS (PARTITION BY time, node_id)
), floored AS (
    SELECT
        met.*,
        div(node_host_mj * energy_mj, NULLIF(node_mj, 0)) AS share_mj,
        mod(node_host_mj * energy_mj, NULLIF(node_mj, 0)) AS rest,
        div(node_estimated_mj * energy_mj, NULLIF(node_mj, 0)) AS share_estimated_mj
    FROM met
    WHERE account <> 5 OR COALESCE(node_mj, 0) = 0
), ranked AS (
    SELECT
        floored.*,
        node_host_mj - sum(share_mj) OVER (PARTITION BY time, node_id) AS left_mj,
        row_number() OVER (
            PARTITION BY time, node_id ORDER BY rest DESC, accelerator_id, placement_id, account
        ) AS place
    FROM floored
)
SELECT
    time, node_id, accelerator_id, placement_id, account,
    COALESCE(energy_mj, 0) + COALESCE(host_mj, share_mj + CASE WHEN place <= left_mj THEN 1 ELSE 0 END, 0) AS energy_mj,
    COALESCE(estimated_mj, 0) + COALESCE(host_estimated_mj, share_estimated_mj, 0) AS estimated_mj,
    input_tokens, cached_input_tokens, output_tokens, covered_us, span_us,
    account = 1 AND input_tokens IS NULL AS input_unknown,
    account = 1 AND cached_input_tokens IS NULL AS cached_unknown,
    account = 1 AND output_tokens IS NULL AS output_unknown,
    node_host_mj IS NULL AND energy_mj > 0 AS host_unknown
FROM ranked
UNION ALL
SELECT
    time, node_id, accelerator_id, placement_id, account, energy_mj + COALESCE(host_mj, 0),
    estimated_mj + COALESCE(host_estimated_mj, 0), input_tokens, cached_input_tokens, output_tokens, covered_us,
    span_us,
    COALESCE(input_unknown, account = 1 AND input_tokens IS NULL),
    COALESCE(cached_unknown, account = 1 AND cached_input_tokens IS NULL),
    COALESCE(output_unknown, account = 1 AND output_tokens IS NULL),
    COALESCE(host_unknown, energy_mj > 0)
FROM ledger_day WHERE time >= %(day_start)s AND time < %(day_end)s
UNION ALL
SELECT time, node_id, 0, 0, 5, unborne_mj, unborne_estimated_mj, NULL, NULL, NULL, 0, 0, false, false, false, false
FROM {every}node_day WHERE time >= %(day_start)s AND time < %(day_end)s AND unborne_mj IS NOT NULL

-- name: energy
-- Energy and tokens by bucket, slice, site and the dimensions asked for. Its place for entries is filled by one of the two parts above.
-- Rows are added up under no more ids than the question needs, and names are looked up after that.
WITH entry AS (
    {entry}
), total AS (
    SELECT
        COALESCE(date_bin(%(step)s::interval, x.time, TIMESTAMPTZ '1970-01-01 00:00:00Z'), %(start)s) AS bucket,
        width_bucket(x.time, %(cuts)s::timestamptz[]) AS slice,
        n.site_id,
        CASE WHEN %(by)s::text[] && '{{node,engine}}' THEN n.node_id END AS node_id,
        CASE WHEN %(by)s::text[] && '{{accelerator,accelerator_model}}' THEN x.accelerator_id END AS accelerator_id,
        CASE WHEN 'engine' = ANY(%(by)s) THEN p.engine_id END AS engine_id,
        CASE WHEN %(by)s::text[] && '{{workload,model,team}}' THEN p.workload_id END AS workload_id,
        CASE WHEN %(by_account)s THEN x.account END AS account,
        bool_or(n.simulated) AS simulated,
        sum(x.energy_mj) AS energy_mj,
        sum(x.estimated_mj) AS estimated_mj,
        sum(x.input_tokens) AS input_tokens,
        sum(x.cached_input_tokens) AS cached_input_tokens,
        sum(x.output_tokens) AS output_tokens,
        -- Not unknown is what a role has not: a worker's tokens are its leader's, input its prefill engine's.
        bool_or(x.input_unknown AND COALESCE(p.role, '') NOT IN ('decode', 'worker')) AS input_unknown,
        bool_or(x.cached_unknown AND COALESCE(p.role, '') NOT IN ('decode', 'worker')) AS cached_unknown,
        bool_or(x.output_unknown AND COALESCE(p.role, '') NOT IN ('prefill', 'worker'))
            AS output_unknown,
        bool_or(x.accelerator_id = 0 AND x.output_tokens > 0) AS placement_unknown,
        sum(x.covered_us) AS covered_us,
        sum(x.span_us) AS span_us,
        bool_or(x.host_unknown) AS host_unknown
    FROM entry x
    JOIN node n ON n.node_id = x.node_id
    JOIN site s ON s.site_id = n.site_id
    LEFT JOIN accelerator a ON a.accelerator_id = x.accelerator_id
    LEFT JOIN placement p ON p.placement_id = x.placement_id
    LEFT JOIN engine e ON e.engine_id = p.engine_id
    LEFT JOIN workload w ON w.workload_id = p.workload_id
    WHERE (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
        AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
        AND (%(accelerator)s::text[] IS NULL OR COALESCE(a.uuid, '') = ANY(%(accelerator)s))
        AND (%(accelerator_model)s::text[] IS NULL OR COALESCE(a.model, '') = ANY(%(accelerator_model)s))
        AND (%(engine)s::text[] IS NULL OR COALESCE(e.target, '') = ANY(%(engine)s))
        AND (%(workload)s::text[] IS NULL OR COALESCE(w.name, '') = ANY(%(workload)s))
        AND (%(model)s::text[] IS NULL OR COALESCE(w.model, '') = ANY(%(model)s))
        AND (%(team)s::text[] IS NULL OR COALESCE(w.team, '') = ANY(%(team)s))
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
)
SELECT
    bucket, slice, s.name AS site,
    CASE WHEN 'workload' = ANY(%(by)s) THEN w.name END AS by_workload,
    CASE WHEN 'model' = ANY(%(by)s) THEN NULLIF(w.model, '') END AS by_model,
    engine_id AS by_engine_id,
    CASE WHEN 'team' = ANY(%(by)s) THEN NULLIF(w.team, '') END AS by_team,
    CASE WHEN 'node' = ANY(%(by)s) THEN n.node_id END AS by_node_id,
    CASE WHEN 'accelerator' = ANY(%(by)s) THEN a.uuid END AS by_accelerator,
    CASE WHEN 'accelerator_model' = ANY(%(by)s) THEN NULLIF(a.model, '') END AS by_accelerator_model,
    account,
    min(e.target) AS engine_target,
    min(e.series) AS engine_series,
    min(CASE WHEN 'engine' = ANY(%(by)s) AND e.engine_id IS NOT NULL OR 'node' = ANY(%(by)s) THEN n.name END) AS node_name,
    bool_or(total.simulated) AS simulated,
    sum(energy_mj) AS energy_mj,
    sum(estimated_mj) AS estimated_mj,
    sum(input_tokens) AS input_tokens,
    sum(cached_input_tokens) AS cached_input_tokens,
    sum(output_tokens) AS output_tokens,
    bool_or(input_unknown) AS input_unknown,
    bool_or(cached_unknown) AS cached_unknown,
    bool_or(output_unknown) AS output_unknown,
    bool_or(placement_unknown) AS placement_unknown,
    sum(covered_us) AS covered_us,
    sum(span_us) AS span_us,
    bool_or(host_unknown) AS host_unknown
FROM total
JOIN site s USING (site_id)
LEFT JOIN node n USING (node_id)
LEFT JOIN accelerator a USING (accelerator_id)
LEFT JOIN engine e USING (engine_id)
LEFT JOIN workload w USING (workload_id)
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
ORDER BY bucket, by_workload, by_model, engine_target, by_team, node_name, by_accelerator, by_accelerator_model, account
LIMIT %(limit)s

-- name: overhead
-- Host energy as an account of its own.
WITH host_entry AS (
    SELECT time, node_id, COALESCE(domains_mj, 0) + COALESCE(rest_mj, 0) AS energy_mj,
           host_estimated_mj AS estimated_mj, domain_us AS covered_us
    FROM node_day
    WHERE time >= %(day_start)s AND time < %(day_end)s AND domain_us IS NOT NULL
    UNION ALL
    SELECT time, node_id, energy_mj, estimated_mj, covered_us
    FROM host_hour WHERE time >= %(hour_start)s AND time < %(day_start)s
    UNION ALL
    SELECT time, node_id, energy_mj, estimated_mj, covered_us
    FROM host_hour WHERE time >= %(day_end)s AND time < %(hour_end)s
    UNION ALL
    SELECT time, node_id, energy_mj, estimated_mj, covered_us
    FROM host_minute WHERE time >= %(start)s AND time < %(hour_start)s
    UNION ALL
    SELECT time, node_id, energy_mj, estimated_mj, covered_us
    FROM host_minute WHERE time >= %(hour_end)s AND time < %(end)s
)
SELECT
    COALESCE(date_bin(%(step)s::interval, time, TIMESTAMPTZ '1970-01-01 00:00:00Z'), %(start)s) AS bucket,
    width_bucket(time, %(cuts)s::timestamptz[]) AS slice,
    s.name AS site,
    CASE WHEN 'node' = ANY(%(by)s) THEN n.node_id END AS by_node_id,
    min(CASE WHEN 'node' = ANY(%(by)s) THEN n.name END) AS node_name,
    bool_or(n.simulated) AS simulated,
    sum(energy_mj) AS energy_mj,
    sum(estimated_mj) AS estimated_mj,
    sum(covered_us) AS covered_us
FROM host_entry
JOIN node n USING (node_id)
JOIN site s USING (site_id)
WHERE (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
    AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
GROUP BY 1, 2, 3, 4
ORDER BY bucket, site, node_name

-- name: meter
-- What the boards' own counters say, past the ledger: both must be the same number.
SELECT COALESCE(sum(m.energy_mj), 0) AS energy_mj
FROM accelerator_minute m
JOIN accelerator a USING (accelerator_id)
JOIN node n ON n.node_id = m.node_id
JOIN site s USING (site_id)
WHERE m.time >= %(start)s AND m.time < %(end)s
    AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
    AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
    AND (%(accelerator)s::text[] IS NULL OR a.uuid = ANY(%(accelerator)s))
    AND (%(accelerator_model)s::text[] IS NULL OR a.model = ANY(%(accelerator_model)s))

-- name: long_meter
-- As `meter`, with whole hours read from sums of the same counters by node.
SELECT COALESCE(sum(m.energy_mj), 0) AS energy_mj
FROM (
    SELECT energy_mj, node_id FROM meter_hour WHERE time >= %(hour_start)s AND time < %(hour_end)s
    UNION ALL
    SELECT energy_mj, node_id FROM accelerator_minute WHERE time >= %(start)s AND time < %(hour_start)s
    UNION ALL
    SELECT energy_mj, node_id FROM accelerator_minute WHERE time >= %(hour_end)s AND time < %(end)s
) m
JOIN node n USING (node_id)
JOIN site s USING (site_id)
WHERE (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
    AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))

-- name: host_meter
SELECT COALESCE(sum(m.energy_mj), 0) AS energy_mj
FROM host_minute m
JOIN node n USING (node_id)
JOIN site s USING (site_id)
WHERE m.time >= %(start)s AND m.time < %(end)s
    AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
    AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))

-- name: long_host_meter
-- As `host_meter`, with whole hours read from their sums: never from days, of which `overhead` is made.
SELECT COALESCE(sum(m.energy_mj), 0) AS energy_mj
FROM (
    SELECT energy_mj, node_id FROM host_hour WHERE time >= %(hour_start)s AND time < %(hour_end)s
    UNION ALL
    SELECT energy_mj, node_id FROM host_minute WHERE time >= %(start)s AND time < %(hour_start)s
    UNION ALL
    SELECT energy_mj, node_id FROM host_minute WHERE time >= %(hour_end)s AND time < %(end)s
) m
JOIN node n USING (node_id)
JOIN site s USING (site_id)
WHERE (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
    AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))

-- name: accelerator_islands
-- Stretches of minutes that are covered alike, per board.
SELECT
    i.accelerator_id AS device_id, min(i.time) AS first_time, count(*)::int AS minutes, i.covered_us,
    sum(i.anomalies)::int AS anomalies
FROM (
    SELECT
        m.accelerator_id, m.time, m.covered_us, m.anomalies,
        m.time - interval '1 minute' * row_number() OVER (PARTITION BY m.accelerator_id, m.covered_us ORDER BY m.time) AS island
    FROM accelerator_minute m
    JOIN node n ON n.node_id = m.node_id
    JOIN site s USING (site_id)
    JOIN accelerator a USING (accelerator_id)
    WHERE m.time >= %(start)s AND m.time < %(end)s
        AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
        AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
        AND (%(accelerator)s::text[] IS NULL OR a.uuid = ANY(%(accelerator)s))
        AND (%(accelerator_model)s::text[] IS NULL OR a.model = ANY(%(accelerator_model)s))
) i
GROUP BY i.accelerator_id, i.covered_us, i.island
ORDER BY i.accelerator_id, first_time
LIMIT %(limit)s

-- name: engine_islands
SELECT
    i.engine_id AS device_id, min(i.time) AS first_time, count(*)::int AS minutes, i.covered_us,
    sum(i.anomalies)::int AS anomalies
FROM (
    SELECT
        d.engine_id, d.time, d.covered_us, d.anomalies,
        d.time - interval '1 minute' * row_number() OVER (PARTITION BY d.engine_id, d.covered_us ORDER BY d.time) AS island
    FROM (
        SELECT
            m.engine_id, m.time, LEAST(sum(m.covered_us), 60000000)::bigint AS covered_us, sum(m.anomalies) AS anomalies
        FROM engine_minute m
        JOIN node n USING (node_id)
        JOIN site s USING (site_id)
        WHERE m.time >= %(start)s AND m.time < %(end)s
            AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
            AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
        GROUP BY m.engine_id, m.time
    ) d
) i
GROUP BY i.engine_id, i.covered_us, i.island
ORDER BY i.engine_id, first_time
LIMIT %(limit)s

-- name: expected_accelerators
-- A device that was not seen for a week before the range begins is taken for removed.
SELECT a.accelerator_id AS device_id, a.uuid AS name, NULLIF(a.model, '') AS model, n.name AS node, s.name AS site, n.node_id, a.first_seen
FROM accelerator a
JOIN node n USING (node_id)
JOIN site s USING (site_id)
WHERE a.first_seen < %(end)s AND a.last_seen >= %(start)s - interval '7 days'
    AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
    AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
    AND (%(accelerator)s::text[] IS NULL OR a.uuid = ANY(%(accelerator)s))
    AND (%(accelerator_model)s::text[] IS NULL OR a.model = ANY(%(accelerator_model)s))
ORDER BY s.name, n.name, a.device_index, a.uuid

-- name: expected_engines
SELECT e.engine_id AS device_id, e.target AS name, NULL AS model, n.name AS node, s.name AS site, n.node_id, e.first_seen
FROM engine e
JOIN node n USING (node_id)
JOIN site s USING (site_id)
WHERE e.first_seen < %(end)s AND e.last_seen >= %(start)s - interval '7 days'
    AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
    AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
ORDER BY s.name, n.name, e.target, e.series

-- name: absences
-- Why something was not read, merged while the reason stays the same for ten minutes and less between two notes.
SELECT a.node_id, a.subject, a.id, a.reason,
       CASE WHEN a.reason = ANY(%(wordless)s) THEN '' ELSE max(a.detail) END AS detail, min(a.start_time) AS start_time, max(a.time) AS end_time
FROM (
    SELECT b.*, sum(CASE WHEN b.apart THEN 1 ELSE 0 END) OVER (
        PARTITION BY b.node_id, b.subject, b.id, b.reason ORDER BY b.time
    ) AS spell
    FROM (
        SELECT
            c.*,
            c.start_time - lag(c.time) OVER (
                PARTITION BY c.node_id, c.subject, c.id, c.reason ORDER BY c.time
            ) > interval '10 minutes' AS apart
        FROM absence c
        JOIN node n USING (node_id)
        JOIN site s USING (site_id)
        WHERE c.time >= %(start)s AND c.time < %(until)s AND c.start_time < %(end)s
            AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
            AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
    ) b
) a
GROUP BY a.node_id, a.subject, a.id, a.reason, a.spell
ORDER BY start_time
LIMIT %(limit)s

-- name: accelerator_series
SELECT
    v.bucket, v.by_accelerator, v.by_accelerator_model, v.by_node, v.by_site, NULL AS by_engine, NULL AS by_workload,
    NULL AS by_model, NULL AS by_team,
    CASE WHEN %(across)s = 'sum' THEN sum(v.value) ELSE avg(v.value) END AS value
FROM (
    SELECT
        date_bin(%(step)s::interval, m.time, TIMESTAMPTZ '1970-01-01 00:00:00Z') AS bucket,
        m.accelerator_id,
        min(CASE WHEN 'accelerator' = ANY(%(by)s) THEN a.uuid END) AS by_accelerator,
        min(CASE WHEN 'accelerator_model' = ANY(%(by)s) THEN a.model END) AS by_accelerator_model,
        min(CASE WHEN 'node' = ANY(%(by)s) THEN n.name END) AS by_node,
        min(CASE WHEN 'site' = ANY(%(by)s) THEN s.name END) AS by_site,
        CASE WHEN %(within)s = 'sum' THEN sum(x.value) ELSE avg(x.value) END AS value
    FROM accelerator_minute m
    CROSS JOIN LATERAL (
        SELECT CASE %(metric)s
            WHEN 'energy_mj' THEN m.energy_mj::float8
            WHEN 'power_mw' THEN m.power_mw::float8
            WHEN 'utilisation_ratio' THEN m.utilisation_ratio::float8
            WHEN 'temperature_celsius' THEN m.temperature_celsius::float8
            WHEN 'memory_used_bytes' THEN m.memory_used_bytes::float8
            WHEN 'sm_clock_mhz' THEN m.sm_clock_mhz::float8
            WHEN 'process_count' THEN m.process_count::float8
            WHEN 'covered_ratio' THEN m.covered_us / 60000000.0::float8
        END AS value
    ) x
    JOIN accelerator a USING (accelerator_id)
    JOIN node n ON n.node_id = m.node_id
    JOIN site s USING (site_id)
    WHERE m.time >= %(start)s AND m.time < %(end)s AND x.value IS NOT NULL
        AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
        AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
        AND (%(accelerator)s::text[] IS NULL OR a.uuid = ANY(%(accelerator)s))
        AND (%(accelerator_model)s::text[] IS NULL OR a.model = ANY(%(accelerator_model)s))
    GROUP BY 1, m.accelerator_id, m.node_id
) v
GROUP BY 1, 2, 3, 4, 5
ORDER BY by_site, by_node, by_accelerator, by_accelerator_model, bucket
LIMIT %(limit)s

-- name: engine_series
-- Each engine as it counts when it is asked for by name; in sums every token and request once, as in the ledger.
SELECT
    v.bucket, NULL AS by_accelerator, NULL AS by_accelerator_model, v.by_node, v.by_site, v.by_engine, v.by_workload,
    v.by_model, v.by_team,
    CASE WHEN %(across)s = 'sum' THEN sum(v.value) ELSE avg(v.value) END AS value
FROM (
    SELECT
        date_bin(%(step)s::interval, m.time, TIMESTAMPTZ '1970-01-01 00:00:00Z') AS bucket,
        m.engine_id, m.placement_id,
        min(CASE WHEN 'node' = ANY(%(by)s) OR 'engine' = ANY(%(by)s) THEN n.name END) AS by_node,
        min(CASE WHEN 'site' = ANY(%(by)s) THEN s.name END) AS by_site,
        min(CASE WHEN 'engine' = ANY(%(by)s) THEN e.target || e.series END) AS by_engine,
        min(CASE WHEN 'workload' = ANY(%(by)s) THEN w.name END) AS by_workload,
        min(CASE WHEN 'model' = ANY(%(by)s) THEN w.model END) AS by_model,
        min(CASE WHEN 'team' = ANY(%(by)s) THEN w.team END) AS by_team,
        CASE WHEN %(within)s = 'sum' THEN sum(x.value) ELSE avg(x.value) END AS value
    FROM engine_minute m
    CROSS JOIN LATERAL (
        SELECT CASE %(metric)s
            WHEN 'input_tokens' THEN m.input_tokens::float8
            WHEN 'cached_input_tokens' THEN m.cached_input_tokens::float8
            WHEN 'computed_input_tokens' THEN m.computed_input_tokens::float8
            WHEN 'output_tokens' THEN m.output_tokens::float8
            WHEN 'requests_finished' THEN m.requests_finished::float8
            WHEN 'preemptions' THEN m.preemptions::float8
            WHEN 'draft_tokens' THEN m.draft_tokens::float8
            WHEN 'accepted_draft_tokens' THEN m.accepted_draft_tokens::float8
            WHEN 'requests_running' THEN m.requests_running::float8
            WHEN 'requests_waiting' THEN m.requests_waiting::float8
            WHEN 'kv_cache_usage_ratio' THEN m.kv_cache_usage_ratio::float8
            WHEN 'activity_ratio' THEN m.activity_ratio::float8
        END AS value
    ) x
    JOIN engine e USING (engine_id)
    JOIN node n ON n.node_id = m.node_id
    JOIN site s USING (site_id)
    LEFT JOIN placement p USING (placement_id)
    LEFT JOIN workload w USING (workload_id)
    WHERE m.time >= %(start)s AND m.time < %(end)s AND x.value IS NOT NULL
        AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
        AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
        AND (%(engine)s::text[] IS NULL OR e.target = ANY(%(engine)s))
        AND (%(workload)s::text[] IS NULL OR COALESCE(w.name, '') = ANY(%(workload)s))
        AND (%(model)s::text[] IS NULL OR COALESCE(w.model, '') = ANY(%(model)s))
        AND (%(team)s::text[] IS NULL OR COALESCE(w.team, '') = ANY(%(team)s))
        AND ('engine' = ANY(%(by)s) OR CASE p.role
            WHEN 'frontend' THEN false
            WHEN 'prefill' THEN %(metric)s NOT IN ('output_tokens', 'requests_finished')
            WHEN 'decode' THEN %(metric)s NOT IN ('input_tokens', 'cached_input_tokens', 'computed_input_tokens')
            ELSE true END)
    GROUP BY 1, m.engine_id, m.placement_id
) v
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
ORDER BY by_site, by_node, by_engine, by_workload, by_model, by_team, bucket
LIMIT %(limit)s

-- name: streams_committed_through
SELECT name, committed_through FROM stream WHERE name = ANY(%(names)s)

-- name: job_runs
SELECT job, started, finished, ok FROM job_run ORDER BY job
