"""The policies, which decide and never wait: no asyncio, no sockets, no CUDA and no clock (time is a parameter)."""
