"""A test bed of random designs: how a quantizer layer works in networks, data and recipes that are not our own."""
