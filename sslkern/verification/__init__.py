"""What ``python -m sslkern verify`` compares: every operator in all its forms."""
