-- The life of a finding: who did what when, when it must not speak, and what its remedy really saved.

-- known: end of the minute at which it could first be told; found: when detection first told it, which is later where
-- data came late or where only what came after told it. revision: rises whenever what is known of it changes.
-- counted_from, carried_mj: energy counted before the minutes that detection still looks at, see lifecycle.py.
-- mj_per_day: its rate over the minutes looked at, NULL once it is over.
-- merged_into: the finding that holds its incident now; this one counts nothing any more and is not listed.
ALTER TABLE finding
    ADD COLUMN known        timestamptz,
    ADD COLUMN found        timestamptz,
    ADD COLUMN counted_from timestamptz,
    ADD COLUMN carried_mj   bigint NOT NULL DEFAULT 0,
    ADD COLUMN mj_per_day   bigint,
    ADD COLUMN revision     integer NOT NULL DEFAULT 1,
    ADD COLUMN engine_ids   integer[] NOT NULL DEFAULT '{}',
    ADD COLUMN board_ids    integer[] NOT NULL DEFAULT '{}',
    ADD COLUMN merged_into  bigint REFERENCES finding ON DELETE CASCADE;
CREATE INDEX finding_seen ON finding (last_seen);

-- by: name of the key that did it, 'detection', or '' where no key was needed.
CREATE TABLE finding_event (
    event_id   bigserial PRIMARY KEY,
    finding_id bigint NOT NULL REFERENCES finding ON DELETE CASCADE,
    time       timestamptz NOT NULL DEFAULT now(),
    what       text NOT NULL,
    by         text NOT NULL DEFAULT '',
    note       text NOT NULL DEFAULT ''
);
CREATE INDEX finding_event_finding ON finding_event (finding_id, event_id);

-- While a window lasts, no finding of what it names is open. '*' matches everything.
CREATE TABLE suppression (
    suppression_id bigserial PRIMARY KEY,
    kind           text NOT NULL DEFAULT '*',
    subject        text NOT NULL DEFAULT '*',
    workload       text NOT NULL DEFAULT '*',
    node           text NOT NULL DEFAULT '*',
    site           text NOT NULL DEFAULT '*',
    since          timestamptz NOT NULL,
    until          timestamptz NOT NULL CHECK (until > since),
    reason         text NOT NULL DEFAULT '',
    by             text NOT NULL DEFAULT '',
    created        timestamptz NOT NULL DEFAULT now()
);

-- What came of it: before_mj / before_units is the rate while it wasted, spent_mj and units what followed in
-- [since, until). saved_mj = before_mj x units / before_units - spent_mj, NULL where there is nothing to go by.
CREATE TABLE finding_saving (
    finding_id   bigint PRIMARY KEY REFERENCES finding ON DELETE CASCADE,
    since        timestamptz NOT NULL,
    until        timestamptz NOT NULL,
    method       text NOT NULL,
    before_mj    double precision NOT NULL,
    before_units double precision NOT NULL,
    spent_mj     double precision NOT NULL DEFAULT 0,
    units        double precision NOT NULL DEFAULT 0,
    saved_mj     bigint
);

-- Whose turn it is in a fleet too large to be looked at in one run.
CREATE SEQUENCE detection_turn;
