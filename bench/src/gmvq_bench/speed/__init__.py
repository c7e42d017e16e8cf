"""Measurements of speed and memory of the layer, beside its peers and the machine's floors."""
