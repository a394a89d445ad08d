"""The embedded development stack: PostgreSQL, Valkey, S3 and a demo upstream, run as children of one process."""
