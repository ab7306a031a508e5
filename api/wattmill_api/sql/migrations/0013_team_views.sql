-- requires: create-schema
-- The store as some teams see it: views under the names and with the columns of the tables, of their own rows alone.
-- An answer to a key of some teams is asked with this schema as its whole search path (store/database.py), so every
-- statement is narrowed without knowing it, and a table that is not here cannot be read at all.
-- Whoever adds a column to a table adds it to its view, at the end; tests/api/test_teams.py compares the two.

CREATE SCHEMA wattmill_team;

-- The teams of the request in hand, set for its transaction. NULL, and so nothing, where they were not set.
CREATE FUNCTION wattmill_team.teams() RETURNS text[] LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT NULLIF(current_setting('wattmill.teams', true), '')::text[] $$;

CREATE VIEW wattmill_team.workload AS
SELECT * FROM workload WHERE team = ANY (wattmill_team.teams());

CREATE VIEW wattmill_team.placement AS
SELECT * FROM placement WHERE workload_id IN (SELECT workload_id FROM wattmill_team.workload);

-- An engine that changed hands is theirs from their first placement to their last.
CREATE VIEW wattmill_team.engine AS
SELECT e.engine_id, e.node_id, e.target, e.series, e.engine_kind, e.version, e.tokens_move,
       GREATEST(e.first_seen, p.since) AS first_seen, LEAST(e.last_seen, p.until) AS last_seen
FROM engine e
JOIN (
    SELECT engine_id, min(since) AS since, max(until) AS until FROM wattmill_team.placement GROUP BY engine_id
) p USING (engine_id);

CREATE VIEW wattmill_team.engine_version AS
SELECT * FROM engine_version WHERE engine_id IN (SELECT engine_id FROM wattmill_team.placement);

CREATE VIEW wattmill_team.accelerator AS
SELECT * FROM accelerator
WHERE accelerator_id IN (SELECT unnest(accelerator_ids) FROM wattmill_team.placement);

CREATE VIEW wattmill_team.node AS
SELECT * FROM node WHERE node_id IN (SELECT node_id FROM wattmill_team.engine);

CREATE VIEW wattmill_team.site AS
SELECT * FROM site WHERE site_id IN (SELECT site_id FROM wattmill_team.node);

-- Energy that is nobody's is no team's.
CREATE VIEW wattmill_team.ledger_minute AS
SELECT * FROM ledger_minute WHERE placement_id IN (SELECT placement_id FROM wattmill_team.placement);
CREATE VIEW wattmill_team.ledger_hour AS
SELECT * FROM ledger_hour WHERE placement_id IN (SELECT placement_id FROM wattmill_team.placement);
CREATE VIEW wattmill_team.ledger_day AS
SELECT * FROM ledger_day WHERE placement_id IN (SELECT placement_id FROM wattmill_team.placement);

-- Whole nodes, for one statement alone: to know a team's share of a host, all who share it are weighed. It keeps its
-- own rows afterwards (query.energy).
CREATE VIEW wattmill_team.every_ledger_minute AS
SELECT * FROM ledger_minute WHERE node_id IN (SELECT node_id FROM wattmill_team.engine);
CREATE VIEW wattmill_team.every_ledger_hour AS
SELECT * FROM ledger_hour WHERE node_id IN (SELECT node_id FROM wattmill_team.engine);
CREATE VIEW wattmill_team.every_host_minute AS
SELECT * FROM host_minute WHERE node_id IN (SELECT node_id FROM wattmill_team.engine);
CREATE VIEW wattmill_team.every_host_hour AS
SELECT * FROM host_hour WHERE node_id IN (SELECT node_id FROM wattmill_team.engine);

-- A board that was ever theirs: its coverage always, their part of its energy, and what its gauges said in minutes in
-- which nobody else had it.
CREATE VIEW wattmill_team.accelerator_minute AS
SELECT m.time, own.energy_mj, own.estimated_mj, m.covered_us,
       CASE WHEN own.alone THEN m.memory_used_bytes END AS memory_used_bytes,
       CASE WHEN own.alone THEN m.clock_event_reasons END AS clock_event_reasons,
       m.accelerator_id, m.node_id,
       CASE WHEN own.alone THEN m.power_mw END AS power_mw,
       CASE WHEN own.alone THEN m.process_count END AS process_count,
       CASE WHEN own.alone THEN m.sm_clock_mhz END AS sm_clock_mhz,
       m.anomalies,
       CASE WHEN own.alone THEN m.utilisation_ratio END AS utilisation_ratio,
       CASE WHEN own.alone THEN m.temperature_celsius END AS temperature_celsius
FROM accelerator_minute m
LEFT JOIN LATERAL (
    SELECT (sum(l.energy_mj) FILTER (WHERE p.placement_id IS NOT NULL))::bigint AS energy_mj,
           (sum(l.estimated_mj) FILTER (WHERE p.placement_id IS NOT NULL))::bigint AS estimated_mj,
           bool_and(p.placement_id IS NOT NULL) FILTER (WHERE l.placement_id <> 0) AS alone
    FROM ledger_minute l
    LEFT JOIN wattmill_team.placement p USING (placement_id)
    WHERE l.time = m.time AND l.accelerator_id = m.accelerator_id
) own ON true
WHERE m.accelerator_id IN (SELECT accelerator_id FROM wattmill_team.accelerator);

CREATE VIEW wattmill_team.engine_minute AS
SELECT * FROM engine_minute WHERE placement_id IN (SELECT placement_id FROM wattmill_team.placement);

CREATE VIEW wattmill_team.latency_bounds AS SELECT * FROM latency_bounds;
CREATE VIEW wattmill_team.latency_minute AS
SELECT * FROM latency_minute WHERE placement_id IN (SELECT placement_id FROM wattmill_team.placement);
CREATE VIEW wattmill_team.latency_hour AS
SELECT * FROM latency_hour WHERE placement_id IN (SELECT placement_id FROM wattmill_team.placement);

-- What befell a whole node is told without its words: they may be about anybody.
CREATE VIEW wattmill_team.absence AS
SELECT a.time, a.node_id, a.subject, a.id, a.start_time, a.reason, CASE WHEN a.id <> '' THEN a.detail ELSE '' END AS detail
FROM absence a
WHERE a.node_id IN (SELECT node_id FROM wattmill_team.engine)
    AND (
        a.id = ''
        OR (a.subject = 'accelerator' AND a.id IN (SELECT uuid FROM wattmill_team.accelerator))
        OR (a.subject = 'engine' AND EXISTS (
            SELECT FROM wattmill_team.engine e WHERE e.node_id = a.node_id AND e.target = a.id
        ))
    );

-- Prices and targets are everybody's, but name sites and workloads.
CREATE VIEW wattmill_team.tariff AS
SELECT * FROM tariff WHERE site = '*' OR site IN (SELECT name FROM wattmill_team.site);
CREATE VIEW wattmill_team.carbon AS
SELECT * FROM carbon WHERE site = '*' OR site IN (SELECT name FROM wattmill_team.site);
CREATE VIEW wattmill_team.pue AS
SELECT * FROM pue WHERE site = '*' OR site IN (SELECT name FROM wattmill_team.site);
CREATE VIEW wattmill_team.latency_target AS
SELECT * FROM latency_target WHERE workload = '*' OR workload IN (SELECT name FROM wattmill_team.workload);

-- A finding is theirs when everything it is about was, all the time. A board that held nothing was nobody's.
CREATE VIEW wattmill_team.finding AS
SELECT f.* FROM finding f
CROSS JOIN LATERAL (
    SELECT bool_and(p.workload_id IN (SELECT workload_id FROM wattmill_team.workload)) AS own
    FROM placement p
    WHERE (p.engine_id = ANY (f.engine_ids) OR (f.engine_ids = '{}' AND p.accelerator_ids && f.board_ids))
        AND p.since < COALESCE(f.until, f.last_seen) AND p.until > f.since
) held
WHERE f.kind <> 'idle-empty'
    AND (
        f.engine_ids && ARRAY(SELECT engine_id FROM wattmill_team.placement)
        OR f.board_ids && ARRAY(SELECT accelerator_id FROM wattmill_team.accelerator)
    )
    AND held.own;
CREATE VIEW wattmill_team.finding_event AS
SELECT * FROM finding_event WHERE finding_id IN (SELECT finding_id FROM wattmill_team.finding);
CREATE VIEW wattmill_team.finding_saving AS
SELECT * FROM finding_saving WHERE finding_id IN (SELECT finding_id FROM wattmill_team.finding);

-- A window that is wider than their workloads is told without its words.
CREATE VIEW wattmill_team.suppression AS
SELECT s.suppression_id, s.kind, s.subject, s.workload, s.node, s.site, s.since, s.until,
       CASE WHEN s.workload <> '*' THEN s.reason ELSE '' END AS reason,
       CASE WHEN s.workload <> '*' THEN s.by ELSE '' END AS by,
       s.created
FROM suppression s
WHERE (s.workload = '*' OR s.workload IN (SELECT name FROM wattmill_team.workload))
    AND (s.node = '*' OR s.node IN (SELECT name FROM wattmill_team.node))
    AND (s.site = '*' OR s.site IN (SELECT name FROM wattmill_team.site))
    AND (s.subject = '*' OR s.subject IN (SELECT subject FROM wattmill_team.finding));

CREATE VIEW wattmill_team.phase_day AS
SELECT * FROM phase_day WHERE workload_id IN (SELECT workload_id FROM wattmill_team.workload);

-- Replicas that are alike teach one curve, whoever runs them. Theirs are those that only they taught.
CREATE VIEW wattmill_team.curve_family AS
SELECT f.* FROM curve_family f
WHERE (f.model, f.accelerator_model, f.engine_kind, f.boards, f.simulated) IN (
    SELECT COALESCE(NULLIF(w.model, ''), w.name), a.model, e.engine_kind, cardinality(p.accelerator_ids), n.simulated
    FROM placement p
    JOIN engine e USING (engine_id)
    JOIN node n USING (node_id)
    JOIN workload w USING (workload_id)
    CROSS JOIN LATERAL (
        SELECT min(model) AS model FROM accelerator WHERE accelerator_id = ANY (p.accelerator_ids)
    ) a
    GROUP BY 1, 2, 3, 4, 5
    HAVING bool_and(w.team = ANY (wattmill_team.teams()))
);
CREATE VIEW wattmill_team.curve_day AS
SELECT * FROM curve_day WHERE family_id IN (SELECT family_id FROM wattmill_team.curve_family);

-- Says nothing of anybody.
CREATE VIEW wattmill_team.job_run AS SELECT * FROM job_run;
