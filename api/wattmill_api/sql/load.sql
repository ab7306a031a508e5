-- Statements of store/load.py: what a token cost at which load, replica by replica.

-- name: replicas
-- Placements of some workloads that were there in a range, and whose output is their own.
SELECT
    p.placement_id, cardinality(p.accelerator_ids) AS boards,
    COALESCE((SELECT min(a.model) FROM accelerator a WHERE a.accelerator_id = ANY(p.accelerator_ids)), '')
        AS accelerator_model,
    n.simulated
FROM placement p
JOIN workload w USING (workload_id)
JOIN engine e USING (engine_id)
JOIN node n USING (node_id)
JOIN site s USING (site_id)
WHERE p.since < %(end)s AND p.until >= %(start)s AND p.role IN ('', 'decode')
    AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
    AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
    AND (%(workload)s::text[] IS NULL OR w.name = ANY(%(workload)s))
    AND (%(model)s::text[] IS NULL OR w.model = ANY(%(model)s))
    AND (%(team)s::text[] IS NULL OR w.team = ANY(%(team)s))
ORDER BY p.placement_id
LIMIT %(limit)s

-- name: points
-- Minutes of replicas that were read from end to end and in which tokens were made, by step.
WITH both_sides AS (
    SELECT
        time, placement_id, requests_running::float8 AS running, output_tokens,
        CASE WHEN p.role = 'decode' THEN 0 ELSE COALESCE(computed_input_tokens, input_tokens - cached_input_tokens) END
            AS uncached_input_tokens,
        NULL::bigint AS energy_mj
    FROM engine_minute
    JOIN placement p USING (placement_id)
    WHERE time >= %(start)s AND time < %(end)s AND placement_id = ANY(%(placement_ids)s) AND covered_us >= 60000000
        AND output_tokens > 0 AND requests_running > 0
    UNION ALL
    SELECT time, placement_id, NULL, NULL, NULL, energy_mj
    FROM ledger_minute
    WHERE time >= %(start)s AND time < %(end)s AND placement_id = ANY(%(placement_ids)s) AND account = 1
), met AS (
    SELECT
        time, placement_id, sum(running) AS running, sum(output_tokens) AS output_tokens,
        sum(uncached_input_tokens) AS uncached_input_tokens, sum(energy_mj) AS energy_mj
    FROM both_sides
    GROUP BY time, placement_id
    HAVING sum(output_tokens) > 0 AND sum(energy_mj) > 0
)
SELECT
    date_bin(%(step)s::interval, time, TIMESTAMPTZ '1970-01-01 00:00:00Z') AS bucket, placement_id,
    avg(running) AS requests_running, sum(energy_mj)::bigint AS energy_mj, sum(output_tokens)::bigint AS output_tokens,
    sum(uncached_input_tokens)::bigint AS uncached_input_tokens
FROM met
GROUP BY 1, 2
ORDER BY 1, 2
LIMIT %(limit)s
