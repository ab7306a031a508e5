-- requires: timescaledb
-- As in 0002, for the tables of 0003.

SELECT create_hypertable('latency_sample', 'time', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('latency_minute', 'time', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('latency_hour', 'time', chunk_time_interval => INTERVAL '30 days',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
