-- What /metrics shows of the ledger and of findings. Plain tables: they stay small.

-- Running totals of ledger_hour and host_hour since this migration, moved in the transaction that moves an hour.
-- shown_*: the highest the total beside it has ever been, and what /metrics shows: a counter that fell would be read as
-- a restart. account: as in ledger_minute, and 5 for the energy of hosts. workload_id 0: nobody's.
-- site_id 0, workload_id -1: everything that came when there was no room for another row.
CREATE TABLE exposed_energy (
    energy_mj                 bigint NOT NULL,
    shown_mj                  bigint NOT NULL,
    input_tokens              bigint,
    shown_input_tokens        bigint,
    cached_input_tokens       bigint,
    shown_cached_input_tokens bigint,
    output_tokens             bigint,
    shown_output_tokens       bigint,
    changed                   timestamptz NOT NULL,
    site_id                   integer NOT NULL,
    workload_id               integer NOT NULL,
    account                   smallint NOT NULL,
    simulated                 boolean NOT NULL,
    accelerator_model         text NOT NULL,
    PRIMARY KEY (site_id, workload_id, account, simulated, accelerator_model)
);

-- How much of each finding's energy is counted in exposed_waste.
CREATE TABLE exposed_finding (
    finding_id bigint PRIMARY KEY REFERENCES finding ON DELETE CASCADE,
    energy_mj  bigint NOT NULL
);

CREATE TABLE exposed_waste (
    energy_mj bigint NOT NULL,
    shown_mj  bigint NOT NULL,
    changed   timestamptz NOT NULL,
    simulated boolean NOT NULL,
    kind      text NOT NULL,
    site      text NOT NULL,
    workload  text NOT NULL,
    PRIMARY KEY (kind, site, workload, simulated)
);
