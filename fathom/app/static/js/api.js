// The HTTP API of the same origin, in DeepSeek's dialect. The only module that makes requests.

import { readEvents } from "./sse.js";

const KEY = "fathom.key";

/** An answer that could not be given; `status` is the HTTP status, 0 when the server was not reached. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function rememberKey(key) {
  sessionStorage.setItem(KEY, key);
}

function headers() {
  const key = sessionStorage.getItem(KEY);
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function request(path, options = {}) {
  try {
    return await fetch(path, { ...options, headers: headers() });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("", 0);
  }
}

async function failure(response) {
  const body = await response.json().catch(() => null);
  return new ApiError(body?.error?.message ?? "", response.status);
}

/** How the server is: `{ready, detail}`; `detail` is the server's own report, null when it could not be reached. */
export async function health() {
  try {
    const response = await request("/health", { cache: "no-store" });
    return { ready: response.ok, detail: await response.json().catch(() => ({})) };
  } catch (error) {
    if (error instanceof ApiError) return { ready: false, detail: null };
    throw error;
  }
}

/** The models that can be asked, as the API lists them. */
export async function models() {
  const response = await request("/models");
  if (!response.ok) throw await failure(response);
  return (await response.json()).data;
}

/**
 * Asks for an answer and yields its parts as they arrive:
 * `{thought}`, `{text}`, `{finish}` (the finish reason) and `{usage}`.
 * Throws ApiError for a refusal and for an error in mid-stream; a stream that ends without `[DONE]` is an error too.
 */
export async function* complete(body, signal) {
  const payload = JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } });
  const response = await request("/chat/completions", { method: "POST", body: payload, signal });
  if (!response.ok) throw await failure(response);
  try {
    for await (const data of readEvents(response)) {
      if (data === "[DONE]") return;
      yield* parts(JSON.parse(data));
    }
  } catch (error) {
    if (error instanceof TypeError) throw new ApiError("", 0);
    throw error;
  }
  throw new ApiError("", 0);
}

function* parts(chunk) {
  if (chunk.error) throw new ApiError(chunk.error.message ?? "", 500);
  const choice = chunk.choices?.[0];
  if (choice?.delta?.reasoning_content) yield { thought: choice.delta.reasoning_content };
  if (choice?.delta?.content) yield { text: choice.delta.content };
  if (choice?.finish_reason) yield { finish: choice.finish_reason };
  if (chunk.usage) yield { usage: chunk.usage };
}
