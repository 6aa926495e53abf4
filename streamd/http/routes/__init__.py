"""The routes, one module for each group of endpoints. To add a route, add it in `add_to` of its group.

Handlers decode, call the service and encode; they decide nothing about windows, batches or versions.
"""
