-- Days (UTC) of nodes and of power meters, written with their hours, so that a month of a large fleet is compared at
-- once. Plain tables, as in 0010: they stay small.

-- What the hours of a node hold, boards and host. NULL where no hour had any of it. `rest_mj` is what only the chassis
-- measures and `whole_us` how long it was; `domains_mj` is the rest of the host. `host_us`: each hour as long as the
-- domain that was read longest; `domain_us`: all domains together.
CREATE TABLE node_day (
    time              timestamptz NOT NULL,
    accelerator_mj    bigint,
    board_us          bigint,
    domains_mj        bigint,
    rest_mj           bigint,
    host_estimated_mj bigint,
    domain_us         bigint,
    host_us           bigint,
    whole_us          bigint,
    node_id           integer NOT NULL,
    PRIMARY KEY (time, node_id)
);
INSERT INTO node_day (time, node_id, accelerator_mj, board_us, domains_mj, rest_mj, host_estimated_mj, domain_us, host_us,
    whole_us)
SELECT date_bin('1 day', time, 'epoch'), node_id, sum(accelerator_mj), sum(board_us), sum(domains_mj), sum(rest_mj),
    sum(host_estimated_mj), sum(domain_us), sum(host_us), sum(whole_us)
FROM (
    SELECT time, node_id, energy_mj AS accelerator_mj, covered_us AS board_us, NULL::bigint AS domains_mj,
           NULL::bigint AS rest_mj, NULL::bigint AS host_estimated_mj, NULL::bigint AS domain_us, NULL::bigint AS host_us,
           NULL::bigint AS whole_us
    FROM meter_hour
    UNION ALL
    SELECT time, node_id, NULL, NULL, sum(energy_mj) FILTER (WHERE domain <> 'rest-of-node'),
           sum(energy_mj) FILTER (WHERE domain = 'rest-of-node'), sum(estimated_mj), sum(covered_us), max(covered_us),
           sum(covered_us) FILTER (WHERE domain = 'rest-of-node')
    FROM host_hour
    GROUP BY time, node_id
) h
GROUP BY 1, 2;

-- `hours`: in how many hours of the day the meter counted.
CREATE TABLE power_meter_day (LIKE power_meter_minute INCLUDING ALL, hours smallint NOT NULL);
INSERT INTO power_meter_day (time, meter_id, energy_mj, estimated_mj, covered_us, step_mj, hours)
SELECT date_bin('1 day', time, 'epoch'), meter_id, sum(energy_mj), sum(estimated_mj), sum(covered_us), min(step_mj),
    count(*)
FROM power_meter_hour
GROUP BY 1, 2;
