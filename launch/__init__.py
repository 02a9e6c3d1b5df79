"""`make run`: everything on one machine, without containers."""
