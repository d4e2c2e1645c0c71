"""Benchmarks: each prints one JSON object on its last line, with its peers measured in the same run."""
