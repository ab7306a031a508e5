-- Statements of store/doctor.py: how the service and its database are, without reading any history.

-- name: server
SELECT clock_timestamp() AS now, current_setting('fsync') = 'on' AS fsync,
       current_setting('full_page_writes') = 'on' AS full_page_writes,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS connections

-- name: jobs
SELECT job, started, finished, ok, detail FROM job_run ORDER BY job

-- name: rolled_up
-- The newest minute, and how many touched spans wait; the newest sighting of any node lags by half a minute at most.
SELECT (SELECT time FROM ledger_minute WHERE time >= %(since)s AND time < %(until)s ORDER BY time DESC LIMIT 1) AS newest_minute,
       (SELECT max(last_seen) FROM node WHERE last_seen >= %(since)s AND last_seen < %(until)s) AS newest_reading,
       (SELECT count(*)::int FROM (SELECT FROM dirty_span LIMIT 10000) d) AS waiting

-- name: kept_too_long
-- Whether retention left anything behind; each asks an index for one row.
SELECT EXISTS (SELECT FROM accelerator_sample WHERE time < %(samples_before)s) AS samples,
       EXISTS (SELECT FROM ledger_minute WHERE time < %(minutes_before)s) AS minutes

-- name: node_counts
-- A node that was silent for a week is taken for removed.
SELECT count(*)::int AS nodes, (count(*) FILTER (WHERE last_seen < %(silent)s))::int AS silent,
       (array_agg(name ORDER BY last_seen) FILTER (WHERE last_seen < %(silent)s))[1:3] AS longest_silent,
       (count(*) FILTER (WHERE last_seen > %(ahead)s))::int AS ahead
FROM node
WHERE last_seen >= %(since)s

-- name: access
SELECT EXISTS (SELECT FROM api_key WHERE revoked IS NULL) AS keys

-- name: unpriced
-- Sites with a node that reports, and what has never been set for them.
SELECT s.name AS site,
       NOT EXISTS (SELECT FROM tariff t WHERE t.site IN (s.name, '*') AND t.valid_from <= %(now)s) AS tariff,
       NOT EXISTS (SELECT FROM carbon c WHERE c.site IN (s.name, '*') AND c.valid_from <= %(now)s) AS carbon
FROM site s
WHERE EXISTS (SELECT FROM node n WHERE n.site_id = s.site_id AND n.last_seen >= %(since)s)
ORDER BY s.name

-- name: failing_webhooks
SELECT name, failures, error FROM webhook WHERE failures > 0 ORDER BY name LIMIT 20
