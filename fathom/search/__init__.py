"""Search: own documents and the web, passages for a prompt, citations that hold."""
