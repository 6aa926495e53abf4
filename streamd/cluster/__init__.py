"""Several daemons that share a fleet over NATS JetStream: rows and forecasts in logs, shards owned by leases."""
