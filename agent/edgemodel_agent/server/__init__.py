"""The model server: one process a model, started and supervised by the agent, and able to go on without it."""
