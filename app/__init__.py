"""The gateway: questions in, grounded answers out, as a stream."""
