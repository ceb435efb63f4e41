"""Cross-entropy, contrastive loss and teacher loss, and the total loss that training minimizes."""
