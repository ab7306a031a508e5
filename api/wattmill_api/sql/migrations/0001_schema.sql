-- The whole store, version 1. Plain PostgreSQL >= 15; hypertables are made in 0002 where the extension is there.
-- Samples: one wide row per device and tick, key (time, device) in that order: inserts arrive in key order.
-- Columns stand widest first. A NULL is "the source does not have it", never 0.

CREATE TABLE site (
    site_id     serial PRIMARY KEY,
    name        text NOT NULL UNIQUE
);

CREATE TABLE node (
    node_id       serial PRIMARY KEY,
    site_id       integer NOT NULL REFERENCES site,
    name          text NOT NULL,
    labels        jsonb NOT NULL DEFAULT '{}',
    boot_id       text NOT NULL DEFAULT '',
    agent_version text NOT NULL DEFAULT '',
    interval_us   bigint NOT NULL,
    simulated     boolean NOT NULL DEFAULT false,
    first_seen    timestamptz NOT NULL,
    last_seen     timestamptz NOT NULL,
    UNIQUE (site_id, name)
);

CREATE TABLE accelerator (
    accelerator_id     serial PRIMARY KEY,
    uuid               text NOT NULL UNIQUE,
    node_id            integer NOT NULL REFERENCES node,
    device_index       integer,
    model              text NOT NULL DEFAULT '',
    vendor             text NOT NULL DEFAULT '',
    memory_total_bytes bigint,
    power_limit_mw     bigint,
    first_seen         timestamptz NOT NULL,
    last_seen          timestamptz NOT NULL
);

CREATE TABLE workload (
    workload_id serial PRIMARY KEY,
    name        text NOT NULL,
    model       text NOT NULL,
    team        text NOT NULL,
    UNIQUE (name, model, team)
);

-- An engine is the identity of its counters. What it serves, for whom and where is its placement, which may change.
CREATE TABLE engine (
    engine_id   serial PRIMARY KEY,
    node_id     integer NOT NULL REFERENCES node,
    target      text NOT NULL,
    series      text NOT NULL,
    engine_kind text NOT NULL DEFAULT '',
    version     text NOT NULL DEFAULT '',
    tokens_move text NOT NULL DEFAULT '',
    first_seen  timestamptz NOT NULL,
    last_seen   timestamptz NOT NULL,
    UNIQUE (node_id, target, series)
);

CREATE TABLE placement (
    placement_id    serial PRIMARY KEY,
    engine_id       integer NOT NULL REFERENCES engine,
    workload_id     integer NOT NULL REFERENCES workload,
    accelerator_ids integer[] NOT NULL,
    method          text NOT NULL,
    since           timestamptz NOT NULL,
    until           timestamptz NOT NULL,
    UNIQUE (engine_id, workload_id, accelerator_ids, method)
);

CREATE TABLE accelerator_sample (
    time                timestamptz NOT NULL,
    energy_mj           bigint,
    epoch               bigint NOT NULL,
    epoch_start_us      bigint,
    memory_used_bytes   bigint,
    clock_event_reasons bigint,
    accelerator_id      integer NOT NULL,
    node_id             integer NOT NULL,
    power_mw            integer,
    power_instant_mw    integer,
    power_limit_mw      integer,
    sm_clock_mhz        integer,
    memory_clock_mhz    integer,
    process_count       integer,
    utilisation_ratio   real,
    temperature_celsius smallint,
    PRIMARY KEY (time, accelerator_id)
);

CREATE TABLE engine_sample (
    time                  timestamptz NOT NULL,
    epoch                 bigint NOT NULL,
    epoch_start_us        bigint,
    input_tokens          bigint,
    cached_input_tokens   bigint,
    computed_input_tokens bigint,
    output_tokens         bigint,
    requests_finished     bigint,
    preemptions           bigint,
    engine_id             integer NOT NULL,
    node_id               integer NOT NULL,
    placement_id          integer NOT NULL,
    requests_running      integer,
    requests_waiting      integer,
    kv_cache_usage_ratio  real,
    PRIMARY KEY (time, engine_id)
);

CREATE TABLE host_sample (
    time            timestamptz NOT NULL,
    energy_uj       bigint,
    energy_range_uj bigint,
    epoch           bigint NOT NULL,
    epoch_start_us  bigint,
    node_id         integer NOT NULL,
    power_mw        integer,
    domain          text NOT NULL,
    PRIMARY KEY (time, node_id, domain)
);

-- Why something was not read. Coverage answers quote it.
CREATE TABLE absence (
    time       timestamptz NOT NULL,
    node_id    integer NOT NULL,
    subject    text NOT NULL,
    id         text NOT NULL,
    start_time timestamptz NOT NULL,
    reason     text NOT NULL,
    detail     text NOT NULL,
    PRIMARY KEY (time, node_id, subject, id, reason)
);

-- Exactly once: one row per batch, written in the transaction that stores its readings. A row accounts for the
-- sequences first_sequence to sequence: more than one only where the agent says that it had to drop batches.
CREATE TABLE stream (
    stream_id         serial PRIMARY KEY,
    name              text NOT NULL UNIQUE,
    node_id           integer NOT NULL REFERENCES node,
    committed_through bigint NOT NULL DEFAULT 0
);

CREATE TABLE batch_ledger (
    stream_id      integer NOT NULL REFERENCES stream,
    first_sequence bigint NOT NULL,
    sequence       bigint NOT NULL,
    sha256         bytea NOT NULL,
    stored         integer NOT NULL,
    duplicates     integer NOT NULL,
    rejected       jsonb,
    received       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream_id, sequence)
);

-- What ingest touched and roll-up has not seen yet: append only, so that neither ever waits for the other.
CREATE TABLE dirty_span (
    dirty_id   bigserial PRIMARY KEY,
    node_id    integer NOT NULL,
    first_time timestamptz NOT NULL,
    last_time  timestamptz NOT NULL
);

-- The ledger. account: 1 serving, 2 idle-loaded, 3 idle-empty, 4 unattributed. accelerator_id 0: tokens of an engine
-- whose accelerators are unknown. placement_id 0: energy that belongs to no engine.
-- covered_us: time of this row that lies between trusted readings one interval apart; span_us: all time it stands for.
CREATE TABLE ledger_minute (
    time                timestamptz NOT NULL,
    energy_mj           bigint NOT NULL,
    estimated_mj        bigint NOT NULL,
    input_tokens        bigint,
    cached_input_tokens bigint,
    output_tokens       bigint,
    covered_us          bigint NOT NULL,
    span_us             bigint NOT NULL,
    node_id             integer NOT NULL,
    accelerator_id      integer NOT NULL,
    placement_id        integer NOT NULL,
    revision            integer NOT NULL,
    account             smallint NOT NULL,
    PRIMARY KEY (time, accelerator_id, placement_id, account, node_id)
);

CREATE TABLE ledger_hour (LIKE ledger_minute INCLUDING ALL);

-- Host energy (overhead) per minute, in the counter's own microjoules.
CREATE TABLE host_minute (
    time         timestamptz NOT NULL,
    energy_mj    bigint NOT NULL,
    estimated_mj bigint NOT NULL,
    covered_us   bigint NOT NULL,
    node_id      integer NOT NULL,
    domain       text NOT NULL,
    PRIMARY KEY (time, node_id, domain)
);
CREATE TABLE host_hour (LIKE host_minute INCLUDING ALL);

-- What the detectors look at. Means are over the samples of the minute.
CREATE TABLE accelerator_minute (
    time                timestamptz NOT NULL,
    energy_mj           bigint NOT NULL,
    estimated_mj        bigint NOT NULL,
    covered_us          bigint NOT NULL,
    memory_used_bytes   bigint,
    clock_event_reasons bigint,
    accelerator_id      integer NOT NULL,
    node_id             integer NOT NULL,
    power_mw            integer,
    process_count       integer,
    sm_clock_mhz        integer,
    anomalies           integer NOT NULL,
    utilisation_ratio   real,
    temperature_celsius real,
    PRIMARY KEY (time, accelerator_id)
);

CREATE TABLE engine_minute (
    time                  timestamptz NOT NULL,
    input_tokens          bigint,
    cached_input_tokens   bigint,
    computed_input_tokens bigint,
    output_tokens         bigint,
    requests_finished     bigint,
    preemptions           bigint,
    covered_us            bigint NOT NULL,
    engine_id             integer NOT NULL,
    node_id               integer NOT NULL,
    placement_id          integer NOT NULL,
    anomalies             integer NOT NULL,
    requests_running      real,
    requests_waiting      real,
    kv_cache_usage_ratio  real,
    PRIMARY KEY (time, engine_id, placement_id)
);

-- Facts never change; prices do. The row with the latest valid_from <= t holds at t; site '*' is every site without its own.
CREATE TABLE tariff (
    site          text NOT NULL,
    valid_from    timestamptz NOT NULL,
    currency      text NOT NULL,
    price_per_kwh numeric NOT NULL,
    recorded      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site, valid_from)
);
CREATE TABLE carbon (
    site          text NOT NULL,
    valid_from    timestamptz NOT NULL,
    grams_per_kwh numeric NOT NULL,
    source        text NOT NULL DEFAULT '',
    recorded      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site, valid_from)
);
CREATE TABLE pue (
    site       text NOT NULL,
    valid_from timestamptz NOT NULL,
    pue        numeric NOT NULL,
    recorded   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site, valid_from)
);

CREATE TABLE finding (
    finding_id   bigserial PRIMARY KEY,
    kind         text NOT NULL,
    subject      text NOT NULL,
    state        text NOT NULL DEFAULT 'open',
    site         text NOT NULL DEFAULT '',
    node         text NOT NULL DEFAULT '',
    workload     text NOT NULL DEFAULT '',
    since        timestamptz NOT NULL,
    until        timestamptz,
    last_seen    timestamptz NOT NULL,
    energy_mj    bigint NOT NULL,
    evidence     jsonb NOT NULL,
    summary      text NOT NULL,
    remedy       text NOT NULL,
    acknowledged timestamptz,
    resolved     timestamptz,
    note         text NOT NULL DEFAULT '',
    simulated    boolean NOT NULL DEFAULT false
);
-- One incident is one finding: at most one that is not over for a kind and subject.
CREATE UNIQUE INDEX finding_current ON finding (kind, subject) WHERE until IS NULL;

CREATE TABLE api_key (
    key_id  text PRIMARY KEY,
    sha256  bytea NOT NULL,
    scope   text NOT NULL CHECK (scope IN ('ingest', 'read', 'admin')),
    name    text NOT NULL DEFAULT '',
    created timestamptz NOT NULL DEFAULT now(),
    revoked timestamptz
);

-- When each job last ran, and what it said.
CREATE TABLE job_run (
    job      text PRIMARY KEY,
    started  timestamptz NOT NULL,
    finished timestamptz,
    ok       boolean,
    detail   text NOT NULL DEFAULT ''
);
