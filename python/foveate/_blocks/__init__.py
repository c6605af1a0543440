"""Whole blocks over attention: multi-head, self, hierarchical, memory."""
