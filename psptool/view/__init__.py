"""Pictures and pages: the player, the contact sheet, attention on the body, the report of an evaluation."""
