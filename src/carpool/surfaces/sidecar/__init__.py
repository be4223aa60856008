"""The sidecar: a server that answers the Gemini API for whatever speaks HTTP. It knows no client of carpool."""
