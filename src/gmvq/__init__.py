"""gmvq."""
