"""The loop between the pure engine and the ports: inbox, step, commit, act; and the futures of those who await."""
