-- Alerts out: where findings are told, what each receiver knows of each finding, and what is still to be told.

-- secret: the name of the secret that signs, never the secret. kinds, teams, sites: empty is all of them.
-- failures: posts in a row without an answer that counts; nothing is posted before next_try.
CREATE TABLE webhook (
    webhook_id    bigserial PRIMARY KEY,
    name          text NOT NULL UNIQUE,
    url           text NOT NULL,
    secret        text NOT NULL DEFAULT '',
    kinds         text[] NOT NULL DEFAULT '{}',
    teams         text[] NOT NULL DEFAULT '{}',
    sites         text[] NOT NULL DEFAULT '{}',
    min_energy_mj bigint NOT NULL DEFAULT 0,
    send_resolved boolean NOT NULL DEFAULT true,
    by            text NOT NULL DEFAULT '',
    created       timestamptz NOT NULL DEFAULT now(),
    failures      integer NOT NULL DEFAULT 0,
    next_try      timestamptz NOT NULL DEFAULT now(),
    delivered     timestamptz,
    error         text NOT NULL DEFAULT ''
);

-- What a receiver was last told of a finding. One row a pair: told once, whoever asks and however often.
CREATE TABLE webhook_told (
    webhook_id bigint NOT NULL REFERENCES webhook ON DELETE CASCADE,
    finding_id bigint NOT NULL REFERENCES finding ON DELETE CASCADE,
    firing     boolean NOT NULL,
    changed    timestamptz NOT NULL,
    PRIMARY KEY (webhook_id, finding_id)
);
CREATE INDEX webhook_told_finding ON webhook_told (finding_id) WHERE firing;

-- The outbox, written with webhook_told. body is posted byte for byte at every try, under the same token.
CREATE TABLE webhook_delivery (
    delivery_id bigserial PRIMARY KEY,
    webhook_id  bigint NOT NULL REFERENCES webhook ON DELETE CASCADE,
    finding_id  bigint NOT NULL REFERENCES finding ON DELETE CASCADE,
    token       uuid NOT NULL DEFAULT gen_random_uuid(),
    firing      boolean NOT NULL,
    body        text NOT NULL,
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'gave up')),
    attempts    integer NOT NULL DEFAULT 0,
    created     timestamptz NOT NULL,
    next_try    timestamptz NOT NULL,
    ended       timestamptz,
    reason      text NOT NULL DEFAULT ''
);
CREATE INDEX webhook_delivery_waiting ON webhook_delivery (webhook_id, finding_id, delivery_id) WHERE state = 'waiting';
CREATE INDEX webhook_delivery_webhook ON webhook_delivery (webhook_id, delivery_id);
CREATE INDEX webhook_delivery_finding ON webhook_delivery (finding_id);
-- Whose boards a finding is about. Without a list of pending entries, which every look would read.
CREATE INDEX placement_boards ON placement USING gin (accelerator_ids) WITH (fastupdate = off);
