# Pharos. `make help` lists the targets.
PYTHON ?= python3
ACCELERATOR ?= cpu
PY := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help install run monitor ingest test soak load check bench evaluate dashboards format lock

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: ## make .venv and the model folders (ACCELERATOR=cpu|gpu)
	@$(PYTHON) -m launch.preflight --accelerator $(ACCELERATOR) --no-ports
	@$(PYTHON) -m launch.install $(ACCELERATOR)
	@$(PY) -m app_llm.prepare volumes/models

run: ## set up and start everything on this machine; Ctrl-C stops it (ACCELERATOR=cpu|gpu)
	@$(PYTHON) -m launch.preflight --accelerator $(ACCELERATOR)
	@$(MAKE) --no-print-directory install
	@$(PY) -m launch.stack

monitor: ## Prometheus with the shipped rules beside a running Pharos; Ctrl-C stops it
	@$(MAKE) --no-print-directory install
	@$(PY) -m launch.monitor

ingest: ## load a data set into a running Pharos: make ingest DATASET=file.csv [OPTIONS="--limit 100"]
	@test -n "$(DATASET)" || { echo 'say which: make ingest DATASET=file.csv'; exit 2; }
	@$(PY) -m setup_milvus --dataset "$(DATASET)" $(OPTIONS)

test: ## set up and run every test
	@$(MAKE) --no-print-directory install
	@$(PYTHON) -m launch.install dev backends
	$(PY) -m pytest --numprocesses 2 $(TESTS)

MINUTES ?= 10
soak: ## a mix of all behaviours for MINUTES=10 against a simulated stack of its own; fails when anything grows
	$(PY) -m benchmarks.soak --minutes $(MINUTES)

HOST ?= http://127.0.0.1:8000
load: ## load on a running Pharos, with a report: make load [HOST=http://…] [SHAPE=steady|step|spike|soak] [OPTIONS="-u 32"]
	@$(PYTHON) -m launch.install load
	@$(PY) -m locust_testing --host "$(HOST)" $(if $(SHAPE),--shape $(SHAPE)) $(OPTIONS)

check: ## ruff, mypy --strict, and the rules of Prometheus and Alertmanager
	@$(MAKE) --no-print-directory install
	@$(PYTHON) -m launch.install dev
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m launch.debian promtool check config monitoring/prometheus/prometheus.yml
	$(PY) -m launch.debian promtool test rules monitoring/prometheus/tests/*.yml
	$(PY) -m launch.debian amtool check-config monitoring/alertmanager/alertmanager.yml

bench: ## measure Pharos beside what people use today; writes docs/benchmarks.md (NAMES="encode relay" for some)
	@$(MAKE) --no-print-directory install
	@$(PYTHON) -m launch.install dev bench backends
	@$(PY) -m benchmarks $(NAMES) $(OPTIONS)

evaluate: ## is the right passage found: make evaluate [DATA=folder SETS="name name"] [MODES="dense sparse hybrid"] [OPTIONS="--limit-queries 200"]
	@$(MAKE) --no-print-directory install
	@$(PYTHON) -m launch.install dev
	@$(PY) -m evaluation.retrieval $(if $(DATA),--data "$(DATA)") $(foreach set,$(SETS),--set $(set)) $(foreach mode,$(or $(MODES),dense sparse hybrid),--mode $(mode)) $(OPTIONS)

dashboards: ## write Grafana's dashboards (monitoring/grafana/dashboards) from their code
	@$(MAKE) --no-print-directory install
	@$(PYTHON) -m launch.install dev
	$(PY) -m monitoring.dashboards

format: ## rewrite the code in ruff's style
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

lock: ## resolve pyproject.toml into requirements/*.lock (needs uv; see requirements/lock.sh)
	bash requirements/lock.sh
