"""Recorded fleets read from files, on the contract's grid."""
