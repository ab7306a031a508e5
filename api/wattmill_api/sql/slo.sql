-- Statements of store/slo.py: how many tokens met a latency target, and the histograms behind it. All bind time.
--
-- `hour_start` to `hour_end` is read from hours, the rest from minutes, as in query.sql. metric: 1 inter-token latency,
-- 2 time to first token, 3 queue time, 4 request latency. An engine without histograms has no row in any of these tables.
-- Each request is observed once: not at a front end, what happens up to its first token at a prefill engine, the rest at
-- the decode engine behind it.

-- name: in_use
SELECT w.workload_id, w.name, u.metric, u.bounds_id, b.le_us
FROM (
    SELECT DISTINCT p.workload_id, l.metric, l.bounds_id
    FROM latency_hour l
    JOIN placement p USING (placement_id)
    WHERE l.time > %(start)s::timestamptz - interval '1 hour' AND l.time < %(end)s
        AND p.role NOT IN ('frontend', CASE WHEN l.metric IN (1, 4) THEN 'prefill' ELSE 'decode' END)
) u
JOIN workload w USING (workload_id)
JOIN latency_bounds b USING (bounds_id)
ORDER BY w.workload_id, u.metric, u.bounds_id

-- name: met
-- Goals say for a workload and a set of bounds how many whole buckets meet the target, and the part of the next one in
-- units of `unit`: whole numbers until the one division, which rounds down to whole tokens. The share is that of all
-- observations of a workload in a minute (or hour) and group; it counts for the tokens of engines that have a histogram.
WITH goal AS (
    SELECT * FROM unnest(
        %(workload_ids)s::integer[], %(metrics)s::smallint[], %(bounds_ids)s::integer[], %(firsts)s::timestamptz[],
        %(lasts)s::timestamptz[], %(wholes)s::integer[], %(parts)s::numeric[], %(targets_us)s::bigint[]
    ) AS g (workload_id, metric, bounds_id, first_time, last_time, whole, part, target_us)
), latency AS (
    SELECT * FROM latency_hour WHERE time >= %(hour_start)s AND time < %(hour_end)s
    UNION ALL
    SELECT * FROM latency_minute WHERE time >= %(start)s AND time < %(hour_start)s
    UNION ALL
    SELECT * FROM latency_minute WHERE time >= %(hour_end)s AND time < %(end)s
), seen AS (
    SELECT
        l.time, l.placement_id, p.workload_id, p.engine_id,
        sum(x.observed) FILTER (WHERE l.metric = 1) AS observed,
        sum(x.met) FILTER (WHERE l.metric = 1) AS met,
        max(g.target_us) FILTER (WHERE l.metric = 1) AS target_us,
        sum(x.observed) FILTER (WHERE l.metric = 2 AND g.target_us IS NOT NULL) AS first_observed,
        sum(x.met) FILTER (WHERE l.metric = 2) AS first_met,
        max(g.target_us) FILTER (WHERE l.metric = 2) AS first_target_us
    FROM latency l
    JOIN placement p USING (placement_id)
    LEFT JOIN goal g ON g.workload_id = p.workload_id AND g.metric = l.metric AND g.bounds_id = l.bounds_id
        AND l.time >= g.first_time AND l.time < g.last_time
    CROSS JOIN LATERAL (
        SELECT
            sum(c) AS observed,
            sum(CASE WHEN i <= g.whole THEN c * %(unit)s::numeric WHEN i = g.whole + 1 THEN c * g.part
                WHEN g.whole IS NOT NULL THEN 0 END) AS met
        FROM unnest(l.counts) WITH ORDINALITY AS u (c, i)
    ) x
    WHERE l.metric = 1 AND p.role NOT IN ('frontend', 'prefill') OR l.metric = 2 AND p.role NOT IN ('frontend', 'decode')
    GROUP BY 1, 2, 3, 4
), entry AS (
    SELECT time, node_id, accelerator_id, placement_id, output_tokens
    FROM ledger_hour WHERE time >= %(hour_start)s AND time < %(hour_end)s
    UNION ALL
    SELECT time, node_id, accelerator_id, placement_id, output_tokens
    FROM ledger_minute WHERE time >= %(start)s AND time < %(hour_start)s
    UNION ALL
    SELECT time, node_id, accelerator_id, placement_id, output_tokens
    FROM ledger_minute WHERE time >= %(hour_end)s AND time < %(end)s
), made AS (
    SELECT
        t.time, t.placement_id, t.node_id,
        CASE WHEN 'accelerator' = ANY(%(by)s) THEN a.uuid END AS by_accelerator,
        CASE WHEN 'accelerator_model' = ANY(%(by)s) THEN NULLIF(a.model, '') END AS by_accelerator_model,
        sum(t.output_tokens) AS tokens
    FROM entry t
    LEFT JOIN accelerator a USING (accelerator_id)
    WHERE t.placement_id <> 0
        AND (%(accelerator)s::text[] IS NULL OR COALESCE(a.uuid, '') = ANY(%(accelerator)s))
        AND (%(accelerator_model)s::text[] IS NULL OR COALESCE(a.model, '') = ANY(%(accelerator_model)s))
    GROUP BY 1, 2, 3, 4, 5
), judged AS (
    SELECT
        COALESCE(date_bin(%(step)s::interval, time, TIMESTAMPTZ '1970-01-01 00:00:00Z'), %(start)s) AS bucket,
        time, w.workload_id,
        CASE WHEN 'workload' = ANY(%(by)s) THEN w.name END AS by_workload,
        CASE WHEN 'model' = ANY(%(by)s) THEN NULLIF(w.model, '') END AS by_model,
        CASE WHEN 'team' = ANY(%(by)s) THEN NULLIF(w.team, '') END AS by_team,
        CASE WHEN 'engine' = ANY(%(by)s) THEN e.engine_id END AS by_engine_id,
        CASE WHEN 'engine' = ANY(%(by)s) THEN e.target END AS engine_target,
        CASE WHEN 'engine' = ANY(%(by)s) THEN e.series END AS engine_series,
        CASE WHEN 'engine' = ANY(%(by)s) OR 'node' = ANY(%(by)s) THEN n.node_id END AS by_node_id,
        CASE WHEN 'engine' = ANY(%(by)s) OR 'node' = ANY(%(by)s) THEN n.name END AS node_name,
        CASE WHEN 'site' = ANY(%(by)s) THEN s.name END AS site,
        by_accelerator, by_accelerator_model,
        sum(tokens) FILTER (WHERE observed > 0) AS tokens,
        sum(observed) AS observed,
        sum(met) AS met,
        max(target_us) AS target_us,
        sum(first_observed) AS first_observed,
        sum(first_met) AS first_met,
        max(first_target_us) AS first_target_us
    FROM made
    JOIN seen USING (time, placement_id)
    JOIN node n USING (node_id)
    JOIN site s USING (site_id)
    JOIN engine e ON e.engine_id = seen.engine_id
    JOIN workload w ON w.workload_id = seen.workload_id
    WHERE (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
        AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
        AND (%(engine)s::text[] IS NULL OR e.target = ANY(%(engine)s))
        AND (%(workload)s::text[] IS NULL OR w.name = ANY(%(workload)s))
        AND (%(model)s::text[] IS NULL OR w.model = ANY(%(model)s))
        AND (%(team)s::text[] IS NULL OR w.team = ANY(%(team)s))
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14
)
SELECT
    bucket, by_workload, by_model, by_team, engine_target, engine_series, node_name, site, by_accelerator,
    by_accelerator_model,
    COALESCE(sum(tokens), 0) AS known_tokens,
    COALESCE(sum(tokens) FILTER (WHERE target_us IS NOT NULL), 0) AS judged_tokens,
    COALESCE(sum(div(tokens * met, observed * %(unit)s::numeric)), 0) AS met_tokens,
    min(target_us) AS lowest_target_us,
    max(target_us) AS highest_target_us,
    COALESCE(sum(first_observed), 0) * %(unit)s::numeric AS first_observed,
    COALESCE(sum(first_met), 0) AS first_met,
    min(first_target_us) AS lowest_first_target_us,
    max(first_target_us) AS highest_first_target_us
FROM judged
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, by_engine_id, by_node_id

-- name: histograms
-- Observations by bucket of time, group, metric and bounds.
WITH latency AS (
    SELECT * FROM latency_hour WHERE time >= %(hour_start)s AND time < %(hour_end)s
    UNION ALL
    SELECT * FROM latency_minute WHERE time >= %(start)s AND time < %(hour_start)s
    UNION ALL
    SELECT * FROM latency_minute WHERE time >= %(hour_end)s AND time < %(end)s
), placed AS (
    SELECT DISTINCT
        p.placement_id, p.role,
        CASE WHEN 'workload' = ANY(%(by)s) THEN w.name END AS by_workload,
        CASE WHEN 'model' = ANY(%(by)s) THEN NULLIF(w.model, '') END AS by_model,
        CASE WHEN 'team' = ANY(%(by)s) THEN NULLIF(w.team, '') END AS by_team,
        CASE WHEN 'engine' = ANY(%(by)s) THEN e.target END AS engine_target,
        CASE WHEN 'engine' = ANY(%(by)s) THEN e.series END AS engine_series,
        CASE WHEN 'engine' = ANY(%(by)s) OR 'node' = ANY(%(by)s) THEN n.name END AS node_name,
        CASE WHEN 'site' = ANY(%(by)s) THEN s.name END AS site,
        CASE WHEN 'accelerator' = ANY(%(by)s) THEN a.uuid END AS by_accelerator,
        CASE WHEN 'accelerator_model' = ANY(%(by)s) THEN NULLIF(a.model, '') END AS by_accelerator_model
    FROM placement p
    JOIN engine e USING (engine_id)
    JOIN node n USING (node_id)
    JOIN site s USING (site_id)
    JOIN workload w USING (workload_id)
    LEFT JOIN accelerator a ON a.accelerator_id = ANY(p.accelerator_ids)
    WHERE p.placement_id IN (SELECT placement_id FROM latency) AND p.role <> 'frontend'
        AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
        AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
        AND (%(accelerator)s::text[] IS NULL OR COALESCE(a.uuid, '') = ANY(%(accelerator)s))
        AND (%(accelerator_model)s::text[] IS NULL OR COALESCE(a.model, '') = ANY(%(accelerator_model)s))
        AND (%(engine)s::text[] IS NULL OR e.target = ANY(%(engine)s))
        AND (%(workload)s::text[] IS NULL OR w.name = ANY(%(workload)s))
        AND (%(model)s::text[] IS NULL OR w.model = ANY(%(model)s))
        AND (%(team)s::text[] IS NULL OR w.team = ANY(%(team)s))
), grouped AS (
    SELECT *, dense_rank() OVER (
        ORDER BY by_workload, by_model, by_team, engine_target, engine_series, node_name, site, by_accelerator,
            by_accelerator_model
    ) AS n
    FROM placed
), summed AS (
    SELECT
        COALESCE(date_bin(%(step)s::interval, time, TIMESTAMPTZ '1970-01-01 00:00:00Z'), %(start)s) AS bucket,
        n, metric, bounds_id, i, sum(c)::bigint AS observed
    FROM latency
    JOIN grouped USING (placement_id)
    CROSS JOIN LATERAL unnest(counts) WITH ORDINALITY AS u (c, i)
    WHERE role <> CASE WHEN metric IN (1, 4) THEN 'prefill' ELSE 'decode' END
    GROUP BY 1, 2, 3, 4, 5
), gathered AS (
    SELECT bucket, n, metric, bounds_id, array_agg(observed ORDER BY i) AS counts
    FROM summed
    GROUP BY 1, 2, 3, 4
)
SELECT
    bucket, by_workload, by_model, by_team, engine_target, engine_series, node_name, site, by_accelerator,
    by_accelerator_model, metric, bounds_id, counts
FROM gathered
JOIN (SELECT DISTINCT ON (n) * FROM grouped) g USING (n)
