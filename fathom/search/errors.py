"""What can go wrong between a question and its sources."""


class SearchError(Exception):
    """Base class: a message that says what failed and what to do next."""


class FetchError(SearchError):
    """A page could not be read: refused by its server, too slow, of a kind that is not text."""


class BlockedAddressError(FetchError):
    """A URL that Fathom does not open: not http(s), ambiguous, or an address that is not of the public internet."""


class ExtractionError(SearchError):
    """No text could be taken out of a document within the limits of time and memory."""


class IndexingError(SearchError):
    """Something that cannot be added to, or found in, the index of own documents."""


class EngineError(SearchError):
    """A search engine that did not answer as it should."""
