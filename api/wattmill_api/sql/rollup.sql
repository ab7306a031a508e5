-- Statements of store/rollup.py: samples out as arrays, the ledger in.
-- Every column read as an array is made NOT NULL (-1, or NaN for ratios), so that a column packs to 8 bytes a row.

-- name: take_dirty
-- Takes what has been committed so far; what commits later stays for the next run.
DELETE FROM dirty_span WHERE dirty_id IN (SELECT dirty_id FROM dirty_span ORDER BY dirty_id LIMIT %(limit)s)
RETURNING node_id, first_time, last_time

-- name: put_back_dirty
INSERT INTO dirty_span (node_id, first_time, last_time)
SELECT * FROM unnest(%(node_ids)s::integer[], %(first_times)s::timestamptz[], %(last_times)s::timestamptz[])

-- name: dirty_count
SELECT count(*), min(first_time) FROM dirty_span

-- name: nodes
SELECT node_id, interval_us, (extract(epoch FROM first_seen) * 1000000)::bigint AS first_seen_us,
       (extract(epoch FROM last_seen) * 1000000)::bigint AS last_seen_us
FROM node WHERE node_id = ANY(%(node_ids)s) ORDER BY node_id

-- name: accelerators
SELECT accelerator_id, node_id, COALESCE(power_limit_mw, 0) AS power_limit_mw
FROM accelerator WHERE node_id = ANY(%(node_ids)s) ORDER BY accelerator_id

-- name: engines
SELECT engine_id, node_id, (extract(epoch FROM first_seen) * 1000000)::bigint AS first_seen_us
FROM engine WHERE node_id = ANY(%(node_ids)s) ORDER BY engine_id

-- name: placements
-- A front end holds no board, whatever is said of it.
SELECT p.placement_id, CASE WHEN p.role = 'frontend' THEN '{}' ELSE p.accelerator_ids END, p.shares_ppm, p.role
FROM placement p JOIN engine e USING (engine_id)
WHERE e.node_id = ANY(%(node_ids)s)

-- name: chassis_nodes
SELECT node_id FROM power_meter WHERE node_id = ANY(%(node_ids)s) ORDER BY node_id

-- name: accelerator_samples
SELECT accelerator_id::bigint, time, COALESCE(energy_mj, -1), COALESCE(power_mw, power_instant_mw, -1)::bigint, epoch,
       COALESCE(epoch_start_us, -1), COALESCE(process_count, -1)::bigint, COALESCE(memory_used_bytes, -1),
       COALESCE(clock_event_reasons, 0), COALESCE(sm_clock_mhz, -1)::bigint, COALESCE(temperature_celsius, -999)::bigint,
       COALESCE(utilisation_ratio, 'NaN')::float8
FROM accelerator_sample
WHERE accelerator_id = ANY(%(ids)s) AND time >= %(first)s AND time <= %(last)s
ORDER BY accelerator_id, time

-- name: engine_samples
SELECT engine_id::bigint, time, placement_id::bigint, epoch, COALESCE(epoch_start_us, -1), COALESCE(input_tokens, -1),
       COALESCE(cached_input_tokens, -1), COALESCE(computed_input_tokens, -1), COALESCE(output_tokens, -1),
       COALESCE(requests_finished, -1), COALESCE(preemptions, -1), COALESCE(draft_tokens, -1),
       COALESCE(accepted_draft_tokens, -1), COALESCE(requests_running, -1)::bigint,
       COALESCE(requests_waiting, -1)::bigint, COALESCE(activity_ppm, -1)::bigint,
       COALESCE(kv_cache_usage_ratio, 'NaN')::float8
FROM engine_sample
WHERE engine_id = ANY(%(ids)s) AND time >= %(first)s AND time <= %(last)s
ORDER BY engine_id, time

-- name: host_domains
SELECT DISTINCT domain FROM host_sample
WHERE node_id = ANY(%(ids)s) AND time >= %(first)s AND time <= %(last)s ORDER BY domain

-- name: host_samples
SELECT node_id::bigint, time, COALESCE(energy_uj, -1), COALESCE(energy_range_uj, 0), epoch, COALESCE(epoch_start_us, -1),
       COALESCE(power_mw, -1)::bigint
FROM host_sample
WHERE domain = %(domain)s AND node_id = ANY(%(ids)s) AND time >= %(first)s AND time <= %(last)s
ORDER BY node_id, time

-- When samples were taken, and how old their process was: enough to see what a window's edges cut.

-- name: accelerator_times
SELECT accelerator_id::bigint, time, -1::bigint FROM accelerator_sample
WHERE accelerator_id = ANY(%(ids)s) AND time >= %(first)s AND time <= %(last)s
ORDER BY accelerator_id, time

-- name: engine_times
SELECT engine_id::bigint, time, COALESCE(epoch_start_us, -1) FROM engine_sample
WHERE engine_id = ANY(%(ids)s) AND time >= %(first)s AND time <= %(last)s
ORDER BY engine_id, time

-- name: host_times
SELECT DISTINCT node_id::bigint, time, -1::bigint FROM host_sample
WHERE node_id = ANY(%(ids)s) AND time >= %(first)s AND time <= %(last)s AND domain <> 'chassis'
ORDER BY 1, time

-- name: chassis_times
SELECT node_id::bigint, time, -1::bigint FROM host_sample
WHERE node_id = ANY(%(ids)s) AND time >= %(first)s AND time <= %(last)s AND domain = 'chassis'
ORDER BY 1, time

-- The sample before and after a window, for series that have none near: bounded in time, one index descent each.

-- name: accelerator_before
SELECT i.id, s.time FROM unnest(%(ids)s::integer[]) AS i (id) CROSS JOIN LATERAL (
    SELECT time FROM accelerator_sample
    WHERE accelerator_id = i.id AND time < %(at)s AND time >= %(limit)s ORDER BY time DESC LIMIT 1) s

-- name: accelerator_after
SELECT i.id, s.time FROM unnest(%(ids)s::integer[]) AS i (id) CROSS JOIN LATERAL (
    SELECT time FROM accelerator_sample
    WHERE accelerator_id = i.id AND time > %(at)s AND time <= %(limit)s ORDER BY time LIMIT 1) s

-- name: engine_before
SELECT i.id, s.time FROM unnest(%(ids)s::integer[]) AS i (id) CROSS JOIN LATERAL (
    SELECT time FROM engine_sample
    WHERE engine_id = i.id AND time < %(at)s AND time >= %(limit)s ORDER BY time DESC LIMIT 1) s

-- name: engine_after
SELECT i.id, s.time FROM unnest(%(ids)s::integer[]) AS i (id) CROSS JOIN LATERAL (
    SELECT time FROM engine_sample
    WHERE engine_id = i.id AND time > %(at)s AND time <= %(limit)s ORDER BY time LIMIT 1) s

-- name: host_before
SELECT i.id, s.time FROM unnest(%(ids)s::integer[]) AS i (id) CROSS JOIN LATERAL (
    SELECT time FROM host_sample
    WHERE node_id = i.id AND time < %(at)s AND time >= %(limit)s AND domain <> 'chassis'
    ORDER BY time DESC LIMIT 1) s

-- name: chassis_before
SELECT i.id, s.time FROM unnest(%(ids)s::integer[]) AS i (id) CROSS JOIN LATERAL (
    SELECT time FROM host_sample
    WHERE node_id = i.id AND time < %(at)s AND time >= %(limit)s AND domain = 'chassis'
    ORDER BY time DESC LIMIT 1) s

-- name: host_after
SELECT i.id, s.time FROM unnest(%(ids)s::integer[]) AS i (id) CROSS JOIN LATERAL (
    SELECT time FROM host_sample
    WHERE node_id = i.id AND time > %(at)s AND time <= %(limit)s AND domain <> 'chassis'
    ORDER BY time LIMIT 1) s

-- name: chassis_after
SELECT i.id, s.time FROM unnest(%(ids)s::integer[]) AS i (id) CROSS JOIN LATERAL (
    SELECT time FROM host_sample
    WHERE node_id = i.id AND time > %(at)s AND time <= %(limit)s AND domain = 'chassis'
    ORDER BY time LIMIT 1) s

-- name: last_counted
-- What a counter stood at when its process last showed it; a day back is enough to tell a late counter from a lost one.
SELECT {counter} FROM engine_sample
WHERE engine_id = %(engine_id)s AND epoch = %(epoch)s AND {counter} IS NOT NULL
  AND time < %(at)s AND time >= %(limit)s
ORDER BY time DESC LIMIT 1

-- name: clear_ledger_minute
DELETE FROM ledger_minute
WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s
RETURNING node_id, (extract(epoch FROM time) * 1000000)::bigint AS time_us, revision

-- name: clear_host_minute
DELETE FROM host_minute WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s

-- name: clear_accelerator_minute
DELETE FROM accelerator_minute WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s

-- name: clear_engine_minute
DELETE FROM engine_minute WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s

-- name: copy_ledger_minute
COPY ledger_minute (time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens,
    cached_input_tokens, output_tokens, covered_us, span_us, revision) FROM STDIN (FORMAT BINARY)

-- name: copy_host_minute
COPY host_minute (time, node_id, domain, energy_mj, estimated_mj, covered_us) FROM STDIN (FORMAT BINARY)

-- name: copy_accelerator_minute
COPY accelerator_minute (time, accelerator_id, node_id, energy_mj, estimated_mj, covered_us, anomalies, power_mw,
    process_count, memory_used_bytes, clock_event_reasons, sm_clock_mhz, utilisation_ratio, temperature_celsius)
FROM STDIN (FORMAT BINARY)

-- name: copy_engine_minute
COPY engine_minute (time, engine_id, node_id, placement_id, input_tokens, cached_input_tokens, computed_input_tokens,
    output_tokens, requests_finished, preemptions, draft_tokens, accepted_draft_tokens, covered_us, anomalies,
    requests_running, requests_waiting, kv_cache_usage_ratio, activity_ratio) FROM STDIN (FORMAT BINARY)

-- name: clear_ledger_hour
DELETE FROM ledger_hour WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s

-- name: minute_entry
-- An entry for `shared`: hours as sums of their minutes.
SELECT date_bin('1 hour', time, 'epoch') AS time, node_id, accelerator_id, placement_id, account,
       sum(energy_mj)::bigint AS energy_mj, sum(estimated_mj)::bigint AS estimated_mj,
       sum(input_tokens)::bigint AS input_tokens, sum(cached_input_tokens)::bigint AS cached_input_tokens,
       sum(output_tokens)::bigint AS output_tokens, sum(covered_us)::bigint AS covered_us,
       sum(span_us)::bigint AS span_us, max(revision) AS revision
FROM ledger_minute
WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s
GROUP BY 1, 2, 3, 4, 5

-- name: hour_entry
-- An entry for `shared`: hours that are there.
SELECT time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens, cached_input_tokens,
       output_tokens, covered_us, span_us, revision
FROM ledger_hour
WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s

-- name: shared
-- Hours of the ledger with each node's host energy shared among its rows: `shared_entry` of query.sql says how.
WITH met AS (
    SELECT
        u.*, sum(host_mj) OVER node AS node_host_mj, sum(host_estimated_mj) OVER node AS node_estimated_mj,
        sum(energy_mj) OVER node AS node_mj
    FROM (
        SELECT e.*, NULL::numeric AS host_mj, NULL::numeric AS host_estimated_mj FROM ({entry}) e
        UNION ALL
        SELECT time, node_id, 0, 0, 5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, sum(energy_mj), sum(estimated_mj)
        FROM host_hour
        WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s
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
    WHERE account <> 5
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
    time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens, cached_input_tokens,
    output_tokens, covered_us, span_us, revision,
    node_host_mj IS NULL AND energy_mj > 0 AS host_unknown,
    COALESCE(share_mj + CASE WHEN place <= left_mj THEN 1 ELSE 0 END, 0)::bigint AS host_mj,
    COALESCE(share_estimated_mj, 0)::bigint AS host_estimated_mj
FROM ranked

-- name: sum_ledger_hour
INSERT INTO ledger_hour (time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens,
    cached_input_tokens, output_tokens, covered_us, span_us, revision, host_unknown, host_mj, host_estimated_mj)
{shared}

-- name: share_ledger_hour
-- Hours of before 0022_host_shares.sql: their rows stay, and get their parts of the host.
UPDATE ledger_hour l
SET host_unknown = s.host_unknown, host_mj = s.host_mj, host_estimated_mj = s.host_estimated_mj
FROM ({shared}) s
WHERE l.node_id = ANY(%(node_ids)s) AND l.time >= %(first)s AND l.time < %(last)s AND l.host_mj IS NULL
    AND l.time = s.time AND l.node_id = s.node_id AND l.accelerator_id = s.accelerator_id
    AND l.placement_id = s.placement_id AND l.account = s.account

-- name: clear_host_hour
DELETE FROM host_hour WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s

-- name: sum_host_hour
INSERT INTO host_hour (time, node_id, domain, energy_mj, estimated_mj, covered_us)
SELECT date_bin('1 hour', time, 'epoch'), node_id, domain, sum(energy_mj)::bigint, sum(estimated_mj)::bigint,
       sum(covered_us)::bigint
FROM host_minute
WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s
GROUP BY 1, 2, 3

-- name: clear_meter_hour
DELETE FROM meter_hour WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s

-- name: sum_meter_hour
-- What the boards' counters say, past the ledger.
INSERT INTO meter_hour (time, node_id, energy_mj, covered_us)
SELECT date_bin('1 hour', time, 'epoch'), node_id, sum(energy_mj)::bigint, sum(covered_us)::bigint
FROM accelerator_minute
WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s
GROUP BY 1, 2

-- name: clear_ledger_day
DELETE FROM ledger_day WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s

-- name: sum_ledger_day
-- Sums of hours. Says of which nodes an hour was not shared out yet.
WITH summed AS (
    INSERT INTO ledger_day (time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens,
        cached_input_tokens, output_tokens, covered_us, span_us, revision, host_unknown, input_unknown, cached_unknown,
        output_unknown, energy_hours, host_mj, host_estimated_mj)
    SELECT date_bin('1 day', time, 'epoch'), node_id, accelerator_id, placement_id, account, sum(energy_mj)::bigint,
           sum(estimated_mj)::bigint, sum(input_tokens)::bigint, sum(cached_input_tokens)::bigint,
           sum(output_tokens)::bigint, sum(covered_us)::bigint, sum(span_us)::bigint, max(revision),
           CASE WHEN bool_and(host_mj IS NOT NULL) THEN bool_or(host_unknown) END,
           bool_or(account = 1 AND input_tokens IS NULL), bool_or(account = 1 AND cached_input_tokens IS NULL),
           bool_or(account = 1 AND output_tokens IS NULL),
           bit_or(CASE WHEN energy_mj > 0 THEN 1 << extract(hour FROM time AT TIME ZONE 'UTC')::integer ELSE 0 END),
           sum(host_mj)::bigint, sum(host_estimated_mj)::bigint
    FROM ledger_hour
    WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s
    GROUP BY 1, 2, 3, 4, 5
    RETURNING node_id, host_unknown
)
SELECT DISTINCT node_id FROM summed WHERE host_unknown IS NULL

-- name: nodes_of_days
SELECT node_id FROM meter_hour WHERE time >= %(first)s AND time < %(last)s
UNION
SELECT node_id FROM host_hour WHERE time >= %(first)s AND time < %(last)s

-- name: clear_node_day
DELETE FROM node_day WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s

-- name: sum_node_day
-- What the hours of a node hold, boards and host: as in 0021_node_days.sql and 0022_host_shares.sql.
INSERT INTO node_day (time, node_id, accelerator_mj, board_us, domains_mj, rest_mj, host_estimated_mj, domain_us, host_us,
    whole_us, unborne_mj, unborne_estimated_mj)
SELECT date_bin('1 day', time, 'epoch'), node_id, sum(accelerator_mj)::bigint, sum(board_us)::bigint,
       sum(domains_mj)::bigint, sum(rest_mj)::bigint, sum(host_estimated_mj)::bigint, sum(domain_us)::bigint,
       sum(host_us)::bigint, sum(whole_us)::bigint, sum(host_mj) FILTER (WHERE unborne)::bigint,
       sum(host_estimated_mj) FILTER (WHERE unborne)::bigint
FROM (
    SELECT time, node_id, energy_mj AS accelerator_mj, covered_us AS board_us, NULL::bigint AS host_mj,
           NULL::bigint AS domains_mj, NULL::bigint AS rest_mj, NULL::bigint AS host_estimated_mj,
           NULL::bigint AS domain_us, NULL::bigint AS host_us, NULL::bigint AS whole_us, false AS unborne
    FROM meter_hour
    WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s
    UNION ALL
    SELECT time, host_hour.node_id, NULL, NULL, sum(energy_mj), sum(energy_mj) FILTER (WHERE domain <> 'rest-of-node'),
           sum(energy_mj) FILTER (WHERE domain = 'rest-of-node'), sum(estimated_mj), sum(covered_us), max(covered_us),
           sum(covered_us) FILTER (WHERE domain = 'rest-of-node'),
           COALESCE(min(hours), 0) & (1 << extract(hour FROM time AT TIME ZONE 'UTC')::integer) = 0
    FROM host_hour
    LEFT JOIN (
        SELECT time AS day, node_id, bit_or(energy_hours) AS hours
        FROM ledger_day
        WHERE node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s
        GROUP BY 1, 2
    ) d ON d.node_id = host_hour.node_id AND day = date_bin('1 day', time, 'epoch')
    WHERE host_hour.node_id = ANY(%(node_ids)s) AND time >= %(first)s AND time < %(last)s
    GROUP BY time, host_hour.node_id
) h
GROUP BY 1, 2
