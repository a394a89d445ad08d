"""What superusers may see and do."""
