"""`streamd mapping`: reads captured bodies of agents, and reports which features their series become.

It decodes, maps and averages with the daemon's own code, but starts no daemon and stores nothing.
"""
