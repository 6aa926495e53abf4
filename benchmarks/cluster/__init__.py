"""Several daemons and servers of NATS on one machine: under load, through faults, and their throughput."""
