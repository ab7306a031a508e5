-- requires: create-schema
-- As in 0013: of a gateway's consumers a key of some teams sees those that the gateway calls by these teams' names.
-- What others drew of its own workloads is not there either, so it cannot be told apart from what no gateway saw.

CREATE VIEW wattmill_team.gateway_client AS
SELECT * FROM gateway_client WHERE team = ANY (wattmill_team.teams());

CREATE VIEW wattmill_team.gateway_minute AS
SELECT * FROM gateway_minute WHERE client_id IN (SELECT client_id FROM wattmill_team.gateway_client);
CREATE VIEW wattmill_team.gateway_hour AS
SELECT * FROM gateway_hour WHERE client_id IN (SELECT client_id FROM wattmill_team.gateway_client);
