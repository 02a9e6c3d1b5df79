"""Metrics, logs and traces: what the services share. Names are in contracts/telemetry.py."""
