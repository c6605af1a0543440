"""Kernel regression, with gradients, bandwidths and an order of points."""
