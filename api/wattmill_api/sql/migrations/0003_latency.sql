-- Latency histograms, beside the wide rows of engines: most engines of a fleet share a few sets of bounds, and an engine
-- without histograms has no row here. metric: 1 inter-token latency, 2 time to first token.

CREATE TABLE latency_bounds (
    bounds_id serial PRIMARY KEY,
    le_us     bigint[] NOT NULL UNIQUE
);

-- counts: as the engine shows them, cumulative over bounds and over its process's life; one a bound, then the total.
CREATE TABLE latency_sample (
    time           timestamptz NOT NULL,
    epoch          bigint NOT NULL,
    epoch_start_us bigint,
    engine_id      integer NOT NULL,
    node_id        integer NOT NULL,
    placement_id   integer NOT NULL,
    bounds_id      integer NOT NULL,
    metric         smallint NOT NULL,
    counts         bigint[] NOT NULL,
    PRIMARY KEY (time, engine_id, metric)
);

-- counts: what was observed in the minute, bucket by bucket, the last one beyond all bounds. Cumulative over nothing.
CREATE TABLE latency_minute (
    time         timestamptz NOT NULL,
    engine_id    integer NOT NULL,
    node_id      integer NOT NULL,
    placement_id integer NOT NULL,
    bounds_id    integer NOT NULL,
    metric       smallint NOT NULL,
    counts       bigint[] NOT NULL,
    PRIMARY KEY (time, engine_id, placement_id, metric, bounds_id)
);

CREATE TABLE latency_hour (LIKE latency_minute INCLUDING ALL);

-- A workload's latency targets. The row with the latest valid_from <= t holds at t; workload '*' is every workload
-- without its own. NULL: no target.
CREATE TABLE latency_target (
    workload               text NOT NULL,
    valid_from             timestamptz NOT NULL,
    inter_token_latency_us bigint,
    time_to_first_token_us bigint,
    recorded               timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (workload, valid_from)
);
