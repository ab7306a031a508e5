-- What a token costs at a load: minutes counted by load, prefill and cost. Plain tables: they stay small.

-- Which version an engine ran from `since` on. A row is added when an agent says something new.
CREATE TABLE engine_version (
    since     timestamptz NOT NULL,
    engine_id integer NOT NULL REFERENCES engine,
    version   text NOT NULL,
    PRIMARY KEY (engine_id, since)
);
INSERT INTO engine_version (since, engine_id, version)
SELECT first_seen, engine_id, version FROM engine WHERE version <> '';

-- Engines that are alike but for their version. Simulated ones never teach what real ones are judged by.
CREATE TABLE curve_family (
    family_id         serial PRIMARY KEY,
    model             text NOT NULL,
    accelerator_model text NOT NULL,
    engine_kind       text NOT NULL,
    boards            integer NOT NULL,
    simulated         boolean NOT NULL
);
-- Hashes: the longest names that an agent may send do not fit an index together.
CREATE UNIQUE INDEX curve_family_key ON curve_family (
    md5(model), md5(accelerator_model), md5(engine_kind), boards, simulated);

-- Sparse counts of one curve (wattmill_analytics.curve_counts): cells with their minutes, and groups with their moments,
-- fifteen a group. They add up.
CREATE TABLE curve_hour (
    time           timestamptz NOT NULL,
    minutes        bigint NOT NULL,
    family_id      integer NOT NULL REFERENCES curve_family,
    version        text NOT NULL,
    cost_cells     integer[] NOT NULL,
    cost_minutes   integer[] NOT NULL,
    speed_cells    integer[] NOT NULL,
    speed_minutes  integer[] NOT NULL,
    moment_groups  integer[] NOT NULL,
    moments        float8[] NOT NULL,
    PRIMARY KEY (time, family_id, version)
);

-- Days (UTC) are sums of their hours.
CREATE TABLE curve_day (LIKE curve_hour INCLUDING ALL);

-- What the minutes of an hour, and the findings in it, looked like when it was learnt.
CREATE TABLE curve_seen (
    time        timestamptz NOT NULL,
    family_id   integer NOT NULL REFERENCES curve_family,
    fingerprint text NOT NULL,
    learnt      timestamptz NOT NULL,
    PRIMARY KEY (time, family_id)
);
