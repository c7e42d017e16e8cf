"""The command lines of the commands in ``commands.py``."""
