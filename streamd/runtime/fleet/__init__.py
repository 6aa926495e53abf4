"""The overview of all servers, kept up to date by a thread of its own while somebody looks at it."""
