-- Who bore the host's energy, kept with the hours and days of the ledger, so that a month of a large fleet with its
-- hosts is answered at once. Adding columns takes no time; 0023 fills the days.

-- Each row's part of its node's host energy in the hour. NULL in hours of before: roll-up shares these out when it next
-- sums their day. `host_unknown`: the row used energy, and its host was not read.
ALTER TABLE ledger_hour
    ADD COLUMN host_unknown boolean,
    ADD COLUMN host_mj bigint,
    ADD COLUMN host_estimated_mj bigint;

-- The sums of these, and what sums of a day hide: whether in any hour the host was unknown, or serving had no tokens.
-- `energy_hours`: bit h says that the row used energy in hour h of the day.
ALTER TABLE ledger_day
    ADD COLUMN host_unknown boolean,
    ADD COLUMN input_unknown boolean,
    ADD COLUMN cached_unknown boolean,
    ADD COLUMN output_unknown boolean,
    ADD COLUMN energy_hours integer,
    ADD COLUMN host_mj bigint,
    ADD COLUMN host_estimated_mj bigint;

-- The host's energy in hours in which the boards used nothing, so that nobody bears it. NULL where there was
-- no such hour.
ALTER TABLE node_day
    ADD COLUMN unborne_mj bigint,
    ADD COLUMN unborne_estimated_mj bigint;
