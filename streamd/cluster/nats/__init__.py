"""The log of a cluster over NATS JetStream. Only these modules import its client."""
