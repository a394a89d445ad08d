"""What the slices stand on: database, Redis, queue, storage, clock, logging, keys and passwords."""
