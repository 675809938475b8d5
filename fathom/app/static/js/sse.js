// Reads a stream of server-sent events (WHATWG HTML, section 9.2) from a fetch response: data only, as the API sends it.

/** Splits text that arrives in arbitrary pieces into the `data` of each event; comments and other fields are passed over. */
export class EventParser {
  #line = "";
  #data = [];
  #afterReturn = false;

  /** Takes the next piece of text; returns the data of the events it completes, in order. */
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
      if (this.#data.length) events.push(this.#data.join("\n"));
      this.#data = [];
    } else if (line.startsWith("data:")) {
      this.#data.push(line.slice(line[5] === " " ? 6 : 5));
    }
  }
}

/** The data of each event of `response`, as they arrive. Characters cut between two packets are put together. */
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
    // Leaving early must close the connection, so that the engine frees the request's memory.
    reader.cancel().catch(() => {});
  }
}
