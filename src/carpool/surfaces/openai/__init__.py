"""OpenAI's shapes: their requests as Google's, Google's answers as theirs. All of it is pure."""
