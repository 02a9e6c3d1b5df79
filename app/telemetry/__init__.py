"""What the gateway tells of itself: a record of each request, metrics, and the wrappers and hooks that fill them.

Names are in contracts/telemetry.py; what all services share is in observability/.
"""
