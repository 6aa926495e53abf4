"""Calls of the usual form that connections serve themselves, without aiohttp's request objects and tasks.

Only a call that succeeds is served here. All others, whatever is unusual about them, are given to aiohttp as they came,
so there is one place for each rule and for each error.
"""
