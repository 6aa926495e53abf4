"""`streamd mapping`: reads captured bodies of agents, and says what the mapping rules make of them.

It decodes, maps and averages with the daemon's own code, but starts no daemon and stores nothing.
"""
