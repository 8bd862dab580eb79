"""What `fednot-server` does with a state beside serving it: backup, restore and fsck."""
