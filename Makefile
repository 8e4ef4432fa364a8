# Everything that is done with this repository. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help test toolchain prepare lint build unit e2e simulate demo bench scale audit install fmt clean

CARGO ?= cargo
# One selection of packages for all steps: another one may select other features of a shared
# dependency, and build it twice.
SELECTED := --workspace --locked
TEST := $(CARGO) test --quiet $(SELECTED)
TARGET := $(or $(CARGO_TARGET_DIR),target)
STORE ?= file
ONCE ?=
SIZE ?= full
# For `simulate`: first seed, number of schedules, and, to see less of a failure, most steps of each.
SEED ?= 1
SCHEDULES ?= 10000
STEPS ?=
SIZES ?= 1000000 3000000 10000000
# For `install`. PROGRAM: one that is built already.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR ?=
PROGRAM ?=

step = @printf '\n== %s\n' '$(1)'

help: ## Show this list
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-8s %s\n", $$1, $$2 }'
	@echo 'Settings: demo STORE=file|hdfs ONCE=1, bench SIZE=full|quick, e2e TEST_NAME=part-of-a-name,'
	@echo '          simulate SEED=1 SCHEDULES=10000 STEPS=n'

test: ## Check formatting and lints, run all tests; end to end on real HDFS
test: toolchain
	@# The tools come over the network while the processors check. Without a number: with one, Cargo would
	@# take it for itself.
	@$(MAKE) --no-print-directory --jobs --output-sync=target prepare lint
	@$(MAKE) --no-print-directory unit e2e
	$(call step,all passed)

toolchain:
	@CARGO='$(CARGO)' tests/toolchain

prepare:
	$(call step,tools for the tests)
	@tests/prepare fuse3 java maven sqlite3 rsync kdc kadmin kinit hadoop pjdfstest fsx duckdb

lint: toolchain
	$(call step,formatting)
	@$(CARGO) fmt --all -- --check
	$(call step,lints)
	@$(CARGO) clippy --quiet $(SELECTED) --all-targets -- -D warnings

# All at once, so that nobody waits for one after the other, and the demo, which is tested; that the other
# examples compile, the lints have shown.
build: toolchain
	$(call step,building the tests (a few minutes the first time))
	@$(CARGO) build --quiet $(SELECTED) --lib --bins --tests --example demo

unit: build
	$(call step,unit tests)
	@$(TEST) --lib --bins
	$(call step,examples in the documentation)
	@$(TEST) --doc

e2e: build ## Run the end-to-end tests alone
	$(call step,end to end)
	@$(TEST) --test e2e -- $(TEST_NAME)

simulate: toolchain ## Run ten thousand schedules of gateway, workers and store; SEED= SCHEDULES= STEPS=
	$(call step,simulation)
	@SPRINGHOUSE_SIMULATION_SEED='$(SEED)' SPRINGHOUSE_SIMULATION_SCHEDULES='$(SCHEDULES)' \
		SPRINGHOUSE_SIMULATION_STEPS='$(STEPS)' \
		$(TEST) --lib -- --exact simulation::tests::promises_hold_in_every_schedule --nocapture

demo: toolchain ## See it work: SQL over segments in a store, through the gateway
	@if [ '$(STORE)' = hdfs ]; then tests/prepare fuse3 java maven; fi
	$(call step,building (a few minutes the first time))
	@$(CARGO) build --quiet --release --locked --bins --example demo
	@exec '$(TARGET)/release/examples/demo' --store '$(STORE)' $(if $(ONCE),--once)

bench: toolchain ## Measure it end to end on real HDFS; prints a table in Markdown
	@tests/prepare fuse3 java maven
	$(call step,building (a few minutes the first time))
	@$(CARGO) build --quiet --release --locked --workspace --bins --example bench --example hdfs_raw
	@'$(TARGET)/release/examples/bench' --size '$(SIZE)'

scale: toolchain ## Measure the registry with 1, 3 and 10 million segments; SIZES='1000000 …'
	$(call step,building)
	@$(CARGO) build --quiet --release --locked --package springhouse-gateway --example scale
	@'$(TARGET)/release/examples/scale' $(SIZES)

audit: ## Check licences, advisories and sources of dependencies
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --locked check; \
	else echo 'make audit needs cargo-deny: cargo install --locked cargo-deny' >&2; exit 1; fi

install: ## Install program, mount(8) helper, systemd unit, samples, manuals, completions; PREFIX=/usr/local DESTDIR=
install: $(if $(PROGRAM),,toolchain)
	@$(if $(PROGRAM),,$(CARGO) build --quiet --release --locked --bin springhouse)
	@install -D -m 755 '$(or $(PROGRAM),$(TARGET)/release/springhouse)' '$(DESTDIR)$(PREFIX)/bin/springhouse'
	@# mount(8) looks for helpers in /sbin and nowhere else.
	@install -d '$(DESTDIR)/sbin' && ln -sfn '$(PREFIX)/bin/springhouse' '$(DESTDIR)/sbin/mount.springhouse'
	@install -d '$(DESTDIR)$(PREFIX)/lib/systemd/system' '$(DESTDIR)$(SYSCONFDIR)/springhouse'
	@sed 's|/usr/local|$(PREFIX)|g' 'config/springhouse-mount@.service' \
		> '$(DESTDIR)$(PREFIX)/lib/systemd/system/springhouse-mount@.service'
	@# What somebody edited stays.
	@for role in config/*.toml; do to="$(DESTDIR)$(SYSCONFDIR)/springhouse/$${role##*/}"; \
		[ -e "$$to" ] || install -m 644 "$$role" "$$to"; done
	@share='$(DESTDIR)$(PREFIX)/share'; program='$(DESTDIR)$(PREFIX)/bin/springhouse'; \
		install -d "$$share"/bash-completion/completions "$$share"/zsh/site-functions \
			"$$share"/fish/vendor_completions.d; \
		"$$program" completions bash > "$$share/bash-completion/completions/springhouse"; \
		"$$program" completions zsh > "$$share/zsh/site-functions/_springhouse"; \
		"$$program" completions fish > "$$share/fish/vendor_completions.d/springhouse.fish"; \
		"$$program" manual --dir "$$share/man/man1"
	@install -d '$(DESTDIR)$(PREFIX)/share/doc/springhouse'
	@install -m 644 docs/*.md '$(DESTDIR)$(PREFIX)/share/doc/springhouse'

fmt: ## Format the sources
	@$(CARGO) fmt --all

clean: ## Remove what was built
	@$(CARGO) clean
