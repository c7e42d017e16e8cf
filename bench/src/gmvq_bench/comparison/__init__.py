"""The honest comparison: every method on the same network, data and steps, tuned alike, with seeds; `gmvq compare`."""
