-- Read-only views for Grafana and SQL, versioned like the API, described in docs/sql.md. Columns are only ever added.
-- Each view keeps `time` as the tables have it, so that a bound on it reads nothing else.
-- A prefix and not a schema: whoever may only make tables where they are told can have the views, too.

CREATE VIEW wattmill_v1_ledger_minute AS
SELECT l.time, s.name AS site, n.name AS node, a.uuid AS accelerator, NULLIF(a.model, '') AS accelerator_model,
       e.target AS engine, w.name AS workload, NULLIF(w.model, '') AS model, NULLIF(w.team, '') AS team,
       CASE l.account WHEN 1 THEN 'serving' WHEN 2 THEN 'idle-loaded' WHEN 3 THEN 'idle-empty' ELSE 'unattributed' END
           AS account,
       l.energy_mj, l.estimated_mj, l.input_tokens, l.cached_input_tokens, l.output_tokens, l.covered_us, l.span_us,
       l.revision, n.simulated
FROM ledger_minute l
JOIN node n USING (node_id)
JOIN site s USING (site_id)
LEFT JOIN accelerator a USING (accelerator_id)
LEFT JOIN placement p USING (placement_id)
LEFT JOIN engine e ON e.engine_id = p.engine_id
LEFT JOIN workload w ON w.workload_id = p.workload_id;

CREATE VIEW wattmill_v1_ledger_hour AS
SELECT l.time, s.name AS site, n.name AS node, a.uuid AS accelerator, NULLIF(a.model, '') AS accelerator_model,
       e.target AS engine, w.name AS workload, NULLIF(w.model, '') AS model, NULLIF(w.team, '') AS team,
       CASE l.account WHEN 1 THEN 'serving' WHEN 2 THEN 'idle-loaded' WHEN 3 THEN 'idle-empty' ELSE 'unattributed' END
           AS account,
       l.energy_mj, l.estimated_mj, l.input_tokens, l.cached_input_tokens, l.output_tokens, l.covered_us, l.span_us,
       l.revision, n.simulated
FROM ledger_hour l
JOIN node n USING (node_id)
JOIN site s USING (site_id)
LEFT JOIN accelerator a USING (accelerator_id)
LEFT JOIN placement p USING (placement_id)
LEFT JOIN engine e ON e.engine_id = p.engine_id
LEFT JOIN workload w ON w.workload_id = p.workload_id;

CREATE VIEW wattmill_v1_ledger_day AS
SELECT l.time, s.name AS site, n.name AS node, a.uuid AS accelerator, NULLIF(a.model, '') AS accelerator_model,
       e.target AS engine, w.name AS workload, NULLIF(w.model, '') AS model, NULLIF(w.team, '') AS team,
       CASE l.account WHEN 1 THEN 'serving' WHEN 2 THEN 'idle-loaded' WHEN 3 THEN 'idle-empty' ELSE 'unattributed' END
           AS account,
       l.energy_mj, l.estimated_mj, l.input_tokens, l.cached_input_tokens, l.output_tokens, l.covered_us, l.span_us,
       l.revision, n.simulated
FROM ledger_day l
JOIN node n USING (node_id)
JOIN site s USING (site_id)
LEFT JOIN accelerator a USING (accelerator_id)
LEFT JOIN placement p USING (placement_id)
LEFT JOIN engine e ON e.engine_id = p.engine_id
LEFT JOIN workload w ON w.workload_id = p.workload_id;

CREATE VIEW wattmill_v1_efficiency_minute AS
SELECT time, site, workload, model, team, accelerator_model, sum(energy_mj)::bigint AS energy_mj,
       sum(input_tokens)::bigint AS input_tokens, sum(cached_input_tokens)::bigint AS cached_input_tokens,
       sum(output_tokens)::bigint AS output_tokens,
       NULLIF(sum(output_tokens), 0) * 3600000000.0::float8 / NULLIF(sum(energy_mj), 0)::float8 AS tokens_per_kwh,
       sum(energy_mj)::float8 / (1000 * NULLIF(sum(output_tokens), 0))::float8 AS joules_per_token,
       LEAST(sum(covered_us)::float8 / NULLIF(sum(span_us), 0)::float8, 1.0) AS coverage,
       bool_or(simulated) AS simulated
FROM wattmill_v1_ledger_minute
WHERE workload IS NOT NULL
GROUP BY time, site, workload, model, team, accelerator_model;

CREATE VIEW wattmill_v1_efficiency_hour AS
SELECT time, site, workload, model, team, accelerator_model, sum(energy_mj)::bigint AS energy_mj,
       sum(input_tokens)::bigint AS input_tokens, sum(cached_input_tokens)::bigint AS cached_input_tokens,
       sum(output_tokens)::bigint AS output_tokens,
       NULLIF(sum(output_tokens), 0) * 3600000000.0::float8 / NULLIF(sum(energy_mj), 0)::float8 AS tokens_per_kwh,
       sum(energy_mj)::float8 / (1000 * NULLIF(sum(output_tokens), 0))::float8 AS joules_per_token,
       LEAST(sum(covered_us)::float8 / NULLIF(sum(span_us), 0)::float8, 1.0) AS coverage,
       bool_or(simulated) AS simulated
FROM wattmill_v1_ledger_hour
WHERE workload IS NOT NULL
GROUP BY time, site, workload, model, team, accelerator_model;

CREATE VIEW wattmill_v1_efficiency_day AS
SELECT time, site, workload, model, team, accelerator_model, sum(energy_mj)::bigint AS energy_mj,
       sum(input_tokens)::bigint AS input_tokens, sum(cached_input_tokens)::bigint AS cached_input_tokens,
       sum(output_tokens)::bigint AS output_tokens,
       NULLIF(sum(output_tokens), 0) * 3600000000.0::float8 / NULLIF(sum(energy_mj), 0)::float8 AS tokens_per_kwh,
       sum(energy_mj)::float8 / (1000 * NULLIF(sum(output_tokens), 0))::float8 AS joules_per_token,
       LEAST(sum(covered_us)::float8 / NULLIF(sum(span_us), 0)::float8, 1.0) AS coverage,
       bool_or(simulated) AS simulated
FROM wattmill_v1_ledger_day
WHERE workload IS NOT NULL
GROUP BY time, site, workload, model, team, accelerator_model;

CREATE VIEW wattmill_v1_overhead_minute AS
SELECT h.time, s.name AS site, n.name AS node, h.domain, h.energy_mj, h.estimated_mj, h.covered_us, n.simulated
FROM host_minute h
JOIN node n USING (node_id)
JOIN site s USING (site_id);

CREATE VIEW wattmill_v1_overhead_hour AS
SELECT h.time, s.name AS site, n.name AS node, h.domain, h.energy_mj, h.estimated_mj, h.covered_us, n.simulated
FROM host_hour h
JOIN node n USING (node_id)
JOIN site s USING (site_id);

-- The price that held when the hour began; a change within an hour is exact in the REST answers only.
CREATE VIEW wattmill_v1_cost_hour AS
SELECT e.time, e.site, e.workload, e.model, e.team, e.accelerator_model, e.energy_mj, e.output_tokens, t.currency,
       e.energy_mj / 3600000000.0 * t.price_per_kwh AS cost, e.energy_mj / 3600000000.0 * c.grams_per_kwh AS co2_grams,
       e.simulated
FROM wattmill_v1_efficiency_hour e
LEFT JOIN LATERAL (
    SELECT currency, price_per_kwh FROM tariff
    WHERE site IN (e.site, '*') AND valid_from <= e.time ORDER BY site = '*', valid_from DESC LIMIT 1
) t ON true
LEFT JOIN LATERAL (
    SELECT grams_per_kwh FROM carbon
    WHERE site IN (e.site, '*') AND valid_from <= e.time ORDER BY site = '*', valid_from DESC LIMIT 1
) c ON true;

CREATE VIEW wattmill_v1_phase_day AS
SELECT p.time, w.name AS workload, NULLIF(w.model, '') AS model, NULLIF(w.team, '') AS team,
       NULLIF(p.accelerator_model, '') AS accelerator_model, p.energy_mj, p.explained_mj, p.standing_mj, p.prefill_mj, p.decode_mj
FROM phase_day p
JOIN workload w USING (workload_id);

-- Hours in which anything at all was written, and every board that should have been read in them: one that said
-- nothing is covered 0. A board that was not seen for a week is taken for removed.
CREATE VIEW wattmill_v1_coverage_hour AS
SELECT h.time, s.name AS site, n.name AS node, a.uuid AS accelerator, NULLIF(a.model, '') AS accelerator_model,
       LEAST(c.covered_us, x.expected_us) AS covered_us, x.expected_us,
       LEAST(c.covered_us::float8 / x.expected_us::float8, 1.0) AS coverage, n.simulated
FROM (SELECT DISTINCT time FROM ledger_hour) h
JOIN accelerator a ON a.first_seen < h.time + interval '1 hour' AND a.last_seen >= h.time - interval '7 days'
JOIN node n USING (node_id)
JOIN site s USING (site_id)
CROSS JOIN LATERAL (
    SELECT (extract(epoch FROM LEAST(h.time + interval '1 hour', date_trunc('minute', now()) - interval '2 minutes')
                - GREATEST(h.time, a.first_seen)) * 1000000)::bigint AS expected_us
) x
CROSS JOIN LATERAL (
    SELECT COALESCE(sum(l.covered_us), 0)::bigint AS covered_us
    FROM ledger_hour l
    WHERE l.time = h.time AND l.accelerator_id = a.accelerator_id
) c
WHERE x.expected_us > 0;

CREATE VIEW wattmill_v1_finding AS
SELECT f.finding_id, f.kind, f.subject, f.state, NULLIF(f.site, '') AS site, NULLIF(f.node, '') AS node,
       NULLIF(f.workload, '') AS workload, f.since, f.until, f.last_seen, f.energy_mj, f.mj_per_day, f.summary, f.remedy,
       f.evidence, f.acknowledged, f.resolved, v.saved_mj, f.simulated
FROM finding f
LEFT JOIN finding_saving v USING (finding_id)
WHERE f.merged_into IS NULL;

CREATE VIEW wattmill_v1_node_status AS
SELECT s.name AS site, n.name AS node,
       CASE WHEN now() - n.last_seen > interval '7 days' THEN 'gone' WHEN now() - n.last_seen > interval '10 minutes' THEN 'silent'
            WHEN now() - n.last_seen > interval '2 minutes' THEN 'late' ELSE 'reporting' END AS state,
       extract(epoch FROM now() - n.last_seen)::float8 AS age_s, n.first_seen, n.last_seen, n.interval_us,
       NULLIF(n.agent_version, '') AS agent_version,
       (SELECT count(*) FROM accelerator a WHERE a.node_id = n.node_id) AS accelerators,
       (SELECT count(*) FROM engine e WHERE e.node_id = n.node_id) AS engines, n.labels, n.simulated
FROM node n
JOIN site s USING (site_id);

-- A role for readers, where we may make one: roles belong to the whole server, and another database may have made it.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'wattmill_read') THEN
        CREATE ROLE wattmill_read NOLOGIN;
    END IF;
EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN
    RAISE NOTICE 'the role wattmill_read was not made here; docs/sql.md says how';
END $$;
DO $$
DECLARE
    view name;
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'wattmill_read') THEN
        FOR view IN SELECT viewname FROM pg_views WHERE schemaname = current_schema AND viewname ^@ 'wattmill_v1_' LOOP
            EXECUTE format('GRANT SELECT ON %I TO wattmill_read', view);
        END LOOP;
    END IF;
END $$;
