"""What watches Pharos: dashboards, and the configuration of Prometheus, Alertmanager, Loki, Tempo and Grafana."""
