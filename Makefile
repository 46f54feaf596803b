# make demo    the main job, end to end, on this machine
# make test    ruff, mypy --strict and pytest
# Both create .venv from Python 3.11 with the pins of constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-vllm lint style types pytest docs release check-vulnerabilities soak clean bench-model bench-receive bench-index bench-retrain bench-train bench-scale bench-ask profile-study study-arms study-courses train-demo evaluate-films
.DEFAULT_GOAL := help

help:
	@grep -E '^# make' Makefile | sed 's/^# //'

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt --upgrade pip setuptools wheel
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

# two films of a person beside the synthetic pair, where they are at hand
PEOPLE ?= ../shared/data/studies/HAN-2d1f1ee8
demo: $(VENV)/.installed
	$(BIN)/dicom-node demo --out demo-out $(if $(wildcard $(PEOPLE)),--beside $(PEOPLE))

lint: style types

style: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# the types are checked beside the tests: mypy keeps one core busy for minutes; where either fails, the whole does
test: $(VENV)/.installed-dev
	scripts/install_test_tools.sh
	$(MAKE) style
	$(MAKE) -j 2 types pytest

# a node's processes are started some hundred times: compiled once (where the environment forbids it too)
pytest: export PYTHONDONTWRITEBYTECODE :=
pytest: $(VENV)/.installed-dev
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder --durations=10 -m 'not soak'

# make test-vllm   the model server against the real vLLM, in an environment of its own (3.5 GB, once); RECORD=1 writes its answers
test-vllm: $(VENV)/.installed-dev
	scripts/test_vllm.sh

# make bench-model   the question battery by the engine, one at a time, and the floor
bench-model: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/bench_model.py
	$(BIN)/python benchmarks/bench_study.py
	$(BIN)/python benchmarks/bench_courses.py

# make profile-study   where the CPU of a study goes: a table and a flame graph in artefacts/profile
profile-study: $(VENV)/.installed-dev
	PYTHONPATH=. $(BIN)/python -m benchmarks.profile_study

# make bench-receive   the receiver beside DCMTK storescp and Orthanc, in one run
bench-receive: $(VENV)/.installed-dev
	PYTHONPATH=. $(BIN)/python benchmarks/bench_receive.py --write

# make bench-retrain   a study's seconds alone, beside a training that makes way, and beside one that does not
bench-retrain: $(VENV)/.installed-dev
	PYTHONPATH=. $(BIN)/python -m benchmarks.bench_retrain

# make bench-index   prior look-up and insertion at 10,000 and 1,000,000 studies, SQLite and PostgreSQL
bench-index: $(VENV)/.installed-dev
	PYTHONPATH=. $(BIN)/python benchmarks/bench_index.py

# make bench-scale   studies per minute with 1, 2 and 4 workers and a model of fixed time; the queue's cost per job
bench-scale: $(VENV)/.installed-dev
	PYTHONPATH=. $(BIN)/python benchmarks/bench_scale.py

# make bench-ask   a closed question to a study, from its words to the kept answer
bench-ask: $(VENV)/.installed-dev
	PYTHONPATH=. $(BIN)/python benchmarks/bench_ask.py

# make bench-train   samples for each second, memory and where the time goes in the training loop
bench-train: $(VENV)/.installed-dev
	PYTHONPATH=. $(BIN)/python benchmarks/bench_train.py --write

# make study-arms ARMS=FOLDER   what each stream of training data adds, three seeds, on phantoms; goes on where it stopped
ARMS ?= runs/arms
study-arms: $(VENV)/.installed-dev
	$(BIN)/python -m training.phantom.cache $(ARMS)/cache --pairs 12000 --size 112
	$(BIN)/python -m training.arms.run run $(ARMS) --cache $(ARMS)/cache
	$(BIN)/python -m training.arms.run table $(ARMS) --doc docs/arms-study.md

# make study-courses COURSES=FOLDER   the arms with futures that can be known and a real expert; goes on where it stopped
COURSES ?= runs/courses
study-courses: $(VENV)/.installed-dev
	$(BIN)/python -m training.arms.courses run $(COURSES)
	$(BIN)/python -m training.arms.courses table $(COURSES) --doc docs/arms-study.md

# make docs    the documentation as a site in build/site; fails on a broken link
docs: $(VENV)/.installed-dev
	$(BIN)/zensical build --strict --clean

# make release    wheel, source distribution and SBOM (CycloneDX) in build/release; the licences of all dependencies
release: $(VENV)/.installed-dev
	rm -rf build/release && mkdir -p build/release
	$(BIN)/python scripts/licences.py > build/release/licences.txt
	git archive --prefix=source/ HEAD | tar -x -C build/release
	cd build/release/source && ../../../$(BIN)/python -m build --no-isolation --outdir ..
	rm -rf build/release/source
	test -x build/release-tools/bin/cyclonedx-py || ($(PYTHON) -m venv build/release-tools && build/release-tools/bin/pip install -q cyclonedx-bom==7.5.0)
	$(PYTHON) -m venv build/release/installed
	build/release/installed/bin/pip install -q -c constraints.txt build/release/*.whl
	build/release-tools/bin/cyclonedx-py environment --output-file build/release/sbom.cdx.json build/release/installed
	rm -rf build/release/installed

# make check-vulnerabilities    the pinned versions against the public list of known vulnerabilities (needs the network)
check-vulnerabilities: $(VENV)/.installed-dev
	test -x build/release-tools/bin/pip-audit || ($(PYTHON) -m venv build/release-tools && build/release-tools/bin/pip install -q pip-audit==2.10.1)
	build/release-tools/bin/pip-audit --requirement constraints.txt --no-deps

# make soak    the long tests: a hundred kills at every stage, two studies a second for ten minutes, and others
soak: $(VENV)/.installed-dev
	$(BIN)/pytest -m soak

# make evaluate-films   the demonstration model on films of people: the tables of docs/demonstration-model.md; goes on where it stopped
SERIES ?= ../shared/data/nih_series
FILMS_OUT ?= runs/films
evaluate-films: $(VENV)/.installed-dev
	@test -d $(SERIES) || { echo "$(SERIES) is not there: name the folder with SERIES=FOLDER"; exit 1; }
	$(BIN)/python -m training.films.evaluate demo --series $(SERIES) --out $(FILMS_OUT)

clean:
	rm -rf $(VENV) demo-out build *.egg-info

# make train-demo   the demonstration model from nothing into runs/demo, on two cores about two hours; goes on where it stopped
OUT ?= runs/demo
train-demo: $(VENV)/.installed-dev
	scripts/train_demo.sh $(OUT)
