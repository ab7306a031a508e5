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
    SELECT * FROM power_meter_hour WHERE time >= %(hour_start)s AND time < %(hour_end)s
    UNION ALL
    SELECT * FROM power_meter_minute WHERE time >= %(start)s AND time < %(hour_start)s
    UNION ALL
    SELECT * FROM power_meter_minute WHERE time >= %(hour_end)s AND time < %(end)s
) m
WHERE meter_id = ANY(%(meter_ids)s)
GROUP BY 1, 2
ORDER BY 1, 2

-- name: below
-- What the nodes below each group of meters used by bucket, in the hours and minutes in which the group counted at all.
-- `group` and `meter_id`, and `member` and `node_id`, are pairs. `metered_us` is how long that was.
WITH metered AS (
    SELECT g.n, m.time, max(m.span_us) AS span_us
    FROM unnest(%(groups)s::integer[], %(meter_ids)s::integer[]) AS g (n, meter_id)
    JOIN (
        SELECT meter_id, time, 3600000000 AS span_us FROM power_meter_hour
        WHERE time >= %(hour_start)s AND time < %(hour_end)s
        UNION ALL
        SELECT meter_id, time, 60000000 FROM power_meter_minute WHERE time >= %(start)s AND time < %(hour_start)s
        UNION ALL
        SELECT meter_id, time, 60000000 FROM power_meter_minute WHERE time >= %(hour_end)s AND time < %(end)s
    ) m USING (meter_id)
    GROUP BY g.n, m.time
), member AS (
    SELECT * FROM unnest(%(members)s::integer[], %(node_ids)s::integer[]) AS p (n, node_id)
), row AS (
    SELECT node_id, time, energy_mj AS accelerator_mj, covered_us AS board_us, NULL::bigint AS domains_mj,
           NULL::bigint AS rest_mj, NULL::bigint AS whole_us, NULL::bigint AS host_us
    FROM meter_hour WHERE time >= %(hour_start)s AND time < %(hour_end)s
    UNION ALL
    SELECT node_id, time, energy_mj, covered_us, NULL, NULL, NULL, NULL FROM accelerator_minute
    WHERE time >= %(start)s AND time < %(hour_start)s
    UNION ALL
    SELECT node_id, time, energy_mj, covered_us, NULL, NULL, NULL, NULL FROM accelerator_minute
    WHERE time >= %(hour_end)s AND time < %(end)s
    UNION ALL
    SELECT node_id, time, NULL, NULL, CASE WHEN domain <> 'rest-of-node' THEN energy_mj END,
           CASE WHEN domain = 'rest-of-node' THEN energy_mj END, CASE WHEN domain = 'rest-of-node' THEN covered_us END,
           CASE WHEN row_number() OVER (PARTITION BY node_id, time ORDER BY covered_us DESC) = 1 THEN covered_us END
    FROM (
        SELECT * FROM host_hour WHERE time >= %(hour_start)s AND time < %(hour_end)s
        UNION ALL
        SELECT * FROM host_minute WHERE time >= %(start)s AND time < %(hour_start)s
        UNION ALL
        SELECT * FROM host_minute WHERE time >= %(hour_end)s AND time < %(end)s
    ) h
), used AS (
    SELECT n, time, sum(accelerator_mj) AS accelerator_mj, sum(board_us) AS board_us, sum(domains_mj) AS domains_mj,
           sum(rest_mj) AS rest_mj, sum(whole_us) AS whole_us, sum(host_us) AS host_us
    FROM row
    JOIN member USING (node_id)
    GROUP BY 1, 2
)
SELECT
    n, COALESCE(date_bin(%(step)s::interval, m.time, TIMESTAMPTZ '1970-01-01 00:00:00Z'), %(start)s) AS bucket,
    sum(m.span_us)::bigint AS metered_us, sum(u.accelerator_mj)::bigint AS accelerator_mj,
    sum(u.domains_mj)::bigint AS domains_mj, sum(u.rest_mj)::bigint AS rest_mj, sum(u.board_us)::bigint AS board_us,
    sum(u.host_us)::bigint AS host_us, sum(u.whole_us)::bigint AS whole_us
FROM metered m
LEFT JOIN used u USING (n, time)
GROUP BY 1, 2
ORDER BY 1, 2
