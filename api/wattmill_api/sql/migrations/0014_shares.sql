-- Parts of boards, roles of engines, and how far a placement is to be trusted. All of it belongs to the placement: an
-- engine that gets another part, or another role, has another placement from then on.
-- shares_ppm: aligned with accelerator_ids, empty where the boards are wholly the engine's or shared by activity.
-- role: '' of an ordinary engine, prefill, decode, frontend, worker.

ALTER TABLE placement
    ADD COLUMN shares_ppm integer[] NOT NULL DEFAULT '{}',
    ADD COLUMN share_by text NOT NULL DEFAULT '',
    ADD COLUMN role text NOT NULL DEFAULT '',
    ADD COLUMN confidence text NOT NULL DEFAULT '',
    DROP CONSTRAINT placement_engine_id_workload_id_accelerator_ids_method_key,
    ADD CONSTRAINT placement_said UNIQUE (
        engine_id, workload_id, accelerator_ids, method, shares_ppm, share_by, role, confidence
    );

-- What reads the board: nvml, dcgm-exporter, …; '' where no reading of it was stored yet.
ALTER TABLE accelerator ADD COLUMN source text NOT NULL DEFAULT '';

-- latency_sample.metric, and its minutes and hours: 3 queue time, 4 request latency, besides 1 and 2 (0003).
ALTER TABLE engine_sample
    ADD COLUMN draft_tokens bigint,
    ADD COLUMN accepted_draft_tokens bigint,
    ADD COLUMN activity_ppm integer;
ALTER TABLE engine_minute
    ADD COLUMN draft_tokens bigint,
    ADD COLUMN accepted_draft_tokens bigint,
    ADD COLUMN activity_ratio real;

-- What reads the host: rapl, hwmon, ipmi, redfish, …, by domain.
CREATE TABLE host_domain (
    node_id integer NOT NULL REFERENCES node,
    domain  text NOT NULL,
    source  text NOT NULL,
    PRIMARY KEY (node_id, domain)
);
