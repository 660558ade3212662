"""The outside, for Azure: the only place in `core` that imports Azure libraries, and that translates their errors."""
