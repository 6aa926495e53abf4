"""The accuracy gate: is a lower precision accurate enough to serve?"""
