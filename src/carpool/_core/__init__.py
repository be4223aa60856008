"""The pure engine: told what happened and what time it is, it answers with what to write down and what to do."""
