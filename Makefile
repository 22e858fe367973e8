# Each target sets up what it needs from nothing and does only what is missing when repeated.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES = $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml

.PHONY: bench test docs lint format clean

bench: $(VENV)/.installed $(VENV)/.peers
	$(BIN)/python -m sslkern bench $(ARGS)

test: $(VENV)/.installed $(VENV)/.peers $(VENV)/.docs
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup $(ARGS)

docs: $(VENV)/.installed $(VENV)/.docs
	$(BIN)/python benchmarks/docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc tests/simt -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.requirements
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc tests/simt -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format -i

$(VENV)/.requirements: requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements-dev.txt
	touch $@

# Without dependencies, for they name torchvision, which would bring another torch.
$(VENV)/.peers: $(VENV)/.requirements requirements-peers.txt
	$(PIP) --no-deps lightly==1.6.0 open_clip_torch==3.3.0 info-nce-pytorch==0.1.4 POT==0.9.7.post1
	$(PIP) -r requirements-peers.txt
	touch $@

$(VENV)/.docs: $(VENV)/.requirements requirements-docs.txt
	$(PIP) -r requirements-docs.txt
	touch $@

$(VENV)/.installed: $(VENV)/.requirements $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-build-isolation --no-deps -e .
	touch $@

clean:
	rm -rf build $(VENV) sslkern/_C*.so sslkern/libsslkern_cuda.so sslkern/_build_info.json *.egg-info
