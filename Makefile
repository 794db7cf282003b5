# `make run` and `make test` are the two commands; each makes its own .venv first. Others: see CONTRIBUTING.md.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DOCS_READY := .venv/.docs-ready
KERNELS := setup.py $(wildcard csrc/*/* csrc/*.cpp)
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: run test test-long test-gpu bench-gpu sanitize neon fuzz lint docs bench collapse proof install clean

run: $(READY)
	$(BIN)/python examples/digits.py

test: $(READY)
	$(BIN)/python -m pytest -m "not long"

test-long: $(READY)
	$(BIN)/python -m pytest

# On a machine with a GPU, with whatever Python has torch and Triton there: PYTHON=.venv/bin/python if that is it.
test-gpu:
	PYTHONPATH=src $(PYTHON) -m pytest -p no:cacheprovider -c /dev/null --rootdir . tests/gpu

bench-gpu:
	PYTHONPATH=src $(PYTHON) benchmarks/gpu.py
	PYTHONPATH=src $(PYTHON) benchmarks/gpu_linear.py

sanitize: $(READY)
	$(BIN)/python -m pytest -rs tests/native/test_kernels.py::test_no_kernel_leaves_its_buffers

neon: $(READY)
	$(BIN)/python -m pytest -rs tests/native/test_kernels.py::test_aarch64_compiles_in_silence_and_tells_the_truth

FUZZ_SECONDS ?= 600
fuzz: $(READY)
	$(BIN)/python tests/native/fuzz/run.py $(FUZZ_SECONDS) $(FUZZ_FILES)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(DOCS_READY)
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(READY)
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/tables.py --write

collapse: $(READY)
	$(BIN)/python examples/softmax_collapse.py

proof: $(READY)
	$(BIN)/python examples/proof.py --json benchmarks/results/proof.json
	$(BIN)/python benchmarks/tables.py --write

install: $(READY)

# torch goes first and alone, so that nothing else decides which build of it is taken.
$(READY): pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q "$(TORCH)"
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	@touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[docs]"
	@touch $@

clean:
	rm -rf .venv build dist src/xent/backends/*.so docs/_build .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
