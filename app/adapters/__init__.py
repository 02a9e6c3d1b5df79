"""Implementations of the ports that reach over the network, one file per outside thing."""
