"""Load tests and benchmarks; the product never imports this package."""
