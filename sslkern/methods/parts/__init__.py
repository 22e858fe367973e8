"""What methods share: teachers, heads, queues, prototypes, schedules, probes."""
