"""The Gemini Developer API behind the Provider port: requests to bytes, bytes to rows, and the calls in between."""
