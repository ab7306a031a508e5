-- Where a workload's energy goes: one row per workload, accelerator model and day (UTC). Plain tables: they stay small.

-- energy_mj: serving + idle-loaded of the day. explained_mj: the part in minutes whose tokens are known, and what
-- standing_mj + prefill_mj + decode_mj sum to; engine_us and the tokens after it are of the same minutes.
-- sums: partial sums of the day's whole minutes (wattmill_analytics.phases), so that days pool without their minutes.
-- The fit is of the day, or of window_days pooled days that end with it; verdict says what of it can be told.
-- coefficients and errors: P0 in mJ per us of engine time, then mJ per computed input and per output token.
CREATE TABLE phase_day (
    time                  timestamptz NOT NULL,
    energy_mj             bigint NOT NULL,
    explained_mj          bigint NOT NULL,
    engine_us             bigint NOT NULL,
    uncached_input_tokens bigint NOT NULL,
    output_tokens         bigint NOT NULL,
    cached_input_tokens   bigint,
    standing_mj           bigint NOT NULL,
    prefill_mj            bigint NOT NULL,
    decode_mj             bigint NOT NULL,
    minutes               bigint NOT NULL,
    wild_minutes          bigint NOT NULL,
    residual_ratio        float8 NOT NULL,
    r_squared             float8 NOT NULL,
    workload_id           integer NOT NULL REFERENCES workload,
    window_days           smallint NOT NULL,
    verdict               smallint NOT NULL,
    accelerator_model     text NOT NULL,
    coefficients          float8[] NOT NULL,
    errors                float8[] NOT NULL,
    sums                  float8[] NOT NULL,
    PRIMARY KEY (time, workload_id, accelerator_model)
);

-- What the hours of a workload's day looked like when its phases were learned: late data changes the fingerprint.
CREATE TABLE phase_seen (
    time        timestamptz NOT NULL,
    workload_id integer NOT NULL REFERENCES workload,
    fingerprint text NOT NULL,
    learned     timestamptz NOT NULL,
    PRIMARY KEY (time, workload_id)
);
