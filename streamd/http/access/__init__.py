"""Access over HTTP: the caller of a request, and the rule that says which callers a route serves.

`core/access` decides what a caller may do. Nothing here reads a body or knows a window.
"""
