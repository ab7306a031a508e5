-- What consumers drew through gateways. Shares of a workload's energy only: no token of these is ever in the ledger.

-- A consumer as one gateway tells it apart. fingerprint: hash of everything that names it, which is too long for a key.
CREATE TABLE gateway_client (
    client_id    serial PRIMARY KEY,
    node_id      integer NOT NULL REFERENCES node,
    fingerprint  text NOT NULL,
    target       text NOT NULL,
    gateway_kind text NOT NULL,
    model        text NOT NULL,
    provider     text NOT NULL,
    workload     text NOT NULL,
    team         text NOT NULL,
    api_key      text NOT NULL,
    "user"       text NOT NULL,
    agent        text NOT NULL,
    UNIQUE (node_id, fingerprint)
);

CREATE TABLE gateway_sample (
    time                timestamptz NOT NULL,
    epoch               bigint NOT NULL,
    epoch_start_us      bigint,
    input_tokens        bigint,
    cached_input_tokens bigint,
    output_tokens       bigint,
    requests_finished   bigint,
    client_id           integer NOT NULL,
    node_id             integer NOT NULL,
    PRIMARY KEY (time, client_id)
);
-- A consumer may rest for long: its readings around a stretch of time are found by it.
CREATE INDEX gateway_sample_client ON gateway_sample (client_id, time);

CREATE TABLE gateway_minute (
    time                timestamptz NOT NULL,
    input_tokens        bigint,
    cached_input_tokens bigint,
    output_tokens       bigint,
    requests_finished   bigint,
    client_id           integer NOT NULL,
    node_id             integer NOT NULL,
    PRIMARY KEY (time, client_id)
);

CREATE TABLE gateway_hour (LIKE gateway_minute INCLUDING ALL);
