-- requires: timescaledb
-- As in 0002, for the tables of 0018.

SELECT create_hypertable('gateway_sample', 'time', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('gateway_minute', 'time', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('gateway_hour', 'time', chunk_time_interval => INTERVAL '30 days',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
