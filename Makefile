# make demo: set up, train toy and digits with and without latents, write out/demo/index.html
# make test: set up, run the tests
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo test check bench setup clean

demo: setup
	$(PY) -m experiments.demo -o out/demo

test: setup
	$(PY) -m pytest -n 2

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: setup
	$(PY) -m benchmarks.overhead
	$(PY) -m benchmarks.docking

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	sh .ci/setup $(VENV)
	touch $(STAMP)

clean:
	rm -rf $(VENV) out build *.egg-info .pytest_cache .mypy_cache .ruff_cache
