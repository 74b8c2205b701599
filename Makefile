# make demo: install and run the main job on the built-in data.    make test: install and run the test suite.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUNS ?= runs
# PyTorch comes first and pinned, so that no other package's range decides which build is downloaded.
TORCH := $(shell grep -i '^torch==' constraints.txt)

.PHONY: install demo test test-slow test-gpu fuzz smoke lint clean docs

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo,plots,onnx,track,dev]"
	touch $@

demo: install
	$(BIN)/python -m benchmarks.demo --runs $(RUNS)

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: install
	$(BIN)/python -m pytest -m "slow and not gpu"

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir $(RUNS)/site
	@echo "The site is in $(RUNS)/site"

test-gpu: install
	$(BIN)/python -m pytest -m gpu -rs

# Seconds for each format of the readers; an input that breaks one is written to $(RUNS)/fuzz.
FUZZ_SECONDS ?= 60

fuzz: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[fuzz]"
	mkdir -p $(RUNS)/fuzz
	for format in $$($(BIN)/python tests/fuzz/reader_oracle.py); do \
		mkdir -p $(RUNS)/fuzz/$$format; \
		$(BIN)/python tests/fuzz/fuzz_readers.py $$format $(RUNS)/fuzz/$$format -max_total_time=$(FUZZ_SECONDS) -max_len=400 \
			-timeout=20 -artifact_prefix=$(RUNS)/fuzz/$$format- || exit 1; \
	done

smoke: install
	$(BIN)/semtok fit --method pq --data synthetic --codebook-size 32 --out $(RUNS)/smoke/pq --quiet
	$(BIN)/seqrec train ccfrec --data synthetic --codes $(RUNS)/smoke/pq --epochs 2 --out $(RUNS)/smoke/ccfrec --quiet
	$(BIN)/seqrec train sasrec --data synthetic --epochs 2 --out $(RUNS)/smoke/sasrec --quiet
	$(BIN)/genrec train prorec --data synthetic --epochs 2 --stage1-epochs 2 --stage1-dim 32 --dim 32 --ffn 64 --decoder-layers 1 \
		--form all --valid-users 100 --beams 20 --out $(RUNS)/smoke/prorec --quiet
	$(BIN)/seqrec compare $(RUNS)/smoke/ccfrec $(RUNS)/smoke/sasrec $(RUNS)/smoke/prorec

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache
