"""OpenAI's, LangChain's and LlamaIndex' clients of a running gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import openai
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

from tests.support.processes import Service

KEY = "none"


@contextmanager
def client(gateway: Service, key: str = KEY) -> Iterator[openai.OpenAI]:
    """OpenAI's. Errors are raised at once."""
    with (
        openai.DefaultHttpxClient(trust_env=False) as http,
        openai.OpenAI(base_url=gateway.url + "/v1", api_key=key, max_retries=0, http_client=http) as opened,
    ):
        yield opened


@asynccontextmanager
async def async_client(gateway: Service) -> AsyncIterator[openai.AsyncOpenAI]:
    """The same, asynchronous."""
    async with (
        openai.DefaultAsyncHttpxClient(trust_env=False) as http,
        openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=0, http_client=http) as opened,
    ):
        yield opened


class Frameworks:
    """LangChain's and LlamaIndex' classes. They never close their connections, so they are given ours."""

    def __init__(
        self, gateway: Service, http: openai.DefaultHttpxClient, async_http: openai.DefaultAsyncHttpxClient
    ) -> None:
        self._url = gateway.url + "/v1"
        self._http = http
        self._async_http = async_http

    def langchain_chat(self, model: str, **options: Any) -> ChatOpenAI:
        """LangChain's chat model."""
        return ChatOpenAI(model=model, **self._langchain(), **options)

    def langchain_embeddings(self, model: str) -> OpenAIEmbeddings:
        """LangChain's embeddings, told to send texts and not the ids of OpenAI's tokens, whose tokenizer it would
        download."""
        return OpenAIEmbeddings(model=model, check_embedding_ctx_length=False, **self._langchain())

    def llama_index_chat(self, model: str, **options: Any) -> OpenAILike:
        """LlamaIndex' chat model."""
        return OpenAILike(model=model, is_chat_model=True, **self._llama_index(), **options)

    def llama_index_embeddings(self, model: str) -> OpenAILikeEmbedding:
        """LlamaIndex' embeddings."""
        return OpenAILikeEmbedding(model_name=model, **self._llama_index())

    def _langchain(self) -> dict[str, Any]:
        clients = {"http_client": self._http, "http_async_client": self._async_http}
        return {"base_url": self._url, "api_key": KEY, "max_retries": 0, **clients}

    def _llama_index(self) -> dict[str, Any]:
        clients = {"http_client": self._http, "async_http_client": self._async_http}
        return {"api_base": self._url, "api_key": KEY, "max_retries": 0, **clients}


@asynccontextmanager
async def frameworks(gateway: Service) -> AsyncIterator[Frameworks]:
    """They, as clients of `gateway`."""
    with openai.DefaultHttpxClient(trust_env=False) as http:
        async with openai.DefaultAsyncHttpxClient(trust_env=False) as async_http:
            yield Frameworks(gateway, http, async_http)
