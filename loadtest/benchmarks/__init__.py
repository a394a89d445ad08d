"""The benchmarks: each module has one function run(bench), whose docstring says what it measures."""
