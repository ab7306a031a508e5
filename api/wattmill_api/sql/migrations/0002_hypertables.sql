-- requires: timescaledb
-- Chunks are what retention drops. No default index: every key already begins with time.
-- migrate_data: a plain database whose server was given the extension later becomes one of hypertables.

SELECT create_hypertable('accelerator_sample', 'time', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('engine_sample', 'time', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('host_sample', 'time', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('absence', 'time', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('ledger_minute', 'time', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('host_minute', 'time', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('accelerator_minute', 'time', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('engine_minute', 'time', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('ledger_hour', 'time', chunk_time_interval => INTERVAL '30 days',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('host_hour', 'time', chunk_time_interval => INTERVAL '30 days',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
