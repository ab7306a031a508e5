-- Statements of store/meters.py: samples of power meters to minutes and hours, and meters beside what stands below them.

-- name: boards_of
SELECT accelerator_id, node_id, (extract(epoch FROM first_seen) * 1000000)::bigint,
       (extract(epoch FROM last_seen) * 1000000)::bigint
FROM accelerator WHERE node_id = ANY(%(node_ids)s) ORDER BY accelerator_id

-- name: chassis_meters
SELECT node_id, meter_id FROM power_meter WHERE node_id = ANY(%(node_ids)s) ORDER BY node_id

-- name: touched
-- Meters that have a reading of these nodes in the window, and how far two readings before and after it reach: a
-- reading that contradicts its counter is judged by those around it.
SELECT m.meter_id, before.time, after.time
FROM (
    SELECT DISTINCT meter_id FROM power_meter_sample
    WHERE node_id = ANY(%(node_ids)s) AND time > %(first)s AND time <= %(last)s
) m
CROSS JOIN LATERAL (
    SELECT min(b.time) AS time FROM (
        SELECT time FROM power_meter_sample s
        WHERE s.meter_id = m.meter_id AND s.time <= %(first)s AND s.time >= %(oldest)s ORDER BY time DESC LIMIT 2) b
) before
CROSS JOIN LATERAL (
    SELECT max(a.time) AS time FROM (
        SELECT time FROM power_meter_sample s
        WHERE s.meter_id = m.meter_id AND s.time > %(last)s AND s.time <= %(newest)s ORDER BY time LIMIT 2) a
) after
ORDER BY m.meter_id

-- name: samples
-- The readings of a stretch, and four on each side of it, however far they are: enough to judge it.
SELECT i.id::bigint, s.time, COALESCE(s.energy_mj, -1), COALESCE(s.power_mw, -1), s.epoch, -1::bigint, n.interval_us,
       (m.level = 'facility')::int::bigint
FROM unnest(%(ids)s::integer[]) AS i (id)
CROSS JOIN LATERAL (
    (SELECT * FROM power_meter_sample
     WHERE meter_id = i.id AND time < %(first)s AND time >= %(oldest)s ORDER BY time DESC LIMIT 4)
    UNION ALL
    SELECT * FROM power_meter_sample WHERE meter_id = i.id AND time >= %(first)s AND time <= %(last)s
    UNION ALL
    (SELECT * FROM power_meter_sample
     WHERE meter_id = i.id AND time > %(last)s AND time <= %(newest)s ORDER BY time LIMIT 4)
) s
JOIN node n USING (node_id)
JOIN power_meter m ON m.meter_id = i.id
ORDER BY i.id, s.time

-- name: clear_minutes
DELETE FROM power_meter_minute WHERE meter_id = ANY(%(ids)s) AND time >= %(first)s AND time < %(last)s

-- name: copy_minutes
COPY power_meter_minute (time, meter_id, energy_mj, estimated_mj, covered_us, step_mj) FROM STDIN (FORMAT BINARY)

-- name: clear_hours
DELETE FROM power_meter_hour WHERE meter_id = ANY(%(ids)s) AND time >= %(first)s AND time < %(last)s
RETURNING meter_id, energy_mj

-- name: sum_hours
INSERT INTO power_meter_hour (time, meter_id, energy_mj, estimated_mj, covered_us, step_mj)
SELECT date_bin('1 hour', time, 'epoch'), meter_id, sum(energy_mj)::bigint, sum(estimated_mj)::bigint,
       sum(covered_us)::bigint, min(step_mj)
FROM power_meter_minute
WHERE meter_id = ANY(%(ids)s) AND time >= %(first)s AND time < %(last)s
GROUP BY 1, 2
RETURNING meter_id, energy_mj

-- name: meters_of_days
SELECT DISTINCT meter_id FROM power_meter_hour WHERE time >= %(first)s AND time < %(last)s

-- name: clear_days
DELETE FROM power_meter_day WHERE meter_id = ANY(%(ids)s) AND time >= %(first)s AND time < %(last)s

-- name: sum_days
INSERT INTO power_meter_day (time, meter_id, energy_mj, estimated_mj, covered_us, step_mj, hours)
SELECT date_bin('1 day', time, 'epoch'), meter_id, sum(energy_mj)::bigint, sum(estimated_mj)::bigint,
       sum(covered_us)::bigint, min(step_mj), count(*)
FROM power_meter_hour
WHERE meter_id = ANY(%(ids)s) AND time >= %(first)s AND time < %(last)s
GROUP BY 1, 2

-- name: move_totals
INSERT INTO power_meter_total AS t (meter_id, counted_mj, shown_mj)
SELECT meter_id, moved_mj, GREATEST(moved_mj, 0)
FROM unnest(%(ids)s::integer[], %(moved_mj)s::bigint[]) AS d (meter_id, moved_mj)
ON CONFLICT (meter_id) DO UPDATE SET
    counted_mj = t.counted_mj + EXCLUDED.counted_mj,
    shown_mj = GREATEST(t.shown_mj, t.counted_mj + EXCLUDED.counted_mj)

-- name: meters
-- A meter that was not seen for a week before the range begins is taken for removed.
SELECT m.meter_id, s.name AS site, m.name, m.level, m.covers, m.node_id, m.first_seen
FROM power_meter m
JOIN site s USING (site_id)
WHERE m.first_seen < %(end)s AND m.last_seen >= %(start)s - interval '7 days'
    AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
ORDER BY s.name, m.name, m.node_id
LIMIT %(limit)s

-- name: any_meter
SELECT EXISTS (SELECT FROM power_meter)

-- name: nodes
SELECT n.node_id, s.name AS site, n.name, n.labels, n.simulated, COALESCE(a.boards, 0) AS boards
FROM node n
JOIN site s USING (site_id)
LEFT JOIN (
    SELECT node_id, count(*)::int AS boards FROM accelerator
    WHERE first_seen < %(end)s AND last_seen >= %(start)s - interval '7 days'
    GROUP BY node_id
) a USING (node_id)
WHERE n.first_seen < %(end)s AND n.last_seen >= %(start)s - interval '7 days'
    AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
ORDER BY n.node_id

-- name: counted
-- What each meter counted by bucket.
SELECT
    meter_id, COALESCE(date_bin(%(step)s::interval, time, TIMESTAMPTZ '1970-01-01 00:00:00Z'), %(start)s) AS bucket,
    sum(energy_mj)::bigint AS energy_mj, sum(estimated_mj)::bigint AS estimated_mj,
    sum(covered_us)::bigint AS covered_us, min(step_mj) AS step_mj
FROM (
    SELECT time, meter_id, energy_mj, estimated_mj, covered_us, step_mj FROM power_meter_day
    WHERE time >= %(day_start)s AND time < %(day_end)s
    UNION ALL
    SELECT time, meter_id, energy_mj, estimated_mj, covered_us, step_mj FROM power_meter_hour
    WHERE time >= %(hour_start)s AND time < %(day_start)s
    UNION ALL
    SELECT time, meter_id, energy_mj, estimated_mj, covered_us, step_mj FROM power_meter_hour
    WHERE time >= %(day_end)s AND time < %(hour_end)s
    UNION ALL
    SELECT time, meter_id, energy_mj, estimated_mj, covered_us, step_mj FROM power_meter_minute
    WHERE time >= %(start)s AND time < %(hour_start)s
    UNION ALL
    SELECT time, meter_id, energy_mj, estimated_mj, covered_us, step_mj FROM power_meter_minute
    WHERE time >= %(hour_end)s AND time < %(end)s
) m
WHERE meter_id = ANY(%(meter_ids)s)
GROUP BY 1, 2
ORDER BY 1, 2

-- name: broken_days
-- The days in which no meter of a group counted in every hour, but one of them in some: `below` reads these by hour.
SELECT g.n, d.time
FROM unnest(%(groups)s::integer[], %(meter_ids)s::integer[]) AS g (n, meter_id)
JOIN power_meter_day d USING (meter_id)
WHERE d.time >= %(day_start)s AND d.time < %(day_end)s
GROUP BY 1, 2
HAVING max(d.hours) < 24

-- name: below
-- What the nodes below each group of meters used by bucket, in the days, hours and minutes in which the group counted
-- at all: days where it counted in all their hours. `metered_us` is how long that was. Nodes that stand below all the
-- same groups are of one kind, and added up first. Aligned arrays: `groups` and `meter_ids`; `node_ids`, `of_kinds` and
-- `alone` (a kind of one node, which alone has `host_us`); `below_groups` and `below_kinds`; `broken` and `broken_days`.
-- `hourly` and `hourly_days`: of which nodes hours are needed. A day and its first hour begin together: rows meet by their
-- span, too.
WITH pair AS (
    SELECT * FROM unnest(%(groups)s::integer[], %(meter_ids)s::integer[]) AS g (n, meter_id)
), hourly AS (
    SELECT node_id, day + make_interval(hours => k) AS time
    FROM unnest(%(hourly)s::integer[], %(hourly_days)s::timestamptz[]) AS h (node_id, day), generate_series(0, 23) AS k
), metered AS (
    SELECT n, time, 86400000000 AS span_us
    FROM pair
    JOIN power_meter_day USING (meter_id)
    WHERE time >= %(day_start)s AND time < %(day_end)s AND hours = 24
    GROUP BY n, time
    UNION ALL
    SELECT n, time, span_us
    FROM pair
    JOIN (
        SELECT meter_id, time, 3600000000 AS span_us FROM power_meter_hour
        WHERE time >= %(hour_start)s AND time < %(day_start)s
        UNION ALL
        SELECT meter_id, time, 3600000000 FROM power_meter_hour WHERE time >= %(day_end)s AND time < %(hour_end)s
        UNION ALL
        SELECT meter_id, time, 60000000 FROM power_meter_minute WHERE time >= %(start)s AND time < %(hour_start)s
        UNION ALL
        SELECT meter_id, time, 60000000 FROM power_meter_minute WHERE time >= %(hour_end)s AND time < %(end)s
    ) m USING (meter_id)
    GROUP BY n, time, span_us
    UNION ALL
    SELECT n, time, 3600000000
    FROM (
        SELECT n, meter_id, day + make_interval(hours => k) AS time
        FROM unnest(%(broken)s::integer[], %(broken_days)s::timestamptz[]) AS b (n, day)
        JOIN pair USING (n), generate_series(0, 23) AS k
    ) b
    JOIN power_meter_hour USING (meter_id, time)
    WHERE time >= %(day_start)s AND time < %(day_end)s
    GROUP BY n, time
), node_kind AS NOT MATERIALIZED (
    -- Distinct already; said so that it is taken for a look-up, and nothing is sorted.
    SELECT DISTINCT ON (node_id) *
    FROM unnest(%(node_ids)s::integer[], %(of_kinds)s::integer[], %(alone)s::boolean[]) AS k (node_id, kind, alone)
), entry AS (
    SELECT
        kind, time, 86400000000 AS span_us, sum(accelerator_mj)::bigint AS accelerator_mj,
        sum(board_us)::bigint AS board_us, sum(domains_mj)::bigint AS domains_mj, sum(rest_mj)::bigint AS rest_mj,
        sum(whole_us)::bigint AS whole_us, CASE WHEN bool_and(alone) THEN max(host_us) END AS host_us
    FROM node_day
    JOIN node_kind USING (node_id)
    WHERE time >= %(day_start)s AND time < %(day_end)s
    GROUP BY kind, time
    UNION ALL
    SELECT kind, time, 3600000000, sum(energy_mj)::bigint, sum(covered_us)::bigint, NULL, NULL, NULL, NULL
    FROM (
        SELECT node_id, time, energy_mj, covered_us FROM meter_hour
        WHERE time >= %(hour_start)s AND time < %(day_start)s
        UNION ALL
        SELECT node_id, time, energy_mj, covered_us FROM meter_hour
        WHERE time >= %(day_end)s AND time < %(hour_end)s
        UNION ALL
        SELECT node_id, time, energy_mj, covered_us
        FROM hourly
        JOIN meter_hour USING (node_id, time)
        WHERE time >= %(day_start)s AND time < %(day_end)s
    ) h
    JOIN node_kind USING (node_id)
    GROUP BY kind, time
    UNION ALL
    SELECT kind, time, 60000000, sum(energy_mj)::bigint, sum(covered_us)::bigint, NULL, NULL, NULL, NULL
    FROM (
        SELECT node_id, time, energy_mj, covered_us FROM accelerator_minute
        WHERE time >= %(start)s AND time < %(hour_start)s
        UNION ALL
        SELECT node_id, time, energy_mj, covered_us FROM accelerator_minute
        WHERE time >= %(hour_end)s AND time < %(end)s
    ) m
    JOIN node_kind USING (node_id)
    GROUP BY kind, time
    UNION ALL
    SELECT
        kind, time, 3600000000, NULL, NULL, sum(energy_mj) FILTER (WHERE domain <> 'rest-of-node')::bigint,
        sum(energy_mj) FILTER (WHERE domain = 'rest-of-node')::bigint,
        sum(covered_us) FILTER (WHERE domain = 'rest-of-node')::bigint,
        CASE WHEN bool_and(alone) THEN max(covered_us) END
    FROM (
        SELECT node_id, time, domain, energy_mj, covered_us FROM host_hour
        WHERE time >= %(hour_start)s AND time < %(day_start)s
        UNION ALL
        SELECT node_id, time, domain, energy_mj, covered_us FROM host_hour
        WHERE time >= %(day_end)s AND time < %(hour_end)s
        UNION ALL
        SELECT node_id, time, domain, energy_mj, covered_us
        FROM hourly
        JOIN host_hour USING (node_id, time)
        WHERE time >= %(day_start)s AND time < %(day_end)s
    ) h
    JOIN node_kind USING (node_id)
    GROUP BY kind, time
    UNION ALL
    SELECT
        kind, time, 60000000, NULL, NULL, sum(energy_mj) FILTER (WHERE domain <> 'rest-of-node')::bigint,
        sum(energy_mj) FILTER (WHERE domain = 'rest-of-node')::bigint,
        sum(covered_us) FILTER (WHERE domain = 'rest-of-node')::bigint,
        CASE WHEN bool_and(alone) THEN max(covered_us) END
    FROM (
        SELECT node_id, time, domain, energy_mj, covered_us FROM host_minute
        WHERE time >= %(start)s AND time < %(hour_start)s
        UNION ALL
        SELECT node_id, time, domain, energy_mj, covered_us FROM host_minute
        WHERE time >= %(hour_end)s AND time < %(end)s
    ) m
    JOIN node_kind USING (node_id)
    GROUP BY kind, time
), used AS (
    SELECT n, time, span_us, sum(accelerator_mj)::bigint AS accelerator_mj, sum(domains_mj)::bigint AS domains_mj,
           sum(rest_mj)::bigint AS rest_mj, sum(board_us)::bigint AS board_us, sum(host_us)::bigint AS host_us,
           sum(whole_us)::bigint AS whole_us
    FROM entry
    JOIN unnest(%(below_groups)s::integer[], %(below_kinds)s::integer[]) AS b (n, kind) USING (kind)
    GROUP BY n, time, span_us
)
SELECT
    n, COALESCE(date_bin(%(step)s::interval, time, TIMESTAMPTZ '1970-01-01 00:00:00Z'), %(start)s) AS bucket,
    sum(span_us)::bigint AS metered_us, sum(accelerator_mj)::bigint AS accelerator_mj,
    sum(domains_mj)::bigint AS domains_mj, sum(rest_mj)::bigint AS rest_mj, sum(board_us)::bigint AS board_us,
    sum(host_us)::bigint AS host_us, sum(whole_us)::bigint AS whole_us
FROM metered
LEFT JOIN used USING (n, time, span_us)
GROUP BY 1, 2
ORDER BY 1, 2
