"""HTTP to domain and back, one file per resource."""
