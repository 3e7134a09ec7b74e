"""OpenAI-compatible HTTP API, many users at a time, metrics, a dashboard."""
