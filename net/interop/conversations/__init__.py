"""The scripts. Each function decorated with `@conversation` runs on both servers; `run_conversations.py` compares."""
