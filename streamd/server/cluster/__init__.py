"""A daemon that is a node of a cluster: connects it, wires its parts, and answers for servers of other nodes."""
