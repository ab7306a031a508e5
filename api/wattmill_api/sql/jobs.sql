-- Statements of store/jobs.py: one leader, retention, verification, the log of runs.

-- name: try_lead
SELECT pg_try_advisory_lock(%(lock)s)

-- name: ping
SELECT 1

-- name: began
-- How the run before ended stands until this one has: it runs while started > finished.
INSERT INTO job_run (job, started, finished, ok, detail) VALUES (%(job)s, now(), NULL, NULL, '')
ON CONFLICT (job) DO UPDATE SET started = now()

-- name: ended
UPDATE job_run SET finished = now(), ok = %(ok)s, detail = %(detail)s WHERE job = %(job)s

-- name: has_timescaledb
SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')

-- name: drop_chunks
SELECT drop_chunks(%(table)s::regclass, older_than => %(before)s::timestamptz)

-- name: delete_before
DELETE FROM {table} WHERE time < %(before)s

-- name: prune_batch_ledger
-- What lies far below committed_through can't come again: an agent rewinds to committed_through at most.
DELETE FROM batch_ledger l USING stream s
WHERE s.stream_id = l.stream_id AND l.sequence < s.committed_through AND l.received < %(before)s

-- name: verify_accelerators
-- The same totals by another road: inside an epoch the counter's last reading minus its first, straight from the raw
-- samples, against the sum of the ledger over the same whole minutes. Boards whose minutes hold anything but plain
-- measured differences (estimates, distrusted readings, gaps, new epochs) are left to the roll-up's own tests.
WITH edges AS (
    SELECT accelerator_id, min(energy_mj) AS low, max(energy_mj) AS high, count(*) AS readings,
           min(epoch) = max(epoch) AS one_epoch, min(time) AS first_time, max(time) AS last_time
    FROM accelerator_sample
    WHERE time >= %(first)s AND time <= %(last)s AND energy_mj IS NOT NULL
    GROUP BY accelerator_id
), booked AS (
    SELECT accelerator_id, sum(energy_mj) AS energy_mj
    FROM ledger_minute WHERE time >= %(first)s AND time < %(last)s AND accelerator_id <> 0
    GROUP BY accelerator_id
), metered AS (
    SELECT accelerator_id, sum(energy_mj) AS energy_mj, sum(estimated_mj) AS estimated_mj, sum(anomalies) AS anomalies,
           sum(covered_us) AS covered_us
    FROM accelerator_minute WHERE time >= %(first)s AND time < %(last)s
    GROUP BY accelerator_id
)
SELECT a.uuid, (e.high - e.low)::bigint AS counter_mj, COALESCE(b.energy_mj, 0)::bigint AS ledger_mj,
       COALESCE(m.energy_mj, 0)::bigint AS meter_mj
FROM edges e
JOIN accelerator a USING (accelerator_id)
LEFT JOIN booked b USING (accelerator_id)
LEFT JOIN metered m USING (accelerator_id)
WHERE e.one_epoch AND e.readings > 1 AND e.first_time = %(first)s AND e.last_time = %(last)s
  AND m.estimated_mj = 0 AND m.anomalies = 0
  AND m.covered_us = extract(epoch FROM %(last)s::timestamptz - %(first)s::timestamptz) * 1000000
ORDER BY a.uuid

-- name: dirty_before
SELECT EXISTS (SELECT FROM dirty_span WHERE first_time < %(last)s)
