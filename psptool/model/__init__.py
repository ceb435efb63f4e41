"""The PSP network: encoder, skeleton pyramid with polymerizing attention, pose branch, and classifier."""
