"""Where records go: a twin in memory, and a slot on disk. Each implements ``carpool._ports.Store``."""
