# Aliases only: logic is in xtask/, bench/ and e2e/.
.DEFAULT_GOAL := help
.PHONY: help demo test bench images fmt lint doc clean

# What `make bench` and `make images` pass on, such as ARGS="--quick".
ARGS ?=

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: ## build, and run a meshed sample application on this machine until Ctrl-C
	@xtask/demo

test: ## build once, then every test, the cheap ones first (as root or with sudo)
	@xtask/os-packages build test
	@cargo xtask test

bench: ## measure the proxy beside its peers (ARGS="--quick" for a first look)
	@bench/run $(ARGS)

images: ## container images, without Docker (ARGS="REGISTRY FOLDER")
	@xtask/os-packages build
	@cargo xtask image $(ARGS)

fmt: ## format
	@cargo fmt --all

lint: ## formatting, clippy, the laws of the project, and the docs; nothing is changed
	@xtask/lint

doc: ## the API documentation of every crate
	@cargo doc --workspace --no-deps --document-private-items

clean: ## remove everything that was built
	@cargo clean
