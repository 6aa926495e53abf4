"""Maps the series of foreign protocols to servers and features; pure."""
