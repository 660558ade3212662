"""What is measured, and against what: `python -m benchmarks` prints ratios of one run on one machine, and asserts none."""
