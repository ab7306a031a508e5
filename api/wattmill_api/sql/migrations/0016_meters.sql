-- Power meters: of racks, of halls, of whole nodes. They never enter the ledger; they are held against what stands
-- below them. (`meter_hour`, which is older, is something else: what the boards' own counters say.)

-- `node_id` 0: read as a meter. Else it is the chassis reading of that node, and roll-up writes its minutes.
CREATE TABLE power_meter (
    meter_id   serial PRIMARY KEY,
    site_id    integer NOT NULL REFERENCES site,
    node_id    integer NOT NULL DEFAULT 0,
    name       text NOT NULL,
    level      text NOT NULL,
    covers     text[] NOT NULL,
    source     text NOT NULL DEFAULT '',
    first_seen timestamptz NOT NULL,
    last_seen  timestamptz NOT NULL,
    UNIQUE (site_id, name, node_id)
);

-- A meter that two agents read is one meter: the first reading of a tick stays. `node_id`: who read it.
CREATE TABLE power_meter_sample (
    time      timestamptz NOT NULL,
    energy_mj bigint,
    power_mw  bigint,
    epoch     bigint NOT NULL,
    meter_id  integer NOT NULL,
    node_id   integer NOT NULL,
    PRIMARY KEY (time, meter_id)
);
CREATE INDEX power_meter_sample_meter ON power_meter_sample (meter_id, time);

-- `step_mj`: what all rises of the counter in this time are a multiple of, so an upper bound of its resolution.
CREATE TABLE power_meter_minute (
    time         timestamptz NOT NULL,
    energy_mj    bigint NOT NULL,
    estimated_mj bigint NOT NULL,
    covered_us   bigint NOT NULL,
    step_mj      bigint,
    meter_id     integer NOT NULL,
    PRIMARY KEY (time, meter_id)
);
CREATE TABLE power_meter_hour (LIKE power_meter_minute INCLUDING ALL);

-- What the hours of a meter hold, and the highest that has been, which /metrics shows. Roll-up alone writes it: in a table
-- of its own, so that it never waits for ingest.
CREATE TABLE power_meter_total (
    meter_id   integer PRIMARY KEY,
    counted_mj bigint NOT NULL,
    shown_mj   bigint NOT NULL
);

-- How long the boards of a node were covered, all of them together; hours before this migration say nothing.
ALTER TABLE meter_hour ADD COLUMN covered_us bigint;

CREATE VIEW wattmill_v1_meter_hour AS
SELECT h.time, s.name AS site, m.name AS meter, m.level, array_to_string(m.covers, ',') AS covers,
       NULLIF(m.source, '') AS source, m.node_id <> 0 AS chassis, h.energy_mj, h.estimated_mj, h.covered_us
FROM power_meter_hour h
JOIN power_meter m USING (meter_id)
JOIN site s USING (site_id);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'wattmill_read') THEN
        GRANT SELECT ON wattmill_v1_meter_hour TO wattmill_read;
    END IF;
END $$;
