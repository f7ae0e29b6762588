"""What shall be done, decided from what is so: pure functions, no I/O, no clock. `plan.plan` is the entrance."""
