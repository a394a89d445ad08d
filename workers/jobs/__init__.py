"""The jobs, a file for each slice: adapters that call its service, and nothing else."""
