-- Statements of store/inventory.py: what is known of sites, nodes, accelerators, engines and workloads, a page at a time,
-- and what agents say now that they could not read. Samples and absences are read for a bound time only.

-- name: sites
SELECT
    s.site_id AS cursor, s.name,
    (SELECT count(*) FROM node n WHERE n.site_id = s.site_id)::int AS nodes,
    (SELECT count(*) FROM accelerator a JOIN node n USING (node_id) WHERE n.site_id = s.site_id)::int AS accelerators,
    (SELECT count(*) FROM engine e JOIN node n USING (node_id) WHERE n.site_id = s.site_id)::int AS engines,
    (SELECT max(n.last_seen) FROM node n WHERE n.site_id = s.site_id) AS last_seen
FROM site s
WHERE s.site_id > %(after)s AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
ORDER BY s.site_id
LIMIT %(limit)s

-- name: told
-- A part of `nodes` and `accelerators`: what the agents of a page's nodes say now that they could not read or explain,
-- each subject and reason once. An agent repeats what stands every minute; a node silent for an hour says nothing now
-- (`end` is an hour from now).
-- Words are looked up last, by the key: sorted with the rest they would cost more than all of it.
SELECT
    c.node_id, c.subject, c.id, c.reason, c.since, c.last_seen, c.place,
    (
        SELECT NULLIF(a.detail, '') FROM absence a
        WHERE a.time = c.last_seen AND a.time >= %(start)s AND a.time < %(end)s
            AND a.node_id = c.node_id AND a.subject = c.subject AND a.id = c.id AND a.reason = c.reason
            AND c.reason <> ALL(%(wordless)s)
    ) AS detail
FROM (
    SELECT s.*, row_number() OVER (PARTITION BY node_id ORDER BY s.last_seen DESC, subject, id, reason) AS place
    FROM (
        SELECT node_id, subject, id, reason, min(start_time) AS since, max(time) AS last_seen
        FROM absence
        WHERE time >= %(start)s AND time >= %(end)s - interval '2 hours' AND time < %(end)s AND node_id IN (SELECT node_id FROM page)
        GROUP BY node_id, subject, id, reason
    ) s
    JOIN node n USING (node_id)
    WHERE s.last_seen >= n.last_seen - GREATEST(interval '3 minutes', 3 * n.interval_us * interval '1 microsecond')
) c

-- name: nodes
WITH page AS (
    SELECT n.*, s.name AS site
    FROM node n
    JOIN site s USING (site_id)
    WHERE n.node_id > %(after)s
        AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
        AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
    ORDER BY n.node_id
    LIMIT %(limit)s
), told AS (
    {told}
)
SELECT
    n.node_id AS cursor, n.name, n.site, n.labels, NULLIF(n.boot_id, '') AS boot_id,
    NULLIF(n.agent_version, '') AS agent_version, n.interval_us, n.simulated, n.first_seen, n.last_seen,
    (SELECT count(*) FROM accelerator a WHERE a.node_id = n.node_id)::int AS accelerators,
    (SELECT count(*) FROM engine e WHERE e.node_id = n.node_id)::int AS engines,
    (SELECT COALESCE(jsonb_object_agg(h.domain, h.source), jsonb_build_object()) FROM host_domain h WHERE h.node_id = n.node_id)
        AS host_sources,
    COALESCE(t.told, '[]') AS told
FROM page n
LEFT JOIN (
    SELECT node_id, jsonb_agg(jsonb_build_object(
        'subject', subject, 'id', id, 'reason', reason, 'detail', detail, 'since', since, 'last_seen', last_seen
    ) ORDER BY place) AS told
    FROM told
    WHERE place <= 50
    GROUP BY node_id
) t USING (node_id)
ORDER BY n.node_id

-- name: accelerators
WITH page AS (
    SELECT a.*, n.name AS node, s.name AS site, n.labels, n.simulated
    FROM accelerator a
    JOIN node n USING (node_id)
    JOIN site s USING (site_id)
    WHERE a.accelerator_id > %(after)s
        AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
        AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
    ORDER BY a.accelerator_id
    LIMIT %(limit)s
), told AS (
    {told}
)
SELECT
    a.accelerator_id AS cursor, a.uuid, a.node, a.site, a.labels, a.simulated, a.device_index AS index,
    NULLIF(a.model, '') AS model, NULLIF(a.vendor, '') AS vendor, NULLIF(a.source, '') AS source, a.memory_total_bytes,
    a.power_limit_mw, a.first_seen, a.last_seen,
    COALESCE((
        SELECT jsonb_agg(jsonb_build_object(
            'engine', e.target, 'workload', w.name, 'model', NULLIF(w.model, ''), 'team', NULLIF(w.team, ''),
            'share', p.shares_ppm[array_position(p.accelerator_ids, a.accelerator_id)] / 1e6::float8,
            'method', NULLIF(p.method, ''), 'confidence', NULLIF(p.confidence, ''), 'share_by', NULLIF(p.share_by, ''),
            'role', NULLIF(p.role, ''), 'since', p.since, 'until', p.until
        ) ORDER BY p.until DESC, p.placement_id)
        FROM placement p
        JOIN engine e USING (engine_id)
        JOIN workload w USING (workload_id)
        WHERE e.node_id = a.node_id AND a.accelerator_id = ANY(p.accelerator_ids)
    ), '[]') AS placements,
    COALESCE(t.told, '[]') AS told
FROM page a
LEFT JOIN (
    SELECT node_id, id AS uuid, jsonb_agg(jsonb_build_object(
        'subject', subject, 'id', id, 'reason', reason, 'detail', detail, 'since', since, 'last_seen', last_seen
    ) ORDER BY place) AS told
    FROM told
    WHERE subject = 'accelerator' AND id <> ''
    GROUP BY node_id, id
) t USING (node_id, uuid)
ORDER BY a.accelerator_id

-- name: engines
-- Engines, and after them the targets that an agent names and never could read. The state is what the newest absence
-- says, if it is no older than the engine's last sample and still repeated (an agent does so every minute). `last_seen`
-- may lag 30 s behind that sample. Of what was said a day is looked at.
WITH told AS (
    SELECT DISTINCT ON (a.node_id, a.id)
        a.node_id, a.id AS target, a.time, a.reason, NULLIF(a.detail, '') AS detail,
        min(a.start_time) OVER (PARTITION BY a.node_id, a.id, a.reason) AS since
    FROM absence a
    JOIN node n USING (node_id)
    WHERE a.time >= %(start)s AND a.time < %(end)s
        AND a.subject = 'engine' AND a.id <> ''
    ORDER BY a.node_id, a.id, a.time DESC, a.reason
), current AS (
    SELECT told.* FROM told JOIN node n USING (node_id) WHERE told.time >= n.last_seen - interval '5 minutes'
), known AS (
    SELECT
        e.engine_id, e.node_id, e.target, e.series, e.engine_kind, e.version, e.first_seen, e.last_seen, a.detail,
        CASE
            WHEN a.time >= e.last_seen AND NOT EXISTS (
                SELECT FROM engine_sample x
                WHERE x.engine_id = e.engine_id AND x.time >= a.time AND x.time <= e.last_seen + interval '1 minute'
            ) THEN a.reason
            WHEN %(now)s::timestamptz - n.last_seen > GREATEST(interval '2 minutes', 3 * n.interval_us * interval '1 microsecond')
                THEN 'no_reading'
            WHEN n.last_seen - e.last_seen > GREATEST(interval '2 minutes', 3 * n.interval_us * interval '1 microsecond')
                THEN 'gone'
            ELSE 'reading'
        END AS state
    FROM engine e
    JOIN node n USING (node_id)
    LEFT JOIN current a USING (node_id, target)
    WHERE e.engine_id > %(after)s
    ORDER BY e.engine_id
), listed AS (
    SELECT engine_id AS cursor, engine_id, node_id, target, series, engine_kind, version, first_seen, last_seen, state,
           CASE WHEN state <> 'reading' THEN last_seen END AS since,
           CASE WHEN state NOT IN ('reading', 'no_reading', 'gone') THEN detail END AS detail
    FROM known
    UNION ALL
    SELECT 1000000000 + row_number() OVER (ORDER BY node_id, target), NULL, node_id, target, '', '', '', since, time,
           reason, since, detail
    FROM current c
    WHERE NOT EXISTS (SELECT FROM engine e WHERE e.node_id = c.node_id AND e.target = c.target)
)
SELECT
    e.cursor, e.target, e.series, n.name AS node, s.name AS site, n.labels, n.simulated,
    NULLIF(e.engine_kind, '') AS engine_kind, NULLIF(e.version, '') AS version, e.first_seen, e.last_seen,
    e.state, e.since, e.detail,
    COALESCE((
        SELECT jsonb_agg(jsonb_build_object(
            'workload', w.name, 'model', NULLIF(w.model, ''), 'team', NULLIF(w.team, ''),
            'accelerators', ARRAY(
                SELECT a.uuid FROM accelerator a WHERE a.accelerator_id = ANY(p.accelerator_ids) ORDER BY a.device_index, a.uuid
            ),
            'shares', CASE WHEN cardinality(p.shares_ppm) > 0 THEN ARRAY(
                SELECT p.shares_ppm[array_position(p.accelerator_ids, a.accelerator_id)] / 1e6::float8
                FROM accelerator a WHERE a.accelerator_id = ANY(p.accelerator_ids) ORDER BY a.device_index, a.uuid
            ) END,
            'method', NULLIF(p.method, ''), 'confidence', NULLIF(p.confidence, ''), 'share_by', NULLIF(p.share_by, ''),
            'role', NULLIF(p.role, ''), 'since', p.since, 'until', p.until
        ) ORDER BY p.until DESC, p.placement_id)
        FROM placement p
        JOIN workload w USING (workload_id)
        WHERE p.engine_id = e.engine_id
    ), '[]') AS placements
FROM listed e
JOIN node n USING (node_id)
JOIN site s USING (site_id)
WHERE e.cursor > %(after)s
    AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
    AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
ORDER BY e.cursor
LIMIT %(limit)s

-- name: unread
-- Targets that are not read now, and what is said of them: a part of `engines`, with the same rule.
WITH told AS (
    SELECT DISTINCT ON (a.node_id, a.id) a.node_id, a.id AS target, a.time, a.reason, NULLIF(a.detail, '') AS detail
    FROM absence a
    JOIN node n USING (node_id)
    WHERE a.time >= %(start)s AND a.time < %(end)s AND a.subject = 'engine' AND a.id <> ''
        AND a.time >= n.last_seen - interval '5 minutes'
    ORDER BY a.node_id, a.id, a.time DESC, a.reason
)
SELECT told.target, n.name AS node, s.name AS site, told.reason, told.detail
FROM told
JOIN node n USING (node_id)
JOIN site s USING (site_id)
WHERE NOT EXISTS (
        SELECT FROM engine e
        WHERE e.node_id = told.node_id AND e.target = told.target AND (e.last_seen > told.time OR EXISTS (
            SELECT FROM engine_sample x
            WHERE x.engine_id = e.engine_id AND x.time >= told.time AND x.time <= e.last_seen + interval '1 minute'
        ))
    )
    AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
    AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
ORDER BY s.name, n.name, told.target
LIMIT %(limit)s

-- name: workloads
SELECT
    w.workload_id AS cursor, w.name, NULLIF(w.model, '') AS model, NULLIF(w.team, '') AS team,
    min(p.since) AS first_seen, max(p.until) AS last_seen, bool_or(n.simulated) AS simulated,
    jsonb_agg(jsonb_build_object(
        'engine', e.target, 'node', n.name, 'site', s.name, 'labels', n.labels,
        'accelerators', ARRAY(
            SELECT a.uuid FROM accelerator a WHERE a.accelerator_id = ANY(p.accelerator_ids) ORDER BY a.device_index, a.uuid
        ),
        'shares', CASE WHEN cardinality(p.shares_ppm) > 0 THEN ARRAY(
                SELECT p.shares_ppm[array_position(p.accelerator_ids, a.accelerator_id)] / 1e6::float8
                FROM accelerator a WHERE a.accelerator_id = ANY(p.accelerator_ids) ORDER BY a.device_index, a.uuid
            ) END,
        'method', NULLIF(p.method, ''), 'confidence', NULLIF(p.confidence, ''), 'share_by', NULLIF(p.share_by, ''),
            'role', NULLIF(p.role, ''), 'since', p.since, 'until', p.until
    ) ORDER BY p.until DESC, p.placement_id) AS placements
FROM workload w
JOIN placement p USING (workload_id)
JOIN engine e USING (engine_id)
JOIN node n USING (node_id)
JOIN site s USING (site_id)
WHERE w.workload_id > %(after)s
    AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
    AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
GROUP BY w.workload_id, w.name, w.model, w.team
ORDER BY w.workload_id
LIMIT %(limit)s
