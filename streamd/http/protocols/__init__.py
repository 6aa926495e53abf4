"""Routes for agents that were not written for streamd: each keeps the paths and the answers that its senders expect.

`streamd/protocols/` decodes. No route here knows what a series means.
"""
