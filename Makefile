# `make help` lists the targets. What grows beyond a line or two lives in scripts/.

CLANG         ?= clang-19
CLANG_FORMAT  ?= clang-format-19
GOLANGCI_LINT ?= v2.15.0
HELM          ?= v3.22.0
BPF_CFLAGS    ?= -O2 -g -Wall -Werror -mcpu=v3
KERNEL        ?= 6.1
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# Packages with tests that need root: run one at a time, natively and, where cgroups matter, in the VM.
ROOT_PKGS := ./pkg/load ./pkg/record ./pkg/drill ./pkg/bench ./pkg/cgroupfs ./pkg/disk ./pkg/signal ./pkg/loader ./pkg/fallback ./pkg/actuator ./pkg/agent ./test/e2e ./test/bench

VM_PKGS ?= $(filter-out ./pkg/disk ./pkg/load ./pkg/record ./pkg/drill ./pkg/bench ./test/bench,$(ROOT_PKGS))
# About nothing that is another in the VM, and slow there: each allocation is profiled.
VM_SKIP ?= NothingIsAllocated

# Kernels of docs/insns.md.
INSNS_KERNELS ?= 5.10 6.1 6.12 6.18 newest

BIN := bin/ebpf-evict

export CLANG CLANG_FORMAT GOLANGCI_LINT HELM ROOT_PKGS
export BPF2GO_CC := $(CLANG)
export BPF2GO_CFLAGS := $(BPF_CFLAGS)
# Tests that start the program find it here.
export EBPF_EVICT_BIN := $(CURDIR)/$(BIN)

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/ebpf-evict (needs Go alone)
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN) ./cmd/ebpf-evict

# Of the image that `make image` makes: its name (the chart's default), and its time (that of the
# commit, so that the same sources give the same archive).
IMAGE             ?= localhost/ebpf-evict:latest
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

.PHONY: image
image: ## make bin/ebpf-evict-image.tar, an OCI archive for amd64 and arm64 (needs Go alone): IMAGE=name:tag
	$(MAKE) build GOARCH=amd64 BIN=bin/image/amd64/ebpf-evict
	$(MAKE) build GOARCH=arm64 BIN=bin/image/arm64/ebpf-evict
	go run ./deploy/image -o bin/ebpf-evict-image.tar -name '$(IMAGE)' -created $(SOURCE_DATE_EPOCH) \
		amd64=bin/image/amd64/ebpf-evict arm64=bin/image/arm64/ebpf-evict

# Of `make manifests`: values of the chart, as helm takes them.
HELM_FLAGS ?=

.PHONY: manifests
manifests: ## write the chart as plain YAML into bin/manifests.yaml: HELM_FLAGS='--set config.mode=enforce'
	@mkdir -p bin
	$$(scripts/helm.sh) template ebpf-evict deploy/helm/ebpf-evict --namespace kube-system --kube-version 1.34.0 $(HELM_FLAGS) >bin/manifests.yaml.new
	mv bin/manifests.yaml.new bin/manifests.yaml

.PHONY: generate
generate: ## compile bpf/ and generate gen/ (clang-19, llvm-19)
	go generate ./gen

.PHONY: verify-generate
verify-generate: ## fail if gen/ is not what bpf/ generates
	scripts/verify-generate.sh

.PHONY: fmt
fmt: ## format Go and C
	gofmt -l -w cmd gen pkg test
	find bpf -name '*.[ch]' ! -name 'vmlinux*.h' -exec $(CLANG_FORMAT) -i {} +

.PHONY: lint
lint: ## golangci-lint, clang-format, shellcheck, the Vagrantfile
	scripts/lint.sh

.PHONY: check-deploy
check-deploy: ## check dashboard, alert rules, systemd units and chart in deploy/
	scripts/check-deploy.sh

.PHONY: test
test: deps test-unit test-root test-vms ## everything but test-disk, test-kube and test-systemd: all packages, as root for real, and in VMs

.PHONY: test-unit
test-unit: ## packages whose tests need no root
	scripts/test.sh unit

.PHONY: test-root
test-root: build ## tests that load BPF programs and kill, as root (by sudo where needed)
	scripts/test.sh root

# Emulated guests have one CPU each, and their tests measure nothing of this machine. The scenes
# run on a new kernel, the packages on the one of Debian 12, what loads and kills on the oldest.
.PHONY: test-vms
test-vms: build ## in two VMs at once: packages on 6.1; scenes on 6.18, then what the oldest kernel is asked for
	scripts/at-once.sh \
		"make test-vm KERNEL=6.1 VM_PKGS='./pkg/cgroupfs ./pkg/signal ./pkg/loader ./pkg/fallback ./pkg/actuator ./pkg/agent'" \
		"make test-vm-packages KERNEL=6.18 VM_PKGS='./pkg/cgroupfs ./test/e2e' && make test-vm-packages KERNEL=5.10 VM_PKGS='./pkg/loader ./pkg/actuator'"

.PHONY: test-vm
test-vm: build test-vm-packages ## the root tests under pure cgroup v2 in qemu: KERNEL=5.10|6.1|6.12|6.18|newest VM_FLAGS='-env EBPF_EVICT_ROUNDS=50'
	go run ./test/vm -kernel $(KERNEL) -numa 1024,1024 -run NUMA -env EBPF_EVICT_NUMA_NODES=2 -- ./pkg/loader
	go run ./test/vm -kernel $(KERNEL) -append lockdown=confidentiality -bin $(BIN) -run Lockdown -env EBPF_EVICT_LOCKDOWN=1 -- ./test/e2e
	$(if $(filter 6.1,$(KERNEL)),go run ./test/vm -kernel $(KERNEL) -run 'Quota|Project' -- ./pkg/disk)

.PHONY: test-vm-packages
test-vm-packages: ## of these the packages VM_PKGS alone, with the bin/ebpf-evict that is there
	go run ./test/vm -kernel $(KERNEL) -bin $(BIN) -skip '$(VM_SKIP)' $(VM_FLAGS) -- $(VM_PKGS)

.PHONY: test-disk
test-disk: build ## disk scenes as root: a containerd of its own, on ext4 and xfs of its own
	scripts/test.sh disk

.PHONY: test-systemd
test-systemd: build ## the systemd units as they are shipped, as root, in a VM of Debian 12 (mmdebstrap, qemu)
	scripts/as-root.sh scripts/test-systemd.sh

.PHONY: test-kube
test-kube: build ## scenes on a real Kubernetes node, as root: builds a cluster (the first time 10 minutes, 8 GB of caches)
	scripts/test.sh kube

.PHONY: kernels
kernels: build ## what check finds on each kernel and here: docs/kernels.md (KERNELS='5.10 6.1': those anew)
	scripts/kernels.sh

.PHONY: insns
insns: ## count what the programs cost in instructions (qemu, no root) and write docs/insns.md
	go run ./test/insns $(INSNS_KERNELS)

.PHONY: insns-check
insns-check: ## fail if they cost over 5 % more than docs/insns.md says: KERNEL=5.10|6.1|6.12|6.18|newest
	go run ./test/insns -check $(KERNEL)

.PHONY: demo
demo: build ## evict a real memory hog and a real fork bomb on this machine (needs Go and root)
	scripts/as-root.sh $(BIN) demo

.PHONY: bench
bench: build ## measure on this machine (root, jq, 25 minutes): docs/bench/ and the README's table
	scripts/bench.sh

.PHONY: bench-disk
bench-disk: build ## measure evictions for disks and the disk process on this machine (root, 10 minutes): docs/bench/disk.md
	scripts/bench-disk.sh

.PHONY: bench-kube
bench-kube: ## kubelet and agent side by side on the node of test-kube (root, jq, 25 minutes): docs/bench/ and the README's second table
	scripts/bench-kube.sh

.PHONY: bench-vm
bench-vm: build ## two rounds of each of the same (5 minutes), into bin/ alone: inside the Vagrantfile's VM
	scripts/bench.sh quick

.PHONY: vectors
vectors: ## make test/upstream/testdata anew with the real kubelet's code (needs the Go proxy)
	scripts/vectors.sh

.PHONY: deps
deps: ## install the packages that tests and lint need (Debian), or name them
	scripts/deps.sh

.PHONY: clean
clean: ## remove what was built; downloaded VM kernels stay in the user's cache
	rm -rf bin
