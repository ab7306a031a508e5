-- requires: create-schema
-- As in 0013: the columns of 0014 in the views of teams, at the end. How another team's engines share a board is not
-- among them: each team sees its own placements.

CREATE OR REPLACE VIEW wattmill_team.placement AS
SELECT * FROM placement WHERE workload_id IN (SELECT workload_id FROM wattmill_team.workload);

CREATE OR REPLACE VIEW wattmill_team.accelerator AS
SELECT * FROM accelerator
WHERE accelerator_id IN (SELECT unnest(accelerator_ids) FROM wattmill_team.placement);

CREATE OR REPLACE VIEW wattmill_team.engine_minute AS
SELECT * FROM engine_minute WHERE placement_id IN (SELECT placement_id FROM wattmill_team.placement);

-- Whether an engine was read since something was said of it.
CREATE VIEW wattmill_team.engine_sample AS
SELECT * FROM engine_sample WHERE placement_id IN (SELECT placement_id FROM wattmill_team.placement);

CREATE VIEW wattmill_team.host_domain AS
SELECT * FROM host_domain WHERE node_id IN (SELECT node_id FROM wattmill_team.node);

CREATE OR REPLACE VIEW wattmill_team.curve_family AS
SELECT f.* FROM curve_family f
WHERE (f.model, f.accelerator_model, f.engine_kind, f.boards, f.simulated) IN (
    SELECT COALESCE(NULLIF(w.model, ''), w.name), a.model,
           e.engine_kind || CASE WHEN p.role = 'decode' THEN ' decode' ELSE '' END, cardinality(p.accelerator_ids),
           n.simulated
    FROM placement p
    JOIN engine e USING (engine_id)
    JOIN node n USING (node_id)
    JOIN workload w USING (workload_id)
    CROSS JOIN LATERAL (
        SELECT min(model) AS model FROM accelerator WHERE accelerator_id = ANY (p.accelerator_ids)
    ) a
    WHERE p.role IN ('', 'decode') AND p.shares_ppm = '{}'
    GROUP BY 1, 2, 3, 4, 5
    HAVING bool_and(w.team = ANY (wattmill_team.teams()))
);
