"""Routes for agents that were not written for streamd, with the paths and the answers that these agents expect.

`streamd/protocols/` decodes the bodies. No route here knows the meaning of a series.
"""
