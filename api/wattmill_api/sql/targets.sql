-- Statements of store/targets.py: versions of latency targets. Few rows; read whole.

-- name: targets
SELECT workload, valid_from, inter_token_latency_us, time_to_first_token_us, recorded
FROM latency_target ORDER BY workload, valid_from

-- name: put_target
INSERT INTO latency_target (workload, valid_from, inter_token_latency_us, time_to_first_token_us)
VALUES (%(workload)s, %(valid_from)s, %(inter_token_latency_us)s, %(time_to_first_token_us)s)
ON CONFLICT (workload, valid_from) DO UPDATE SET
    inter_token_latency_us = EXCLUDED.inter_token_latency_us,
    time_to_first_token_us = EXCLUDED.time_to_first_token_us, recorded = now()
RETURNING workload, valid_from, inter_token_latency_us, time_to_first_token_us, recorded
