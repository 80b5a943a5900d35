# `make help` lists the targets. They take
#   STUDY=mine.yaml   another study than config.yaml: study, plan, export, unlock
#   CORES=8           so many cores, instead of all: study, plan, export, findings
#   FINDINGS=matrix   one of the studies of findings alone; of those without results the document
#                     stays as it is
# From another folder: make -f CHECKOUT/Makefile study; what it makes lies in that folder.
PYTHON ?= python3
HERE := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
VENV := $(HERE)/.venv
STUDY ?= config.yaml
CORES ?= all
# A study of the folder, or else of the checkout.
STUDY_FILE := $(shell [ -e '$(STUDY)' ] || [ ! -e '$(HERE)/$(STUDY)' ] || echo '$(HERE)/')$(STUDY)
SNAKEMAKE := $(VENV)/bin/snakemake --snakefile $(HERE)/Snakefile
# On a terminal, progress in one line that moves.
TOLD := $(VENV)/bin/python $(HERE)/workflow/scripts/run_on_terminal.py
ifneq ($(filter study plan export unlock,$(or $(MAKECMDGOALS),study)),)
  $(if $(shell [ -e '$(STUDY_FILE)' ] && echo 1),,$(error STUDY: expected a study file, found none ($(STUDY))))
endif
# A study file stands for itself; the default one is what Snakemake finds without being told.
CONFIG := $(if $(filter-out config.yaml,$(STUDY)),--configfile '$(STUDY_FILE)')

.PHONY: help env study plan export unlock findings test lint clean
.DELETE_ON_ERROR:

env: $(VENV)/.installed ## the environment only

$(VENV)/.installed: $(HERE)/requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is %d.%d" % v[:2])'
	@echo "making $(VENV) (some minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	@# pip compiles on one core: compiling on all takes a third off the installation.
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r $<
	-@$(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib
	@touch $@

study: env ## the study from nothing: environment, data, model, alignment, evaluation, report
	$(TOLD) $(SNAKEMAKE) --cores $(CORES) $(CONFIG)
	$(SNAKEMAKE) --report report.html $(CONFIG)

plan: env ## what that would run: jobs, steps, tokens, GPU memory, hours on 1 to 8 GPUs
	@echo "fetching data, models' configurations and tokenizers, and counting tokens (minutes, for all of BBQ)"
	@$(SNAKEMAKE) plan --cores $(CORES) --quiet all $(CONFIG)
	@cat results/$$($(VENV)/bin/python -c 'import sys, yaml; print(yaml.safe_load(open("$(STUDY_FILE)"))["study"])')/plan.txt
	@$(SNAKEMAKE) --dry-run --quiet rules $(CONFIG) 2>/dev/null

unlock: env ## after Snakemake was killed, before the next start
	$(SNAKEMAKE) --unlock $(CONFIG)

export: env ## answers and scores of every run, in the forms that other tools read
	$(SNAKEMAKE) export --cores $(CORES) $(CONFIG)

FINDINGS := matrix trajectory sizes mitigation tradeoff
findings: env ## docs/findings.md from five studies (hours; what is made stays)
	for study in $(FINDINGS); do \
		$(SNAKEMAKE) --cores $(CORES) --configfile $(HERE)/studies/$$study.yaml || exit; done
	$(VENV)/bin/python $(HERE)/docs/write_findings.py

# One process more than cores: tests that start whole studies often wait.
test: env ## every test
	$(VENV)/bin/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder \
		--durations 40

lint: env ## the checks of style
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/snakefmt --check .
	$(VENV)/bin/snakemake --lint

clean: ## removes results of all studies, and the report
	rm -rf results report.html .snakemake

# Of this file: each target with the text behind ##.
help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(HERE)/Makefile
