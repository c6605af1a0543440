"""Kernel densities, with gradients."""
