// The service worker: keeps the page itself (never a chat, never an answer of the API) so that it opens at once and also
// says something sensible while the server is down. The network always comes first: a new version is never hidden.

const CACHE = "fathom-shell-1";
const SHELL = ["/static/app.webmanifest", "/static/icons/192.png"];

self.addEventListener("install", (event) => event.waitUntil(keepShell()));

self.addEventListener("activate", (event) => event.waitUntil(forgetOthers()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  const isShell = request.method === "GET" && url.origin === location.origin && (url.pathname === "/" || url.pathname.startsWith("/static/"));
  if (isShell) event.respondWith(networkFirst(request));
});

// The page names all it needs: its own links and scripts.
async function keepShell() {
  const cache = await caches.open(CACHE);
  const page = await fetch("/");
  const html = await page.clone().text();
  await cache.put("/", page);
  const named = [...html.matchAll(/(?:href|src)="(\/static\/[^"]+)"/g)].map((match) => match[1]);
  await cache.addAll([...new Set([...named, ...SHELL])]);
  await self.skipWaiting();
}

async function forgetOthers() {
  for (const name of await caches.keys()) if (name !== CACHE) await caches.delete(name);
  await self.clients.claim();
}

async function networkFirst(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: request.mode === "navigate" });
    if (kept) return kept;
    throw error;
  }
}
