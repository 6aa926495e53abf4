"""The files that access depends on: read at start, watched, and read again when they change.

`core/access` decides who may do what; nothing here knows a request.
"""
