"""Attention, soft, hard and local, with gradients: the functions over arrays."""
