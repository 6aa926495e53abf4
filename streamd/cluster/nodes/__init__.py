"""The nodes of a cluster: heartbeats, leases, handovers, requests of operators."""
