-- requires: create-schema
-- As in 0013: the columns of 0022 in the views of teams, at the end. A row's part of its host is its own.

CREATE OR REPLACE VIEW wattmill_team.ledger_hour AS
SELECT * FROM ledger_hour WHERE placement_id IN (SELECT placement_id FROM wattmill_team.placement);
CREATE OR REPLACE VIEW wattmill_team.ledger_day AS
SELECT * FROM ledger_day WHERE placement_id IN (SELECT placement_id FROM wattmill_team.placement);

-- Whole nodes, for the one statement that shares hosts out (query.energy).
CREATE OR REPLACE VIEW wattmill_team.every_ledger_hour AS
SELECT * FROM ledger_hour WHERE node_id IN (SELECT node_id FROM wattmill_team.engine);
CREATE VIEW wattmill_team.every_node_day AS
SELECT * FROM node_day WHERE node_id IN (SELECT node_id FROM wattmill_team.engine);
