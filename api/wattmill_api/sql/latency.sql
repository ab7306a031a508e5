-- Statements of store/latency.py: histograms out as arrays, their minutes and hours in, and what /efficiency asks of them.

-- name: samples
SELECT engine_id::bigint, time, metric::bigint, bounds_id::bigint, placement_id::bigint, epoch,
       COALESCE(epoch_start_us, -1), cardinality(counts)::bigint, counts
FROM latency_sample
WHERE engine_id = ANY(%(ids)s) AND time >= %(first)s AND time <= %(last)s
ORDER BY engine_id, metric, time

-- name: minutes
SELECT engine_id::bigint, time, metric::bigint, bounds_id::bigint, placement_id::bigint, node_id::bigint, 0::bigint,
       cardinality(counts)::bigint, counts
FROM latency_minute
WHERE engine_id = ANY(%(ids)s) AND time >= %(first)s AND time < %(last)s
ORDER BY engine_id, metric, time

-- name: touched
SELECT DISTINCT engine_id FROM latency_sample
WHERE engine_id = ANY(%(ids)s) AND time > %(first)s AND time <= %(last)s
ORDER BY engine_id

-- The sample before and after an instant, for histograms that have none near: bounded in time, one index descent each.

-- name: before
SELECT w.n, s.time
FROM unnest(%(ns)s::integer[], %(ids)s::integer[], %(metrics)s::smallint[], %(ats)s::timestamptz[])
    AS w (n, engine_id, metric, at)
CROSS JOIN LATERAL (
    SELECT time FROM latency_sample
    WHERE engine_id = w.engine_id AND metric = w.metric AND time <= w.at AND time >= w.at - interval '15 days'
    ORDER BY time DESC LIMIT 1) s

-- name: after
SELECT w.n, s.time
FROM unnest(%(ns)s::integer[], %(ids)s::integer[], %(metrics)s::smallint[], %(ats)s::timestamptz[])
    AS w (n, engine_id, metric, at)
CROSS JOIN LATERAL (
    SELECT time FROM latency_sample
    WHERE engine_id = w.engine_id AND metric = w.metric AND time > w.at AND time <= w.at + interval '15 days'
    ORDER BY time LIMIT 1) s

-- name: idle_before
-- When a process was last read before it had made a token: its histograms stood at 0 then, shown or not.
SELECT w.n, s.time
FROM unnest(%(ns)s::integer[], %(ids)s::integer[], %(epochs)s::bigint[], %(starts)s::timestamptz[], %(ats)s::timestamptz[])
    AS w (n, engine_id, epoch, start, at)
CROSS JOIN LATERAL (
    SELECT time FROM engine_sample
    WHERE engine_id = w.engine_id AND epoch = w.epoch AND COALESCE(output_tokens, 0) = 0
        AND time < w.at AND time >= GREATEST(w.start, w.at - interval '1 day')
    ORDER BY time DESC LIMIT 1) s

-- name: clear_minutes
DELETE FROM latency_minute m
USING unnest(%(ids)s::integer[], %(metrics)s::smallint[], %(firsts)s::timestamptz[], %(lasts)s::timestamptz[])
    AS w (engine_id, metric, first_time, last_time)
WHERE m.engine_id = w.engine_id AND m.metric = w.metric AND m.time >= w.first_time AND m.time < w.last_time
    AND m.time >= %(first)s AND m.time < %(last)s

-- name: copy_minutes
COPY latency_minute (time, engine_id, metric, bounds_id, placement_id, node_id, counts) FROM STDIN (FORMAT BINARY)

-- name: clear_hours
DELETE FROM latency_hour WHERE engine_id = ANY(%(ids)s) AND time >= %(first)s AND time < %(last)s

-- name: copy_hours
COPY latency_hour (time, engine_id, metric, bounds_id, placement_id, node_id, counts) FROM STDIN (FORMAT BINARY)
