"""The program that writes the tables and plots of the docs; ``gmvq document``."""
