"""Lanes: what runs a micro-batch. Only the composition root names a concrete one."""
