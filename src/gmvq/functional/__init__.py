"""Pure functions: mixture, divergences, estimators, schedules, k-means, the one collective."""
