// The HTTP API of the same origin: the app's own routes (docs/app.md) and the server's health. The only module that makes
// requests.

import { readEvents } from "./sse.js";

const ROOT = "/app/api/";
const KEY = "fathom.key";

let csrf = "";

/** A request that was refused or failed; `status` is the HTTP status, 0 when the server was not reached; `code` as the server names it. */
export class ApiError extends Error {
  constructor(message, status, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function rememberKey(key) {
  sessionStorage.setItem(KEY, key);
}

function headers(extra = {}) {
  const key = sessionStorage.getItem(KEY);
  return { ...extra, "X-Fathom-CSRF": csrf, ...(key && { Authorization: `Bearer ${key}` }) };
}

async function send(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("", 0);
  }
}

async function failure(response) {
  const body = await response.json().catch(() => null);
  return new ApiError(body?.error?.message ?? "", response.status, body?.error?.code ?? null);
}

async function request(method, path, { json, form, signal, accept } = {}, again = true) {
  const body = form ?? (json === undefined ? undefined : JSON.stringify(json));
  const type = { ...(json !== undefined && { "Content-Type": "application/json" }), ...(accept && { Accept: accept }) };
  const response = await send(ROOT + path, { method, body, signal, headers: headers(type), cache: "no-store" });
  if (response.ok) return response;
  const error = await failure(response);
  // The token is as old as the session: a new one, once.
  if (error.code === "csrf" && again) {
    await session();
    return request(method, path, { json, form, signal, accept }, false);
  }
  throw error;
}

async function call(method, path, options) {
  const response = await request(method, path, options);
  return response.status === 204 ? null : response.json();
}

const part = encodeURIComponent;

function query(values) {
  const given = Object.entries(values).filter(([, value]) => value != null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

/** How the server is: `{ready, detail}`; `detail` is the server's own report, null when it could not be reached. */
export async function health() {
  try {
    const response = await send("/health", { cache: "no-store" });
    return { ready: response.ok, detail: await response.json().catch(() => ({})) };
  } catch (error) {
    if (error instanceof ApiError) return { ready: false, detail: null };
    throw error;
  }
}

export async function session() {
  const answer = await call("GET", "session");
  csrf = answer.csrf ?? "";
  return answer;
}

export const login = (name, password) => call("POST", "login", { json: { name, password } });
export const logout = (everywhere) => call("POST", "logout", { json: { everywhere } });
export const changePassword = (old, fresh) => call("POST", "password", { json: { old, new: fresh } });
export const saveSettings = (settings) => call("PATCH", "settings", { json: settings });

export const listChats = (values = {}) => call("GET", `chats${query(values)}`);
export const readChat = (id) => call("GET", `chats/${part(id)}`);
export const changeChat = (id, values) => call("PATCH", `chats/${part(id)}`, { json: values });
export const deleteChat = (id) => call("DELETE", `chats/${part(id)}`);
export const changeMessage = (chat, id, values) => call("PATCH", `chats/${part(chat)}/messages/${part(id)}`, { json: values });
export const forgetFile = (id) => call("DELETE", `files/${part(id)}`);
export const stopRun = (run) => call("POST", `runs/${part(run)}/stop`);
export const answerNow = (run) => call("POST", `runs/${part(run)}/answer-now`);
export const folders = () => call("GET", "folders");
/** The address at which a passage of an own document stands as a page. */
export const passagePage = (reference) => `${ROOT}documents/page${query({ passage: reference })}`;
export const passage = (reference) => call("GET", `documents${query({ passage: reference })}`);

export const shares = () => call("GET", "shares");
export const share = (chat, values) => call("POST", `chats/${part(chat)}/share`, { json: values });
export const unshare = (token) => call("DELETE", `shares/${part(token)}`);
export const shared = (token) => call("GET", `shared/${part(token)}`);

/** Prompts, memories and people are lists that grow, change and shrink alike. */
function collection(path, name) {
  return {
    list: async () => (await call("GET", path))[name],
    add: (values) => call("POST", path, { json: values }),
    change: (id, values) => call("PATCH", `${path}/${part(id)}`, { json: values }),
    remove: (id) => call("DELETE", `${path}/${part(id)}`),
  };
}

export const prompts = collection("prompts", "prompts");
export const memories = collection("memories", "memories");
export const people = collection("admin/users", "users");

/** A file that the server makes: `{name, blob}`. */
async function file(path) {
  const response = await request("GET", path);
  const name = response.headers.get("content-disposition")?.match(/filename\*=UTF-8''([^;]+)/)?.[1] ?? response.headers.get("content-disposition")?.match(/filename="([^"]+)"/)?.[1];
  return { name: name ? decodeURIComponent(name) : "fathom", blob: await response.blob() };
}

export const exportChat = (id, format) => file(`chats/${part(id)}/export${query({ format })}`);
export const exportAll = (format) => file(`export${query({ format })}`);

export function importChats(upload) {
  const form = new FormData();
  form.append("file", upload);
  return call("POST", "import", { form });
}

/** Sends a file for a question; `progress` is told the share that has gone. fetch does not tell, so the older way. */
export function uploadFile(upload, progress, signal, temporary = false) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    xhr.open("POST", `${ROOT}files`);
    for (const [name, value] of Object.entries(headers())) xhr.setRequestHeader(name, value);
    xhr.responseType = "json";
    xhr.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    xhr.onload = () => {
      if (xhr.status < 300) resolve(xhr.response);
      else reject(new ApiError(xhr.response?.error?.message ?? "", xhr.status, xhr.response?.error?.code));
    };
    xhr.onerror = () => reject(new ApiError("", 0));
    xhr.onabort = () => reject(new DOMException("", "AbortError"));
    signal.addEventListener("abort", () => xhr.abort());
    const form = new FormData();
    form.append("file", upload);
    if (temporary) form.append("temporary", "true");
    xhr.send(form);
  });
}

/** What happens in a run after the event numbered `after`: `{id, kind, data}` as they arrive, until the connection ends. */
export async function* runEvents(run, after, signal) {
  yield* events(await request("GET", `runs/${part(run)}/events${query({ after })}`, { signal }));
}

/**
 * Asks, in a new chat where `chat` is null. Gives what the server made of it, and what then happens in the run, over one
 * connection: the first word need not wait for a second request.
 */
export async function ask(chat, values, signal) {
  const path = chat ? `chats/${part(chat)}/answers` : "answers";
  const coming = events(await request("POST", path, { json: values, signal, accept: "text/event-stream" }));
  const { value } = await coming.next();
  if (value?.kind !== "begun") throw new ApiError("", 0);
  return { known: value.data, coming };
}

async function* events(response) {
  try {
    for await (const { id, event, data } of readEvents(response)) yield { id, kind: event, data: JSON.parse(data) };
  } catch (error) {
    if (error instanceof TypeError) throw new ApiError("", 0);
    throw error;
  }
}
