"""Measurements of speed and memory: of the layer against its peers (``layer``), of the training step (``step``)."""
