"""The alerts of a cluster: their records in a table, and silences."""
