"""Health: what monitoring, orchestrators and operators ask about this service."""
