"""Trained models for gmvq, as data: a folder for each, with its card. ``gmvq`` finds them as ``builtin:NAME``."""
