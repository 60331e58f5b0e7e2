# What there is to do here; `make` alone lists it.

VENV := .venv
BIN := $(VENV)/bin
TESTS := $(wildcard tests/test_architecture.py tests/test_deploy.py tests/unit tests/conformance tests/test_docs.py tests/end_to_end tests/properties)
TOO_OLD := Millstream needs Python 3.11 or newer: none of python3, python3.11, python3.12, python3.13, python3.14 is.

.DEFAULT_GOAL := help
.PHONY: help setup setup-test servers demo demo-servers test check simulate chaos engines support bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Make .venv with Millstream in it and compile its kernels

demo: setup ## Set up and run the flights demo: a year of real flights through the pipeline
	@$(BIN)/millstream demo flights

demo-servers: setup servers ## Set up and run it on Kafka, Redis, PostgreSQL and S3, which it starts
	@$(BIN)/millstream demo flights --servers

test: setup-test ## Set up and run every check and test
	@$(MAKE) --no-print-directory check & checked=$$!; \
		$(BIN)/python -m pytest -n 2 --dist worksteal -m "not planted and not chaos" $(TESTS); tested=$$?; \
		wait $$checked || { echo "make check failed: see above, where the tests begin" >&2; exit 1; }; exit $$tested

check: setup-test ## Lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

SEEDS := 10000
simulate: setup-test ## Simulate the pipeline by 10,000 seeds (SEEDS=n for others), plant faults, and try properties ten times as often
	$(BIN)/python -m pytest -n 2 -m planted tests/properties
	EXAMPLES_TIMES=10 $(BIN)/python -m pytest -n 2 --timeout 7200 -m "not planted" tests/properties tests/unit/fold/test_as_of.py
	$(BIN)/python -m millstream.testing.simulation $(SEEDS)

chaos: setup-test ## Kill, stop and disturb what runs on real servers, by hundreds of seeds
	$(BIN)/python -m pytest -n 2 --dist worksteal -m chaos $(TESTS)

engines: $(VENV)/.ready-engines ## Read by Spark, DuckDB and a Hive Metastore what Millstream writes
	$(BIN)/python -m pytest -m engines tests/engines

support: setup-test ## Run every conformance suite, and write docs/support.md
	$(BIN)/python -m tests.support

bench: setup-test ## Measure the claims, each beside a peer
	$(BIN)/python -m benchmarks

setup-test: $(VENV)/.ready-test servers

# What tests and `make demo-servers` start. Tests whose server cannot be had are left out and say so, or fail under CI=true.
servers: $(VENV)/.installed-servers ## Get the servers that tests and demo-servers start
	@if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && ! command -v initdb >/dev/null \
		&& [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing PostgreSQL"; \
		{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y postgresql; } >/dev/null 2>&1 \
			|| echo "PostgreSQL could not be installed" >&2; \
	fi
	@if ! command -v redis-server >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Redis"; \
		{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y redis-server; } >/dev/null 2>&1 \
			|| echo "Redis could not be installed" >&2; \
	fi
	@if command -v mvn >/dev/null && [ ! -e $(VENV)/servers/kafka/.complete ]; then \
		echo "Fetching Kafka"; \
		{ mvn -B -q -f src/millstream/testing/servers/kafka.xml dependency:copy-dependencies -DincludeScope=runtime \
			-DoutputDirectory="$$(pwd)/$(VENV)/servers/kafka" && touch $(VENV)/servers/kafka/.complete; } >/dev/null 2>&1 \
			|| echo "Kafka could not be fetched" >&2; \
	fi

clean: ## Remove the virtual environment and what tools cached
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find src tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Making $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); \
		fi; \
	done; \
	echo "$(TOO_OLD)" >&2; exit 1

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Millstream (a minute the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(VENV)/.installed-servers: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,servers]'
	@touch $@

$(VENV)/.ready: $(VENV)/.installed
	@$(BIN)/python -c 'from millstream.fold.warm import warm; warm("lanes")'
	@touch $@

# Two processes compile at the same time, the longer of them nearly all that the other does not.
$(VENV)/.ready-test: $(VENV)/.installed
	@echo "Installing what the tests need, and compiling the kernels meanwhile"
	@$(BIN)/python -c 'from millstream.fold.warm import warm; warm("lanes")' & lanes=$$!; \
		$(BIN)/python -c 'from millstream.fold.warm import warm; warm("entries")' & entries=$$!; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
			--editable '.[demo,test]' && wait $$lanes && wait $$entries
	@touch $(VENV)/.ready $(VENV)/.installed-servers $@

$(VENV)/.ready-engines: $(wildcard src/millstream/testing/servers/*.xml) $(VENV)/.ready-test | servers
	@echo "Installing Spark, and fetching what it and a Hive Metastore run by"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[demo,test,engines]'
	@for what in spark hive; do \
		mvn -B -q -f src/millstream/testing/servers/$$what.xml dependency:copy-dependencies -DincludeScope=runtime \
			-DoutputDirectory="$$(pwd)/$(VENV)/servers/$$what" || exit 1; \
	done
	@touch $@
