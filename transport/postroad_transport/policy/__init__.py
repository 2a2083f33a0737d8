"""Policy: pure decisions over the compiled configuration. No I/O, no clock, no randomness of its own."""
