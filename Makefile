# make demo             the main job on the built-in language, no corpus needed
# make test             the whole test suite
# make test-cuda        the tests that need a GPU, with the PyTorch that PYTHON has (2.11 or newer)
# make torture          the tests of what docs/RELIABILITY.md promises, in full
# make bench            words per second of this machine, beside its limit
# make bench-cuda       the same for its GPU
# make reproduce-small  the paper's small model on the Penn Treebank
# make reproduce-medium, reproduce-large  its other two models
# make reproduce-average  several seeds of one of them at once, and their average (PRESET=, SEEDS=10)
# make reproduce-table  the whole of its table: one seed of each model, then SEEDS of each
# make dropout-study    dropout nowhere, as in the paper, and in two ways on recurrent connections
# make schedule-study   small by the schedule of the authors' code, beside that of their text
# make test-time        what a finished run gains from dynamic evaluation and a cache (RUN=small-seed1)
# make docs             rewrites the tables and figures of docs/ and the tutorial's outputs
PYTHON ?= python3
SEED ?= 1
PRESET ?= small
SEEDS ?= 10
PRECISION ?= auto
RUN ?= small-seed1
BIN := .venv/bin
INSTALLED := .venv/.installed
# One process per core; the tests of a file share what they have made.
PARALLEL := --numprocesses auto --dist loadfile

.PHONY: demo test test-cuda torture bench bench-cuda check install reproduce-small reproduce-medium \
	reproduce-large reproduce-average reproduce-table dropout-study schedule-study test-time table docs clean

demo: $(INSTALLED)
	$(BIN)/ptb-lm train --config synthetic --data synthetic --run-dir runs/demo --overwrite
	$(BIN)/ptb-lm generate runs/demo/last.pt --words 60
	$(BIN)/ptb-lm eval runs/demo/last.pt
	@echo "run folder: runs/demo"

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL)

# Installs nothing: the PyTorch that fits a machine's GPU is the machine's affair.
test-cuda:
	PYTHONPATH=.:$$PYTHONPATH $(PYTHON) -m pytest -m cuda tests/test_cuda.py

# Thousands of damaged files, hundreds of killed trainings; the counts go into the evidence.
torture: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL) -m promise --full --tally=results/reliability/torture.json tests
	$(BIN)/python scripts/make_table.py

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

reproduce-small reproduce-medium reproduce-large: reproduce-%: $(INSTALLED)
	$(BIN)/python scripts/reproduce.py $* --seed $(SEED) --precision $(PRECISION)

# One of each, then the averages. Days on a CPU; stopped at any time, it resumes where it was. If a
# member fails (1), the others are still made.
reproduce-table: $(INSTALLED)
	failed=0; for seeds in 1 $(SEEDS); do for preset in small medium large; do \
		$(BIN)/python scripts/reproduce_average.py $$preset --seeds $$seeds \
			--precision $(PRECISION) || { failed=$$?; test $$failed = 1 || exit $$failed; }; \
	done; done; exit $$failed

dropout-study: $(INSTALLED)
	$(BIN)/python scripts/dropout_study.py

# Goes on where it was, member by member; SEEDS of it.
schedule-study: $(INSTALLED)
	$(BIN)/python scripts/schedule_study.py --seeds $(SEEDS)

# Tuned on the validation text, then both texts are scored once; resumes where it stopped.
test-time: $(INSTALLED)
	$(BIN)/python scripts/adapting_study.py $(RUN)

# Every seed from 1 to SEEDS that has no evidence yet, one process per core; resumes each where it
# stopped.
reproduce-average: $(INSTALLED)
	$(BIN)/python scripts/reproduce_average.py $(PRESET) --seeds $(SEEDS) --precision $(PRECISION)

# What docs/SPEED.md shows, for this machine, which must do nothing else.
bench: $(INSTALLED)
	mkdir -p results/speed
	$(BIN)/ptb-lm bench --device cpu --against-stock --json > results/speed/.bench
	mv results/speed/.bench results/speed/bench-fp32.json
	$(BIN)/ptb-lm bench --device cpu --against-stock --precision bf16 --json > results/speed/.bench
	mv results/speed/.bench results/speed/bench-bf16.json
	$(BIN)/python benchmarks/without.py small --write
	$(BIN)/python benchmarks/without.py medium --write
	$(BIN)/python benchmarks/around.py --write
	$(BIN)/python benchmarks/processes.py --write
	$(BIN)/python benchmarks/shared_training.py --write
	$(BIN)/python scripts/make_table.py

# The same for its GPU, with the PyTorch that PYTHON has.
bench-cuda:
	mkdir -p results/speed
	for precision in tf32 fp32 bf16; do \
		PYTHONPATH=.:$$PYTHONPATH $(PYTHON) -m ptb_lm bench --device cuda --against-stock --precision $$precision --json \
			> results/speed/.bench && \
		mv results/speed/.bench results/speed/bench-cuda-$$precision.json || exit 1; \
	done
	for preset in small medium large; do \
		PYTHONPATH=.:$$PYTHONPATH $(PYTHON) benchmarks/without.py $$preset --device cuda --write || exit 1; \
	done
	PYTHONPATH=.:$$PYTHONPATH $(PYTHON) scripts/make_table.py

# Rewrites the tables from the evidence under results/; no model is loaded.
table: $(INSTALLED)
	$(BIN)/python scripts/make_table.py

# Also what the commands of docs/TUTORIAL.md print, by typing them.
docs: table
	$(BIN)/python scripts/tutorial.py

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
