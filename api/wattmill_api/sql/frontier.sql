-- Statements of store/frontier.py: how long a token takes. Energy and tokens come from the ledger, in query.sql.

-- name: concurrency
-- Requests running and what they made, by workload and kind of accelerator, over minutes that were read from end to end
-- and in which tokens were made: the gauge and the counter are about the same time only there. A replica on two kinds of
-- boards counts for both.
SELECT
    w.name AS workload, NULLIF(w.team, '') AS team, NULLIF(w.model, '') AS model, NULLIF(b.model, '') AS accelerator_model,
    COALESCE(sum(m.requests_running::float8 * 60) FILTER (WHERE m.requests_running IS NOT NULL), 0) AS request_s,
    COALESCE(sum(m.output_tokens) FILTER (WHERE m.requests_running IS NOT NULL), 0)::bigint AS output_tokens,
    COALESCE(sum(m.output_tokens) FILTER (WHERE m.requests_finished IS NOT NULL), 0)::bigint AS answered_tokens,
    COALESCE(sum(m.requests_finished), 0)::bigint AS requests_finished,
    min(cardinality(p.accelerator_ids)) AS fewest_boards,
    max(cardinality(p.accelerator_ids)) AS most_boards
FROM engine_minute m
JOIN placement p USING (placement_id)
JOIN workload w USING (workload_id)
JOIN node n ON n.node_id = m.node_id
JOIN site s USING (site_id)
CROSS JOIN LATERAL (
    SELECT DISTINCT a.model FROM accelerator a WHERE a.accelerator_id = ANY(p.accelerator_ids)
) b
WHERE m.time >= %(start)s AND m.time < %(end)s AND m.covered_us >= 60000000 AND m.output_tokens > 0
    AND p.role IN ('', 'decode')
    AND (%(site)s::text[] IS NULL OR s.name = ANY(%(site)s))
    AND (%(node)s::text[] IS NULL OR n.name = ANY(%(node)s))
    AND (%(workload)s::text[] IS NULL OR w.name = ANY(%(workload)s))
    AND (%(model)s::text[] IS NULL OR w.model = ANY(%(model)s))
    AND (%(team)s::text[] IS NULL OR w.team = ANY(%(team)s))
GROUP BY 1, 2, 3, 4
LIMIT %(limit)s
