"""The PSP network: encoder, skeleton pyramid with polymerized attention, and the classifier around them."""
