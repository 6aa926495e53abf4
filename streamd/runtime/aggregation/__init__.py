"""Collects the points of foreign protocols, stores them, and closes the rows that are made of them."""
