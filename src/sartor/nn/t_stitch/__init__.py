"""T-Stitch: denoisers small enough for tests, and their sampler."""
