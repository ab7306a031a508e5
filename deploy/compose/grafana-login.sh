#!/bin/sh
# Runs in the database's container, once, when the database is made: a login for Grafana that sees the views of docs/sql.md
# and nothing else. `wattmill serve` gives the views to wattmill_read when it makes them.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    --set password="$(cat /run/secrets/grafana_database_password)" <<'SQL'
CREATE ROLE wattmill_read NOLOGIN;
CREATE ROLE grafana LOGIN PASSWORD :'password';
GRANT wattmill_read TO grafana;
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '30s';
SQL
