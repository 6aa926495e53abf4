"""Tokens, what each of them permits, and the callers that present them. Pure: reads no file and no clock."""
