"""Bias and variance of the gradient estimators against the exact gradient; part of ``gmvq compare``."""
