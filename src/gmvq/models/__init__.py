"""Autoencoders around a quantizer: default networks, any other networks, saving and loading."""
