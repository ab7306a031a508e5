-- The days of before, shared out as roll-up does it, one day at a time. Questions are answered meanwhile; roll-up
-- waits.

LOCK TABLE ledger_day, node_day IN SHARE ROW EXCLUSIVE MODE;

DO $$
DECLARE
    day timestamptz;
BEGIN
    FOR day IN SELECT time FROM ledger_day UNION SELECT time FROM node_day ORDER BY time LOOP
        WITH entry AS (
            SELECT time, node_id, accelerator_id, placement_id, account, energy_mj, input_tokens, cached_input_tokens,
                   output_tokens, NULL::numeric AS host_mj, NULL::numeric AS host_estimated_mj
            FROM ledger_hour
            WHERE time >= day AND time < day + interval '24 hours'
            UNION ALL
            SELECT time, node_id, 0, 0, 5, NULL, NULL, NULL, NULL, sum(energy_mj), sum(estimated_mj)
            FROM host_hour
            WHERE time >= day AND time < day + interval '24 hours'
            GROUP BY time, node_id
        ), met AS (
            SELECT
                time, node_id, accelerator_id, placement_id, account, energy_mj, input_tokens, cached_input_tokens,
                output_tokens, sum(host_mj) OVER node AS host_mj, sum(host_estimated_mj) OVER node AS host_estimated_mj,
                sum(energy_mj) OVER node AS node_mj
            FROM entry
            WINDOW node AS (PARTITION BY time, node_id)
        ), floored AS (
            SELECT
                met.*,
                div(host_mj * energy_mj, NULLIF(node_mj, 0)) AS share_mj,
                mod(host_mj * energy_mj, NULLIF(node_mj, 0)) AS rest,
                div(host_estimated_mj * energy_mj, NULLIF(node_mj, 0)) AS share_estimated_mj
            FROM met
            WHERE account <> 5
        ), ranked AS (
            SELECT
                floored.*,
                host_mj - sum(share_mj) OVER (PARTITION BY time, node_id) AS left_mj,
                row_number() OVER (
                    PARTITION BY time, node_id ORDER BY rest DESC, accelerator_id, placement_id, account
                ) AS place
            FROM floored
        ), shared AS (
            SELECT
                node_id, accelerator_id, placement_id, account,
                bool_or(host_mj IS NULL AND energy_mj > 0) AS host_unknown,
                bool_or(account = 1 AND input_tokens IS NULL) AS input_unknown,
                bool_or(account = 1 AND cached_input_tokens IS NULL) AS cached_unknown,
                bool_or(account = 1 AND output_tokens IS NULL) AS output_unknown,
                bit_or(CASE WHEN energy_mj > 0 THEN 1 << extract(hour FROM time AT TIME ZONE 'UTC')::integer ELSE 0 END)
                    AS energy_hours,
                sum(COALESCE(share_mj + CASE WHEN place <= left_mj THEN 1 ELSE 0 END, 0)) AS host_mj,
                sum(COALESCE(share_estimated_mj, 0)) AS host_estimated_mj
            FROM ranked
            GROUP BY 1, 2, 3, 4
        )
        UPDATE ledger_day d
        SET host_unknown = s.host_unknown, input_unknown = s.input_unknown, cached_unknown = s.cached_unknown,
            output_unknown = s.output_unknown, energy_hours = s.energy_hours, host_mj = s.host_mj,
            host_estimated_mj = s.host_estimated_mj
        FROM shared s
        WHERE d.time = day AND d.node_id = s.node_id AND d.accelerator_id = s.accelerator_id
            AND d.placement_id = s.placement_id AND d.account = s.account;

        UPDATE node_day d
        SET unborne_mj = h.energy_mj, unborne_estimated_mj = h.estimated_mj
        FROM (
            SELECT node_id, sum(energy_mj) AS energy_mj, sum(estimated_mj) AS estimated_mj
            FROM host_hour
            LEFT JOIN (
                SELECT node_id, bit_or(energy_hours) AS hours FROM ledger_day WHERE time = day GROUP BY node_id
            ) l USING (node_id)
            WHERE time >= day AND time < day + interval '24 hours'
                AND COALESCE(hours, 0) & (1 << extract(hour FROM time AT TIME ZONE 'UTC')::integer) = 0
            GROUP BY node_id
        ) h
        WHERE d.time = day AND d.node_id = h.node_id;
    END LOOP;
END $$;
