"""Pictures of the dashboards, drawn with matplotlib from the same files and queries: `python -m monitoring.render`."""
