-- Statements of store/savings.py: what was spent before a finding ended and after.

-- name: pending
-- Ended by a person, or by itself after a person had seen it; not yet followed for long enough.
SELECT f.finding_id, f.kind, f.since, f.until, f.energy_mj, f.engine_ids, f.board_ids, s.since AS from_time,
       s.until AS measured_until, s.before_mj, s.before_units, s.spent_mj, s.units
FROM finding f LEFT JOIN finding_saving s USING (finding_id)
WHERE (f.state = 'resolved' OR (f.state = 'closed' AND f.acknowledged IS NOT NULL))
    AND f.merged_into IS NULL AND f.kind = ANY(%(kinds)s) AND f.until >= %(ends_after)s
    AND (s.finding_id IS NULL OR s.until < s.since + %(follow)s)
ORDER BY f.finding_id

-- name: put
INSERT INTO finding_saving (finding_id, since, until, method, before_mj, before_units, spent_mj, units, saved_mj)
VALUES (%(finding_id)s, %(since)s, %(until)s, %(method)s, %(before_mj)s, %(before_units)s, %(spent_mj)s, %(units)s, %(saved_mj)s)
ON CONFLICT (finding_id) DO UPDATE SET until = EXCLUDED.until, spent_mj = EXCLUDED.spent_mj, units = EXCLUDED.units,
    saved_mj = EXCLUDED.saved_mj

-- name: idle
-- Idle energy of boards, and the board-hours that were watched.
SELECT (SELECT COALESCE(sum(energy_mj), 0) FROM ledger_minute
        WHERE time >= %(first)s AND time < %(last)s AND accelerator_id = ANY(%(board_ids)s) AND account IN (2, 3))::float8,
       (SELECT COALESCE(sum(covered_us), 0) FROM accelerator_minute
        WHERE time >= %(first)s AND time < %(last)s AND accelerator_id = ANY(%(board_ids)s))::float8 / 3.6e9

-- name: workload
-- Energy of the workloads that these engines served, wherever they run, and their output tokens.
SELECT COALESCE(sum(l.energy_mj) FILTER (WHERE l.account IN (1, 2)), 0)::float8, COALESCE(sum(l.output_tokens), 0)::float8
FROM ledger_minute l JOIN placement p USING (placement_id)
WHERE l.time >= %(first)s AND l.time < %(last)s AND p.workload_id IN (
    SELECT DISTINCT ON (engine_id) workload_id FROM placement
    WHERE engine_id = ANY(%(engine_ids)s) AND since < %(ended)s ORDER BY engine_id, until DESC, placement_id DESC)

-- name: engines
SELECT COALESCE(sum(l.energy_mj), 0)::float8, COALESCE(sum(l.output_tokens), 0)::float8
FROM ledger_minute l JOIN placement p USING (placement_id)
WHERE l.time >= %(first)s AND l.time < %(last)s AND p.engine_id = ANY(%(engine_ids)s) AND l.account = 1
