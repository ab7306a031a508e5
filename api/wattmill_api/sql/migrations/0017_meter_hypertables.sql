-- requires: timescaledb
-- The tables of 0016_meters.sql, as 0002 does it.

SELECT create_hypertable('power_meter_sample', 'time', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('power_meter_minute', 'time', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
SELECT create_hypertable('power_meter_hour', 'time', chunk_time_interval => INTERVAL '30 days',
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);
