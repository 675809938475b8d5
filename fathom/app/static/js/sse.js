// Reads a stream of server-sent events (WHATWG HTML, section 9.2) from a fetch response.

/** Splits text that arrives in arbitrary pieces into events `{id, event, data}`; comments and other fields are passed over. */
export class EventParser {
  #line = "";
  #data = [];
  #event = "";
  #id = "";
  #afterReturn = false;

  /** Takes the next piece of text; returns the events it completes, in order. */
  push(text) {
    const events = [];
    for (const piece of text.split(/(\r\n|\n|\r)/)) {
      if (piece === "\r\n" || piece === "\n" || piece === "\r") {
        // A line feed that follows a carriage return in the next piece belongs to the same line end.
        const continues = piece === "\n" && this.#afterReturn && this.#line === "";
        this.#afterReturn = piece === "\r";
        if (!continues) this.#endLine(events);
      } else if (piece) {
        this.#afterReturn = false;
        this.#line += piece;
      }
    }
    return events;
  }

  #endLine(events) {
    const line = this.#line;
    this.#line = "";
    if (line === "") {
      if (this.#data.length) events.push({ id: this.#id, event: this.#event || "message", data: this.#data.join("\n") });
      this.#data = [];
      this.#event = "";
      return;
    }
    const [, name, value] = line.match(/^([^:]*):? ?(.*)$/s);
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
    else if (name === "id") this.#id = value;
  }
}

/** The events of `response`, as they arrive. Characters cut between two packets are put together. */
export async function* readEvents(response) {
  const parser = new EventParser();
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      yield* parser.push(done ? decoder.decode() : decoder.decode(value, { stream: true }));
      if (done) return;
    }
  } finally {
    // Leaving early must close the connection.
    reader.cancel().catch(() => {});
  }
}
