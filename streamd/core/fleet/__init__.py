"""The overview of all servers: which match a query, in which condition they are, and which are worst."""
