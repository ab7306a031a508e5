-- Statements of store/interner.py. Each kind has two: `find` tells which of many wanted rows stand as wanted, and locks
-- nothing; `add` writes the others. A row changes in place when what is said about it changes. `n` numbers the wanted.

-- name: database_token
-- Changes whenever cached ids could be wrong: another database, or a server restarted after a restore.
SELECT (SELECT oid FROM pg_database WHERE datname = current_database())::text || ' ' || pg_postmaster_start_time()::text

-- name: find_site
SELECT n, site_id FROM site JOIN jsonb_to_recordset(%(rows)s) AS wanted (n integer, name text) USING (name)

-- name: add_site
INSERT INTO site (name)
SELECT name FROM jsonb_to_recordset(%(rows)s) AS wanted (name text)
ON CONFLICT (name) DO NOTHING

-- name: find_node
SELECT n, node_id
FROM node JOIN jsonb_to_recordset(%(rows)s) AS wanted (
    n integer, site_id integer, name text, labels jsonb, boot_id text, agent_version text, interval_us bigint,
    simulated boolean) USING (site_id, name)
WHERE node.labels = wanted.labels AND node.boot_id = wanted.boot_id AND node.agent_version = wanted.agent_version
    AND node.interval_us = wanted.interval_us AND node.simulated = wanted.simulated

-- name: add_node
INSERT INTO node (site_id, name, labels, boot_id, agent_version, interval_us, simulated, first_seen, last_seen)
SELECT site_id, name, labels, boot_id, agent_version, interval_us, simulated, seen, seen
FROM jsonb_to_recordset(%(rows)s) AS wanted (
    site_id integer, name text, labels jsonb, boot_id text, agent_version text, interval_us bigint, simulated boolean,
    seen timestamptz)
ON CONFLICT (site_id, name) DO UPDATE SET
    labels = EXCLUDED.labels,
    boot_id = EXCLUDED.boot_id,
    agent_version = EXCLUDED.agent_version,
    interval_us = EXCLUDED.interval_us,
    simulated = EXCLUDED.simulated,
    first_seen = LEAST(node.first_seen, EXCLUDED.first_seen),
    last_seen = GREATEST(node.last_seen, EXCLUDED.last_seen)

-- name: find_stream
SELECT n, stream_id FROM stream JOIN jsonb_to_recordset(%(rows)s) AS wanted (n integer, name text) USING (name)

-- name: add_stream
INSERT INTO stream (name, node_id)
SELECT name, node_id FROM jsonb_to_recordset(%(rows)s) AS wanted (name text, node_id integer)
ON CONFLICT (name) DO NOTHING

-- name: find_accelerator
-- What a reading leaves out is no change.
SELECT n, accelerator_id
FROM accelerator a JOIN jsonb_to_recordset(%(rows)s) AS wanted (
    n integer, uuid text, node_id integer, device_index integer, model text, vendor text, source text,
    memory_total_bytes bigint, power_limit_mw bigint) USING (uuid)
WHERE a.node_id = wanted.node_id AND a.source = wanted.source
    AND (wanted.device_index IS NULL OR a.device_index = wanted.device_index)
    AND wanted.model IN ('', a.model)
    AND wanted.vendor IN ('', a.vendor)
    AND (wanted.memory_total_bytes IS NULL OR a.memory_total_bytes = wanted.memory_total_bytes)
    AND (wanted.power_limit_mw IS NULL OR a.power_limit_mw = wanted.power_limit_mw)

-- name: add_accelerator
INSERT INTO accelerator (
    uuid, node_id, device_index, model, vendor, source, memory_total_bytes, power_limit_mw, first_seen, last_seen)
SELECT uuid, node_id, device_index, model, vendor, source, memory_total_bytes, power_limit_mw, seen, seen
FROM jsonb_to_recordset(%(rows)s) AS wanted (
    uuid text, node_id integer, device_index integer, model text, vendor text, source text, memory_total_bytes bigint,
    power_limit_mw bigint, seen timestamptz)
ON CONFLICT (uuid) DO UPDATE SET
    node_id = EXCLUDED.node_id,
    device_index = COALESCE(EXCLUDED.device_index, accelerator.device_index),
    model = COALESCE(NULLIF(EXCLUDED.model, ''), accelerator.model),
    vendor = COALESCE(NULLIF(EXCLUDED.vendor, ''), accelerator.vendor),
    source = EXCLUDED.source,
    memory_total_bytes = COALESCE(EXCLUDED.memory_total_bytes, accelerator.memory_total_bytes),
    power_limit_mw = COALESCE(EXCLUDED.power_limit_mw, accelerator.power_limit_mw),
    first_seen = LEAST(accelerator.first_seen, EXCLUDED.first_seen),
    last_seen = GREATEST(accelerator.last_seen, EXCLUDED.last_seen)

-- name: find_named
SELECT n, accelerator_id
FROM accelerator JOIN jsonb_to_recordset(%(rows)s) AS wanted (n integer, uuid text) USING (uuid)

-- name: add_named
-- A board that an engine names before it was ever read gets a row too; only its own reading moves it to another node.
INSERT INTO accelerator (uuid, node_id, first_seen, last_seen)
SELECT uuid, node_id, seen, seen
FROM jsonb_to_recordset(%(rows)s) AS wanted (uuid text, node_id integer, seen timestamptz)
ON CONFLICT (uuid) DO UPDATE SET
    first_seen = LEAST(accelerator.first_seen, EXCLUDED.first_seen),
    last_seen = GREATEST(accelerator.last_seen, EXCLUDED.last_seen)

-- name: find_workload
SELECT n, workload_id
FROM workload JOIN jsonb_to_recordset(%(rows)s) AS wanted (n integer, name text, model text, team text)
    USING (name, model, team)

-- name: add_workload
INSERT INTO workload (name, model, team)
SELECT name, model, team FROM jsonb_to_recordset(%(rows)s) AS wanted (name text, model text, team text)
ON CONFLICT (name, model, team) DO NOTHING

-- name: find_engine
SELECT n, engine_id
FROM engine e JOIN jsonb_to_recordset(%(rows)s) AS wanted (
    n integer, node_id integer, target text, series text, engine_kind text, version text, tokens_move text)
    USING (node_id, target, series)
WHERE e.engine_kind = wanted.engine_kind AND wanted.version IN ('', e.version) AND e.tokens_move = wanted.tokens_move

-- name: add_engine
INSERT INTO engine (node_id, target, series, engine_kind, version, tokens_move, first_seen, last_seen)
SELECT node_id, target, series, engine_kind, version, tokens_move, seen, seen
FROM jsonb_to_recordset(%(rows)s) AS wanted (
    node_id integer, target text, series text, engine_kind text, version text, tokens_move text, seen timestamptz)
ON CONFLICT (node_id, target, series) DO UPDATE SET
    engine_kind = EXCLUDED.engine_kind,
    version = COALESCE(NULLIF(EXCLUDED.version, ''), engine.version),
    tokens_move = EXCLUDED.tokens_move,
    first_seen = LEAST(engine.first_seen, EXCLUDED.first_seen),
    last_seen = GREATEST(engine.last_seen, EXCLUDED.last_seen)

-- name: add_versions
-- A row where an engine runs something else than at the latest known time before. Late readings may come in between.
INSERT INTO engine_version (engine_id, since, version)
SELECT wanted.engine_id, wanted.since, wanted.version
FROM unnest(%(ids)s::integer[], %(since)s::timestamptz[], %(versions)s::text[]) AS wanted (engine_id, since, version)
WHERE (SELECT v.version FROM engine_version v WHERE v.engine_id = wanted.engine_id AND v.since <= wanted.since
       ORDER BY v.since DESC LIMIT 1) IS DISTINCT FROM wanted.version
ORDER BY wanted.engine_id, wanted.since
ON CONFLICT (engine_id, since) DO NOTHING

-- name: find_bounds
SELECT n, bounds_id FROM latency_bounds JOIN jsonb_to_recordset(%(rows)s) AS wanted (n integer, le_us bigint[]) USING (le_us)

-- name: add_bounds
INSERT INTO latency_bounds (le_us)
SELECT le_us FROM jsonb_to_recordset(%(rows)s) AS wanted (le_us bigint[])
ON CONFLICT (le_us) DO NOTHING

-- name: find_meter
SELECT n, meter_id
FROM power_meter m JOIN jsonb_to_recordset(%(rows)s) AS wanted (
    n integer, site_id integer, name text, node_id integer, level text, covers text[], source text)
    USING (site_id, name, node_id)
WHERE m.level = wanted.level AND m.covers = wanted.covers AND m.source = wanted.source

-- name: add_meter
INSERT INTO power_meter (site_id, name, node_id, level, covers, source, first_seen, last_seen)
SELECT site_id, name, node_id, level, covers, source, seen, seen
FROM jsonb_to_recordset(%(rows)s) AS wanted (
    site_id integer, name text, node_id integer, level text, covers text[], source text, seen timestamptz)
ON CONFLICT (site_id, name, node_id) DO UPDATE SET
    level = EXCLUDED.level,
    covers = EXCLUDED.covers,
    source = EXCLUDED.source,
    first_seen = LEAST(power_meter.first_seen, EXCLUDED.first_seen),
    last_seen = GREATEST(power_meter.last_seen, EXCLUDED.last_seen)

-- name: find_gateway_client
SELECT n, client_id
FROM gateway_client c JOIN jsonb_to_recordset(%(rows)s) AS wanted (
    n integer, node_id integer, fingerprint text, gateway_kind text, workload text) USING (node_id, fingerprint)
WHERE c.gateway_kind = wanted.gateway_kind AND c.workload = wanted.workload

-- name: add_gateway_client
INSERT INTO gateway_client (node_id, fingerprint, target, gateway_kind, model, provider, workload, team, api_key, "user", agent)
SELECT node_id, fingerprint, target, gateway_kind, model, provider, workload, team, api_key, "user", agent
FROM jsonb_to_recordset(%(rows)s) AS wanted (
    node_id integer, fingerprint text, target text, gateway_kind text, model text, provider text, workload text, team text,
    api_key text, "user" text, agent text)
ON CONFLICT (node_id, fingerprint) DO UPDATE SET
    gateway_kind = EXCLUDED.gateway_kind,
    workload = EXCLUDED.workload

-- name: find_leader
-- The one workload of this name that engines had at this time; that of the worker's own words where there is none, or
-- more than one.
SELECT n, COALESCE(led.workload_id, wanted.workload_id)
FROM jsonb_to_recordset(%(rows)s) AS wanted (
    n integer, workload_id integer, name text, model text, team text, at timestamptz)
LEFT JOIN LATERAL (
    SELECT min(w.workload_id) AS workload_id
    FROM workload w
    WHERE w.name = wanted.name AND wanted.model IN ('', w.model) AND wanted.team IN ('', w.team) AND EXISTS (
        SELECT FROM placement p
        WHERE p.workload_id = w.workload_id AND p.role NOT IN ('worker', 'frontend')
            AND p.since <= wanted.at + interval '10 minutes' AND p.until >= wanted.at - interval '10 minutes'
    )
    HAVING count(*) = 1
) led ON true

-- name: find_host_domain
SELECT n, node_id
FROM host_domain h JOIN jsonb_to_recordset(%(rows)s) AS wanted (n integer, node_id integer, domain text, source text)
    USING (node_id, domain)
WHERE h.source = wanted.source

-- name: add_host_domain
INSERT INTO host_domain (node_id, domain, source)
SELECT node_id, domain, source
FROM jsonb_to_recordset(%(rows)s) AS wanted (node_id integer, domain text, source text)
ON CONFLICT (node_id, domain) DO UPDATE SET source = EXCLUDED.source

-- name: find_placement
SELECT n, placement_id
FROM placement JOIN jsonb_to_recordset(%(rows)s) AS wanted (
    n integer, engine_id integer, workload_id integer, accelerator_ids integer[], method text, shares_ppm integer[],
    share_by text, role text, confidence text)
    USING (engine_id, workload_id, accelerator_ids, method, shares_ppm, share_by, role, confidence)

-- name: add_placement
INSERT INTO placement (
    engine_id, workload_id, accelerator_ids, method, shares_ppm, share_by, role, confidence, since, until)
SELECT engine_id, workload_id, accelerator_ids, method, shares_ppm, share_by, role, confidence, seen, seen
FROM jsonb_to_recordset(%(rows)s) AS wanted (
    engine_id integer, workload_id integer, accelerator_ids integer[], method text, shares_ppm integer[],
    share_by text, role text, confidence text, seen timestamptz)
ON CONFLICT ON CONSTRAINT placement_said DO UPDATE SET
    since = LEAST(placement.since, EXCLUDED.since),
    until = GREATEST(placement.until, EXCLUDED.until)

-- name: saw_nodes
UPDATE node SET first_seen = LEAST(first_seen, s.first_time), last_seen = GREATEST(last_seen, s.last_time)
FROM unnest(%(ids)s::integer[], %(first_times)s::timestamptz[], %(last_times)s::timestamptz[]) AS s (id, first_time, last_time)
WHERE node_id = s.id

-- name: saw_accelerators
UPDATE accelerator SET first_seen = LEAST(first_seen, s.first_time), last_seen = GREATEST(last_seen, s.last_time)
FROM unnest(%(ids)s::integer[], %(first_times)s::timestamptz[], %(last_times)s::timestamptz[]) AS s (id, first_time, last_time)
WHERE accelerator_id = s.id

-- name: saw_engines
UPDATE engine SET first_seen = LEAST(first_seen, s.first_time), last_seen = GREATEST(last_seen, s.last_time)
FROM unnest(%(ids)s::integer[], %(first_times)s::timestamptz[], %(last_times)s::timestamptz[]) AS s (id, first_time, last_time)
WHERE engine_id = s.id

-- name: saw_placements
UPDATE placement SET since = LEAST(since, s.first_time), until = GREATEST(until, s.last_time)
FROM unnest(%(ids)s::integer[], %(first_times)s::timestamptz[], %(last_times)s::timestamptz[]) AS s (id, first_time, last_time)
WHERE placement_id = s.id

-- name: saw_meters
UPDATE power_meter SET first_seen = LEAST(first_seen, s.first_time), last_seen = GREATEST(last_seen, s.last_time)
FROM unnest(%(ids)s::integer[], %(first_times)s::timestamptz[], %(last_times)s::timestamptz[]) AS s (id, first_time, last_time)
WHERE meter_id = s.id
