# Everything a fresh Debian with Go and make needs is fetched by the targets themselves.
GO ?= go
BIN := bin/innertun

.PHONY: build run test lint unit integration fuzz bench microbench setup clean

build: ## the binary, bin/innertun
	@mkdir -p bin
	$(GO) build -o $(BIN) ./cmd/innertun

run: build ## the two-host world inside the process: needs no privileges and no network
	$(BIN) demo $(ARGS)

test: ## formatting, vet, staticcheck, unit tests with the race detector, integration tests (as root)
	@.ci/test all

lint: ## gofmt, go vet, staticcheck, go mod tidy -diff
	@.ci/test lint

unit: ## unit tests only, with the race detector
	@.ci/test unit

integration: ## tests over network namespaces (root)
	@.ci/test integration

fuzz: ## every fuzz target, FUZZTIME each (10s)
	@.ci/test fuzz

bench: ## a table of throughput, connection rate and memory, beside the kernel's own TCP (root)
	@.ci/test bench

microbench: ## the packages' own benchmarks
	@.ci/test microbench

setup: ## the tools the tests use (apt-get, root)
	@.ci/setup

clean:
	rm -rf bin artifacts
