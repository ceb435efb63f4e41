"""Contrastive losses, and the sum that training minimizes."""
