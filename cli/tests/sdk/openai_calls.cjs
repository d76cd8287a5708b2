// Makes calls with OpenAI's SDK for Node through the service at the URL given, and prints what came
// of them. A test reads the JSON object that is printed.

const OpenAI = require("openai");

const base = process.argv[2];
const options = { apiKey: "sk-node-openai", maxRetries: 2, timeout: 30_000 };
const messages = [{ role: "user", content: "Why is the sky blue?" }];

function ask(client, more = {}, request = {}) {
  return client.chat.completions.create(
    { model: "gpt-4o", messages, max_tokens: 100, ...more },
    request,
  );
}

// What a call fails with, as a program sees it.
async function errorOf(call) {
  try {
    await call();
  } catch (error) {
    const { status, code, type, message } = error;
    return { class: error.constructor.name, status, code, type, message };
  }
  return null;
}

async function plain(client) {
  const headers = { "x-throttle-class": "batch", "x-throttle-share": "a" };
  const answer = await ask(client, {}, { headers });
  return { text: answer.choices[0].message.content, tokens: answer.usage.total_tokens };
}

async function streamed(client) {
  let [text, tokens] = ["", null];
  const stream = await ask(client, { stream: true, stream_options: { include_usage: true } });
  for await (const event of stream) {
    text += event.choices.map((choice) => choice.delta.content ?? "").join("");
    tokens = event.usage?.total_tokens ?? tokens;
  }
  return { text, tokens };
}

async function main() {
  const client = new OpenAI({ baseURL: `${base}/openai/v1`, ...options });
  const results = { plain: await plain(client), streamed: await streamed(client) };
  const answers = await Promise.all(Array.from({ length: 20 }, () => ask(client)));
  results.at_once = answers.map((answer) => answer.choices[0].message.content);
  // The bucket admits one call an hour.
  await ask(client, { model: "hourly" });
  results.full = await errorOf(() => ask(client, { model: "hourly" }));
  results.unknown = await errorOf(() => ask(client, { model: "no-such-model" }));
  const nowhere = new OpenAI({ baseURL: `${base}/nowhere/v1`, ...options });
  results.nowhere = await errorOf(() => ask(nowhere));
  console.log(JSON.stringify(results));
}

main();
