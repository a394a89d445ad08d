"""Usage by token and user, rolled up by hour and by day."""
