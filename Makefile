# Everything on a fresh machine: `make demo` and `make test` make the virtual environment first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/ready
	$(BIN)/stretto bench demo --json out/demo.json --picture out/demo.png

# one torch thread a process: two processes' pools on two cores would wait for each other
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf .lint build && $(BIN)/pip install -q --no-deps --target .lint .
	cd .lint && ../$(BIN)/mypy --config-file ../pyproject.toml -p stretto
	cd .lint && ../$(BIN)/lint-imports ../pyproject.toml

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .lint build out *.egg-info
