"""Constants: joints, bones and joint groups of each topology; classes, clip names and protocols of each dataset."""
