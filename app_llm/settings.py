"""Everything that can be set about the model service, from the environment (`PHAROS_LLM_…`) or `.env`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app_llm.graphs.types import Backend


class Settings(BaseSettings):
    """Built once, in `app_llm/__main__.py`, and passed in. A 0 or "auto" is chosen for the machine (hardware.py)."""

    model_config = SettingsConfigDict(env_prefix="PHAROS_LLM_", env_file=".env", extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="Address the model service listens on.")
    port: int = Field(8080, ge=1, le=65535, description="Port the model service listens on.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Least severity logged.")
    shutdown_grace_seconds: int = Field(20, ge=0, description="Time running prompts have to finish on SIGTERM.")

    engine: Literal["vllm", "simulated"] = Field("vllm", description="'simulated' makes up tokens, for load tests.")
    model: str = Field(
        "volumes/models/SmolLM2-135M-Instruct", description="Generator: a local folder or a Hugging Face id."
    )
    dtype: str = Field("auto", description="auto, float32, bfloat16 or float16.")
    context_tokens: int = Field(4096, ge=0, description="Context window; 0 takes the model's own.")
    max_sequences: int = Field(0, ge=0, description="Prompts generated at the same time; 0: 32 on CPU, 256 on GPU.")
    threads: int = Field(0, ge=0, description="CPU threads of each model; 0: one per core this process may use.")
    kv_cache_gib: float = Field(0, ge=0, description="KV cache on CPU, in GiB; 0: a tenth of the memory, 1 to 16.")
    gpu_memory_fraction: float = Field(0.85, gt=0, le=1, description="Share of the GPU's memory vLLM may take.")
    compile: Literal["auto", "yes", "no"] = Field(
        "auto", description="torch.compile and CUDA graphs: slower start, faster tokens. auto: only on a GPU."
    )
    served_generate_prompts: int = Field(4096, ge=1, description="Prompts held at once; beyond it 503.")

    encoder: Literal["sentence-transformers", "hash"] = Field(
        "sentence-transformers", description="'hash' makes vectors of hashed words, for load tests."
    )
    encoder_model: str = Field(
        "volumes/models/all-MiniLM-L6-v2", description="Encoder: a local folder or a Hugging Face id."
    )
    encoder_backend: Backend = Field(
        "torch", description="torch, onnx, onnx-int8, openvino or openvino-int8; all but torch on the CPU only."
    )
    encoder_device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    encoder_batch_texts: int = Field(16, ge=1, description="Texts per forward pass; 256 suits a GPU.")
    encoder_merge_texts: int = Field(64, ge=1, description="Most texts of waiting calls merged; 512 suits a GPU.")
    encoder_queue_calls: int = Field(1024, ge=1, description="Calls that may wait for the encoder; beyond it 503.")

    reranker: Literal["cross-encoder", "overlap"] = Field(
        "cross-encoder", description="'overlap' scores by shared words, for load tests."
    )
    reranker_model: str = Field(
        "", description="Cross-encoder that orders passages again: a local folder or a Hugging Face id; empty: none."
    )
    reranker_backend: Backend = Field(
        "torch", description="torch, onnx, onnx-int8, openvino or openvino-int8; all but torch on the CPU only."
    )
    reranker_device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    reranker_batch_pairs: int = Field(16, ge=1, description="Pairs per forward pass; 256 suits a GPU.")
    reranker_merge_pairs: int = Field(64, ge=1, description="Most pairs of waiting calls merged; 512 suits a GPU.")
    reranker_queue_calls: int = Field(1024, ge=1, description="Calls that may wait for the reranker; beyond it 503.")

    simulated_first_token_seconds: float = Field(0.05, ge=0, description="Simulated time to first token.")
    simulated_token_seconds: float = Field(0.01, ge=0, description="Simulated time between tokens.")
    simulated_answer_tokens: int = Field(64, ge=1, description="Simulated answer length, at most max_tokens.")
    simulated_sequences: int = Field(256, ge=1, description="Simulated prompts at the same time; others wait.")
    simulated_failure_rate: float = Field(0.0, ge=0, le=1, description="Share of prompts that fail half-way.")
    simulated_dimension: int = Field(384, ge=2, description="Dimension of the hash encoder's vectors.")

    @model_validator(mode="after")
    def _graphs_run_on_the_cpu(self) -> Settings:
        for model in ("encoder", "reranker"):
            backend, device = getattr(self, f"{model}_backend"), getattr(self, f"{model}_device")
            if backend != "torch" and device not in ("auto", "cpu"):
                raise ValueError(
                    f"the {model}'s backend {backend} runs on the CPU, not on {device}; on a GPU use torch"
                )
        return self
