-- Statements of store/gateways.py: what consumers drew through gateways, samples out as arrays, minutes and hours in.

-- name: touched
-- Which consumers have readings in a stretch of time.
SELECT DISTINCT client_id FROM gateway_sample
WHERE node_id = ANY(%(node_ids)s) AND time > %(first)s AND time <= %(last)s
ORDER BY client_id

-- name: samples
-- Of each consumer its readings in a stretch of time, some before it, by which it is judged, and two behind it.
WITH wanted AS (
    SELECT unnest(%(ids)s::integer[]) AS client_id
), found AS (
    SELECT s.* FROM wanted w CROSS JOIN LATERAL (
        SELECT * FROM gateway_sample
        WHERE client_id = w.client_id AND time <= %(first)s AND time >= %(first)s - interval '15 days'
        ORDER BY time DESC LIMIT %(before)s) s
    UNION ALL
    SELECT s.* FROM wanted w JOIN gateway_sample s USING (client_id) WHERE s.time > %(first)s AND s.time <= %(last)s
    UNION ALL
    SELECT s.* FROM wanted w CROSS JOIN LATERAL (
        SELECT * FROM gateway_sample
        WHERE client_id = w.client_id AND time > %(last)s AND time <= %(last)s + interval '15 days'
        ORDER BY time LIMIT %(behind)s) s
)
SELECT client_id::bigint, time, node_id::bigint, epoch, COALESCE(epoch_start_us, -1), COALESCE(input_tokens, -1),
       COALESCE(cached_input_tokens, -1), COALESCE(output_tokens, -1), COALESCE(requests_finished, -1)
FROM found
ORDER BY client_id, time

-- name: clear_minutes
DELETE FROM gateway_minute m
USING unnest(%(ids)s::integer[], %(firsts)s::timestamptz[], %(lasts)s::timestamptz[]) AS w (client_id, first_time, last_time)
WHERE m.client_id = w.client_id AND m.time >= w.first_time AND m.time < w.last_time
    AND m.time >= %(first)s AND m.time < %(last)s

-- name: copy_minutes
COPY gateway_minute (time, client_id, node_id, input_tokens, cached_input_tokens, output_tokens, requests_finished)
FROM STDIN (FORMAT BINARY)

-- name: clear_hours
DELETE FROM gateway_hour WHERE client_id = ANY(%(ids)s) AND time >= %(first)s AND time < %(last)s

-- name: sum_hours
INSERT INTO gateway_hour (time, client_id, node_id, input_tokens, cached_input_tokens, output_tokens, requests_finished)
SELECT date_bin('1 hour', time, 'epoch'), client_id, node_id, sum(input_tokens)::bigint, sum(cached_input_tokens)::bigint,
       sum(output_tokens)::bigint, sum(requests_finished)::bigint
FROM gateway_minute
WHERE client_id = ANY(%(ids)s) AND time >= %(first)s AND time < %(last)s
GROUP BY 1, 2, 3

-- name: drawn
-- What each consumer drew in each bucket, by what names it.
WITH entry AS (
    SELECT * FROM gateway_hour WHERE time >= %(hour_start)s AND time < %(hour_end)s
    UNION ALL
    SELECT * FROM gateway_minute WHERE time >= %(start)s AND time < %(hour_start)s
    UNION ALL
    SELECT * FROM gateway_minute WHERE time >= %(hour_end)s AND time < %(end)s
), total AS (
    SELECT COALESCE(date_bin(%(step)s::interval, time, TIMESTAMPTZ '1970-01-01 00:00:00Z'), %(start)s) AS bucket, client_id,
           sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
           sum(output_tokens) AS output_tokens, sum(requests_finished) AS requests_finished,
           bool_or(cached_input_tokens IS NULL) AS cached_unknown
    FROM entry
    GROUP BY 1, 2
)
SELECT bucket, c.node_id, c.target, c.gateway_kind, c.model, c.provider, c.workload, c.team, c.api_key, c."user", c.agent,
       COALESCE(input_tokens, 0)::bigint AS input_tokens,
       CASE WHEN cached_unknown THEN NULL ELSE cached_input_tokens END::bigint AS cached_input_tokens,
       COALESCE(output_tokens, 0)::bigint AS output_tokens, requests_finished::bigint AS requests_finished
FROM total
JOIN gateway_client c USING (client_id)
WHERE input_tokens > 0 OR output_tokens > 0
ORDER BY bucket, client_id
LIMIT %(limit)s

-- name: any_drawn
SELECT EXISTS (SELECT FROM gateway_hour WHERE time >= %(start)s AND time < %(end)s)
    OR EXISTS (SELECT FROM gateway_minute WHERE time >= %(start)s AND time < %(end)s)

-- name: served
-- Which models the workloads of some names serve.
SELECT name, array_agg(DISTINCT model) FROM workload WHERE name = ANY(%(names)s) GROUP BY name
