"""Makes calls with OpenAI's SDK through the service at the URL given, and prints what came of them.

A test reads the JSON object that is printed.
"""

import asyncio
import json
import sys

import openai

BASE = sys.argv[1]
OPTIONS = {"api_key": "sk-python-openai", "max_retries": 2, "timeout": 30}
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


def ask(client, model="gpt-4o", **more):
    return client.chat.completions.create(model=model, messages=QUESTION, max_tokens=100, **more)


def error_of(call):
    """What a call fails with, as a program sees it."""
    try:
        call()
    except openai.APIStatusError as error:
        return {
            "class": type(error).__name__,
            "status": error.status_code,
            "code": error.code,
            "type": error.type,
            "message": error.message,
        }
    return None


def plain(client):
    answer = ask(client, extra_headers={"x-throttle-class": "batch", "x-throttle-share": "a"})
    return {"text": answer.choices[0].message.content, "tokens": answer.usage.total_tokens}


def streamed(client):
    text, tokens = "", None
    for event in ask(client, stream=True, stream_options={"include_usage": True}):
        text += "".join(choice.delta.content or "" for choice in event.choices)
        tokens = event.usage.total_tokens if event.usage else tokens
    return {"text": text, "tokens": tokens}


async def at_once():
    async with openai.AsyncOpenAI(base_url=f"{BASE}/openai/v1", **OPTIONS) as client:
        answers = await asyncio.gather(*(ask(client) for _ in range(20)))
    return [answer.choices[0].message.content for answer in answers]


def main():
    client = openai.OpenAI(base_url=f"{BASE}/openai/v1", **OPTIONS)
    results = {"plain": plain(client), "streamed": streamed(client)}
    results["models"] = [model.id for model in client.models.list()]
    results["embedding"] = client.embeddings.create(model="gpt-4o", input="a").data[0].embedding
    results["at_once"] = asyncio.run(at_once())
    # The bucket admits one call an hour.
    ask(client, model="hourly")
    results["full"] = error_of(lambda: ask(client, model="hourly"))
    # The bucket admits one call a second: the SDK comes again when it is told to.
    ask(client, model="secondly")
    results["retried"] = ask(client, model="secondly").choices[0].message.content
    results["unknown"] = error_of(lambda: ask(client, model="no-such-model"))
    nowhere = openai.OpenAI(base_url=f"{BASE}/nowhere/v1", **OPTIONS)
    results["nowhere"] = error_of(lambda: ask(nowhere))
    print(json.dumps(results))


main()
