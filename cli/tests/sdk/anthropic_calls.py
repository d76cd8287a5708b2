"""Makes calls with Anthropic's SDK through the service at the URL given, and prints what came of
them.

A test reads the JSON object that is printed.
"""

import json
import sys

import anthropic

QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


def asked(model="claude-sonnet-4-5"):
    return {"model": model, "max_tokens": 100, "messages": QUESTION}


def plain(client):
    headers = {"x-throttle-class": "batch"}
    answer = client.messages.create(**asked(), extra_headers=headers)
    return {"text": answer.content[0].text, "tokens": answer.usage.output_tokens}


def streamed(client):
    with client.messages.stream(**asked()) as stream:
        text = "".join(stream.text_stream)
        tokens = stream.get_final_message().usage.output_tokens
    return {"text": text, "tokens": tokens}


def error_of(call):
    """What a call fails with, as a program sees it."""
    try:
        call()
    except anthropic.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        return {
            "class": type(error).__name__,
            "status": error.status_code,
            "type": body.get("error", {}).get("type"),
            "message": str(error),
        }
    return None


def main():
    client = anthropic.Anthropic(
        base_url=f"{sys.argv[1]}/anthropic", api_key="sk-python-anthropic", max_retries=2, timeout=30
    )
    results = {"plain": plain(client), "streamed": streamed(client)}
    # The bucket admits one call an hour.
    client.messages.create(**asked("hourly"))
    results["full"] = error_of(lambda: client.messages.create(**asked("hourly")))
    results["unknown"] = error_of(lambda: client.messages.create(**asked("no-such-model")))
    print(json.dumps(results))


main()
