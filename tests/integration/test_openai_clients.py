"""LangChain and LlamaIndex as clients: nothing but a base URL, a model's name and, for embeddings, one option."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import openai
import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from llama_index.core.llms import ChatMessage

from app_llm.simulated import HashEncoder
from tests.support import openai_clients
from tests.support.openai_clients import Frameworks
from tests.support.processes import Service

QUESTION = "How much did Norvane Foods agree to pay for Bellmarsh Dairy?"
TEXTS = ["Oil fell to 41 dollars.", "Rain in Karachi", "Who won?"]


@pytest.fixture
async def frameworks(gateway: Service) -> AsyncIterator[Frameworks]:
    async with openai_clients.frameworks(gateway) as opened:
        yield opened


def reference(gateway: Service, model: str, **options: object) -> str:
    """What OpenAI's own client gets."""
    with openai_clients.client(gateway) as client:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            **options,  # type: ignore[call-overload]
        )
        return str(answer.choices[0].message.content)


@pytest.mark.parametrize("model", ["simulated", "documents", "topic:business"])
async def test_langchain_chats(gateway: Service, frameworks: Frameworks, model: str) -> None:
    expected = reference(gateway, model, max_tokens=6)
    chat = frameworks.langchain_chat(model, max_tokens=6)
    whole = chat.invoke(QUESTION)
    assert whole.content == expected
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 6
    assert whole.response_metadata["finish_reason"] == "length"
    # That they come one by one is shown with a slow engine (test_streaming.py): here a gateway that reads late may have
    # the whole answer at once.
    chunks = list(chat.stream(QUESTION))
    assert "".join(str(chunk.content) for chunk in chunks) == expected
    assert (await chat.ainvoke(QUESTION)).content == expected
    assert "".join([str(chunk.content) async for chunk in chat.astream(QUESTION)]) == expected


def test_langchain_passes_its_options(frameworks: Frameworks) -> None:
    chat = frameworks.langchain_chat("simulated", temperature=0.7, top_p=0.9, seed=5, stop=["zz"])
    messages = [SystemMessage("Be brief."), HumanMessage([{"type": "text", "text": "Who won?"}])]
    other = frameworks.langchain_chat("simulated", temperature=0.7, top_p=0.9, seed=6, stop=["zz"])
    assert chat.invoke(messages).content != other.invoke(messages).content
    streamed = [chunk.usage_metadata for chunk in chat.stream(messages, stream_usage=True) if chunk.usage_metadata]
    assert streamed[-1]["output_tokens"] == 32


def test_langchain_sees_errors_as_openais(frameworks: Frameworks) -> None:
    with pytest.raises(openai.NotFoundError, match="topic:sports"):
        frameworks.langchain_chat("gpt-5").invoke(QUESTION)
    tools = frameworks.langchain_chat("simulated").bind_tools(
        [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    )
    with pytest.raises(openai.BadRequestError, match="tools: is not supported"):
        tools.invoke(QUESTION)


async def test_langchain_embeds(frameworks: Frameworks) -> None:
    expected = (await HashEncoder(384).encode(TEXTS)).vectors
    embeddings = frameworks.langchain_embeddings("hash")
    documents = await asyncio.to_thread(embeddings.embed_documents, TEXTS)
    np.testing.assert_array_equal(np.array(documents, np.float32), expected)
    np.testing.assert_array_equal(np.array(await embeddings.aembed_query(TEXTS[2]), np.float32), expected[2])


@pytest.mark.parametrize("model", ["simulated", "documents", "topic:business"])
async def test_llama_index_chats(gateway: Service, frameworks: Frameworks, model: str) -> None:
    expected = reference(gateway, model, max_tokens=6)
    llm = frameworks.llama_index_chat(model, max_tokens=6)
    messages = [ChatMessage(role="user", content=QUESTION)]
    assert (await asyncio.to_thread(llm.chat, messages)).message.content == expected
    assert (await asyncio.to_thread(llm.complete, QUESTION)).text == expected
    pieces = await asyncio.to_thread(lambda: [piece.delta or "" for piece in llm.stream_chat(messages)])
    assert "".join(pieces) == expected
    assert (await llm.achat(messages)).message.content == expected


async def test_llama_index_embeds(frameworks: Frameworks) -> None:
    expected = (await HashEncoder(384).encode(TEXTS)).vectors
    embeddings = frameworks.llama_index_embeddings("hash")
    batch = await asyncio.to_thread(embeddings.get_text_embedding_batch, TEXTS)
    np.testing.assert_array_equal(np.array(batch, np.float32), expected)
    np.testing.assert_array_equal(np.array(await embeddings.aget_query_embedding(TEXTS[2]), np.float32), expected[2])
