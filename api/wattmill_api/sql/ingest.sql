-- Statements of store/ingest.py: exactly-once storing of batches.

-- name: database_token
-- Changes whenever cached ids could be wrong: another database, or a server restarted after a restore.
SELECT (SELECT oid FROM pg_database WHERE datname = current_database())::text || ' ' || pg_postmaster_start_time()::text

-- name: intern_site
INSERT INTO site (name) VALUES (%(name)s)
ON CONFLICT (name) DO UPDATE SET name = EXCLUDED.name
RETURNING site_id

-- name: intern_node
INSERT INTO node (site_id, name, labels, boot_id, agent_version, interval_us, simulated, first_seen, last_seen)
VALUES (%(site_id)s, %(name)s, %(labels)s, %(boot_id)s, %(agent_version)s, %(interval_us)s, %(simulated)s, %(seen)s, %(seen)s)
ON CONFLICT (site_id, name) DO UPDATE SET
    labels = EXCLUDED.labels,
    boot_id = EXCLUDED.boot_id,
    agent_version = EXCLUDED.agent_version,
    interval_us = EXCLUDED.interval_us,
    simulated = EXCLUDED.simulated,
    first_seen = LEAST(node.first_seen, EXCLUDED.first_seen),
    last_seen = GREATEST(node.last_seen, EXCLUDED.last_seen)
RETURNING node_id

-- name: intern_stream
INSERT INTO stream (name, node_id) VALUES (%(name)s, %(node_id)s)
ON CONFLICT (name) DO UPDATE SET name = EXCLUDED.name
RETURNING stream_id

-- name: intern_accelerator
-- A board that an engine names before it was ever read gets a row too; only its own reading moves it to another node.
INSERT INTO accelerator (uuid, node_id, device_index, model, vendor, memory_total_bytes, power_limit_mw, first_seen, last_seen)
VALUES (%(uuid)s, %(node_id)s, %(device_index)s, %(model)s, %(vendor)s, %(memory_total_bytes)s, %(power_limit_mw)s, %(seen)s, %(seen)s)
ON CONFLICT (uuid) DO UPDATE SET
    node_id = CASE WHEN %(read)s THEN EXCLUDED.node_id ELSE accelerator.node_id END,
    device_index = COALESCE(EXCLUDED.device_index, accelerator.device_index),
    model = COALESCE(NULLIF(EXCLUDED.model, ''), accelerator.model),
    vendor = COALESCE(NULLIF(EXCLUDED.vendor, ''), accelerator.vendor),
    memory_total_bytes = COALESCE(EXCLUDED.memory_total_bytes, accelerator.memory_total_bytes),
    power_limit_mw = COALESCE(EXCLUDED.power_limit_mw, accelerator.power_limit_mw),
    first_seen = LEAST(accelerator.first_seen, EXCLUDED.first_seen),
    last_seen = GREATEST(accelerator.last_seen, EXCLUDED.last_seen)
RETURNING accelerator_id

-- name: intern_workload
INSERT INTO workload (name, model, team) VALUES (%(name)s, %(model)s, %(team)s)
ON CONFLICT (name, model, team) DO UPDATE SET name = EXCLUDED.name
RETURNING workload_id

-- name: intern_engine
INSERT INTO engine (node_id, target, series, engine_kind, version, tokens_move, first_seen, last_seen)
VALUES (%(node_id)s, %(target)s, %(series)s, %(engine_kind)s, %(version)s, %(tokens_move)s, %(seen)s, %(seen)s)
ON CONFLICT (node_id, target, series) DO UPDATE SET
    engine_kind = EXCLUDED.engine_kind,
    version = COALESCE(NULLIF(EXCLUDED.version, ''), engine.version),
    tokens_move = EXCLUDED.tokens_move,
    first_seen = LEAST(engine.first_seen, EXCLUDED.first_seen),
    last_seen = GREATEST(engine.last_seen, EXCLUDED.last_seen)
RETURNING engine_id

-- name: intern_placement
INSERT INTO placement (engine_id, workload_id, accelerator_ids, method, since, until)
VALUES (%(engine_id)s, %(workload_id)s, %(accelerator_ids)s, %(method)s, %(seen)s, %(seen)s)
ON CONFLICT (engine_id, workload_id, accelerator_ids, method) DO UPDATE SET
    since = LEAST(placement.since, EXCLUDED.since),
    until = GREATEST(placement.until, EXCLUDED.until)
RETURNING placement_id

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

-- name: claim_batches
-- A concurrent copy of a batch waits here for the other transaction, then is not returned.
INSERT INTO batch_ledger (stream_id, first_sequence, sequence, sha256, stored, duplicates, rejected)
SELECT * FROM unnest(
    %(stream_ids)s::integer[], %(first_sequences)s::bigint[], %(sequences)s::bigint[], %(hashes)s::bytea[],
    %(stored)s::integer[], %(duplicates)s::integer[], %(rejected)s::jsonb[])
ON CONFLICT (stream_id, sequence) DO NOTHING
RETURNING stream_id, sequence

-- name: stored_batches
SELECT stream_id, sequence, sha256, stored, duplicates, rejected
FROM batch_ledger
JOIN unnest(%(stream_ids)s::integer[], %(sequences)s::bigint[]) AS wanted (stream_id, sequence) USING (stream_id, sequence)

-- name: add_duplicates
UPDATE batch_ledger SET stored = stored - d.duplicates, duplicates = batch_ledger.duplicates + d.duplicates
FROM unnest(%(stream_ids)s::integer[], %(sequences)s::bigint[], %(duplicates)s::integer[]) AS d (stream_id, sequence, duplicates)
WHERE batch_ledger.stream_id = d.stream_id AND batch_ledger.sequence = d.sequence

-- name: add_dropped
-- Sequences the agent had to drop, and says so: accounted for, like a batch.
INSERT INTO batch_ledger (stream_id, first_sequence, sequence, sha256, stored, duplicates)
VALUES (%(stream_id)s, %(first_sequence)s, %(last_sequence)s, ''::bytea, 0, 0)
ON CONFLICT (stream_id, sequence) DO UPDATE SET first_sequence = LEAST(batch_ledger.first_sequence, EXCLUDED.first_sequence)

-- name: lock_stream
-- NO KEY: its batches hold a key-share lock on the row by their foreign key; two writers of one stream would deadlock.
SELECT committed_through FROM stream WHERE stream_id = %(stream_id)s FOR NO KEY UPDATE

-- name: next_sequences
SELECT first_sequence, sequence FROM batch_ledger
WHERE stream_id = %(stream_id)s AND sequence > %(after)s
ORDER BY sequence LIMIT %(limit)s

-- name: advance_stream
UPDATE stream SET committed_through = %(through)s WHERE stream_id = %(stream_id)s AND committed_through < %(through)s

-- name: committed_through
SELECT stream_id, committed_through FROM stream WHERE stream_id = ANY(%(stream_ids)s)

-- name: mark_dirty
INSERT INTO dirty_span (node_id, first_time, last_time)
SELECT * FROM unnest(%(node_ids)s::integer[], %(first_times)s::timestamptz[], %(last_times)s::timestamptz[])

-- name: copy_accelerator_sample
COPY {table} (time, accelerator_id, node_id, energy_mj, epoch, epoch_start_us, memory_used_bytes,
    clock_event_reasons, power_mw, power_instant_mw, power_limit_mw, sm_clock_mhz, memory_clock_mhz, process_count,
    utilisation_ratio, temperature_celsius) FROM STDIN (FORMAT BINARY)

-- name: copy_engine_sample
COPY {table} (time, engine_id, node_id, placement_id, epoch, epoch_start_us, input_tokens, cached_input_tokens,
    computed_input_tokens, output_tokens, requests_finished, preemptions, requests_running, requests_waiting,
    kv_cache_usage_ratio) FROM STDIN (FORMAT BINARY)

-- name: copy_host_sample
COPY {table} (time, node_id, domain, energy_uj, energy_range_uj, epoch, epoch_start_us, power_mw)
FROM STDIN (FORMAT BINARY)

-- name: copy_absence
COPY {table} (time, node_id, subject, id, reason, detail, start_time) FROM STDIN (FORMAT BINARY)

-- name: stage
-- Only taken when COPY met a key that is there already: an agent that re-batched, or two agents that saw one board.
CREATE TEMP TABLE IF NOT EXISTS {staged} (LIKE {table}) ON COMMIT DELETE ROWS

-- name: merge
INSERT INTO {table} SELECT * FROM {staged} ON CONFLICT DO NOTHING RETURNING {key}
