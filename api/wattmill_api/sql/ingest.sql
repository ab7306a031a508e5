-- Statements of store/ingest.py: exactly-once storing of batches.

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
    computed_input_tokens, output_tokens, requests_finished, preemptions, draft_tokens, accepted_draft_tokens,
    requests_running, requests_waiting, activity_ppm, kv_cache_usage_ratio) FROM STDIN (FORMAT BINARY)

-- name: copy_host_sample
COPY {table} (time, node_id, domain, energy_uj, energy_range_uj, epoch, epoch_start_us, power_mw)
FROM STDIN (FORMAT BINARY)

-- name: copy_power_meter_sample
COPY {table} (time, meter_id, node_id, energy_mj, power_mw, epoch) FROM STDIN (FORMAT BINARY)

-- name: copy_gateway_sample
COPY {table} (time, client_id, node_id, epoch, epoch_start_us, input_tokens, cached_input_tokens, output_tokens,
    requests_finished) FROM STDIN (FORMAT BINARY)

-- name: copy_absence
COPY {table} (time, node_id, subject, id, reason, detail, start_time) FROM STDIN (FORMAT BINARY)

-- name: copy_latency_sample
COPY {table} (time, engine_id, metric, node_id, placement_id, bounds_id, epoch, epoch_start_us, counts)
FROM STDIN (FORMAT BINARY)

-- name: stage
-- Only taken when COPY met a key that is there already: an agent that re-batched, or two agents that saw one board.
CREATE TEMP TABLE IF NOT EXISTS {staged} (LIKE {table}) ON COMMIT DELETE ROWS

-- name: merge
INSERT INTO {table} SELECT * FROM {staged} ON CONFLICT DO NOTHING RETURNING {key}
