"""Studies whose results files the docs cite; ``gmvq study``."""
