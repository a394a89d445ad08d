DROP TABLE device_leases;
DROP TABLE usage_batches;
DROP TABLE gateway_sessions;
