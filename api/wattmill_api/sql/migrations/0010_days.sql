-- Longer sums, so that a month of a large fleet is answered at once. Plain tables: they stay small.

-- The ledger by day (UTC): the sum of its hours, written with them.
CREATE TABLE ledger_day (LIKE ledger_minute INCLUDING ALL);
INSERT INTO ledger_day (time, node_id, accelerator_id, placement_id, account, energy_mj, estimated_mj, input_tokens,
    cached_input_tokens, output_tokens, covered_us, span_us, revision)
SELECT date_bin('1 day', time, 'epoch'), node_id, accelerator_id, placement_id, account, sum(energy_mj), sum(estimated_mj),
    sum(input_tokens), sum(cached_input_tokens), sum(output_tokens), sum(covered_us), sum(span_us), max(revision)
FROM ledger_hour
GROUP BY 1, 2, 3, 4, 5;

-- What the boards of a node counted in an hour, past the ledger.
CREATE TABLE meter_hour (
    time      timestamptz NOT NULL,
    energy_mj bigint NOT NULL,
    node_id   integer NOT NULL,
    PRIMARY KEY (time, node_id)
);
INSERT INTO meter_hour (time, node_id, energy_mj)
SELECT date_bin('1 hour', time, 'epoch'), node_id, sum(energy_mj) FROM accelerator_minute GROUP BY 1, 2;
