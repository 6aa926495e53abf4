"""Policies that decide and never wait: no asyncio, no sockets, no CUDA, no clock (time is a parameter)."""
