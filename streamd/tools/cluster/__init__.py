"""The command `streamd cluster`: shows the nodes and shards of a cluster, drains nodes, balances shards.

It talks to NATS itself, so it works whatever the nodes do.
"""
